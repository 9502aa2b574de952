"""Connect, stream and reconnect, one session after the other.

In: settings, counters, the shutdown request. Out: nothing; returns when stopped cleanly or caught up.
Never: a position carried from one session to the next. Each session checks the publication, the tables and the slot
again, starts at the slot's confirmed position, and has a ledger of its own.

Temporary errors (Unreachable) are retried, with a growing, jittered pause that a stop ends; all others end the relay. While
another process streams from the slot, the relay stands by. Once the relay has streamed, refused connections are retried as
well: passwords rotate, and a failover takes a moment.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_outbox.config.cures import complete
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import CatalogFinding, CdcOutboxError, StreamGap, Undelivered, Unreachable, join_cures
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective, message_max_bytes
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres import connect, publication, server, slot
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.catalog import Catalog, CatalogState
from cdc_outbox.relay.catalog_watch import CatalogWatch
from cdc_outbox.relay.claim_limit import ClaimLimit
from cdc_outbox.relay.loop import StreamLoop
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.retry import Retry
from cdc_outbox.relay.server_shutdown import ServerShutdown
from cdc_outbox.relay.session import BatchRejected, History, SessionParams
from cdc_outbox.relay.slot_start import SlotStart, Started
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

PREFLIGHT_SECONDS: Final = 60.0
"""For all queries of a preflight. The longest is the search for rows that a change of the publication may have hidden."""

NOT_IN_A_TABLE: Final = (
    "Events written as messages are in no table: those that were not delivered before are lost, so look there first "
    "(docs/how-to/outbox-without-a-table.md)"
)


class Supervisor:
    """All connections of one relay, one after the other."""

    def __init__(
        self, settings: Settings, counters: Counters, stop: Stop, publisher: Callable[..., Publisher] = Publisher
    ) -> None:
        """`publisher` makes a producer, as `Publisher` does.

        Raises ConfigurationError for a broken --topic or a refused Kafka property.
        """
        self._settings = settings
        self._counters = counters
        self._stop = stop
        properties = effective(settings.kafka(), settings)
        largest = message_max_bytes(properties)
        self._row_mappings = Mappings(settings, largest)
        self._policy = PoisonPolicy(settings.on_poison, settings.dead_letter_topic, largest, counters)
        self._publisher: Publisher | None = None
        self._make_publisher = publisher
        self._target: Lsn | None = None
        self._catalog = Catalog(settings)
        self._history = History()
        self._retry = Retry(settings, self._history)
        self._slot_start = SlotStart(
            settings, counters, stop, self._catalog, self._row_mappings, self._policy, self._history
        )

    def run(self) -> None:
        """Relay until stopped or caught up. Raises errors that a retry does not cure, and Undelivered."""
        try:
            while not self._attempt():
                pass
        except Stopped:
            self._stop_unconnected()
        except Unreachable:
            if not self._stop.requested:
                raise
            self._stop_unconnected()

    def recover(self, since: str | None = None) -> None:
        """Replace the slot, lost or not, as a first start does: once, without waiting for another process. `since`: a
        timestamp; older rows are not sent.

        Raises CdcOutboxError: SlotBusy while another process streams from the slot or replaces it, ConfigurationError for a
        slot of another kind. Raises Stopped when a stop is requested meanwhile; then the old slot is unchanged.
        """
        dsn = self._settings.dsn.reveal()
        catalog = self._preflight(dsn, recovering=True)
        if catalog.slot is not None:
            slot.require_usable(catalog.slot, lost_is_fine=True)
            slot.require_idle(catalog.slot)
        publisher = self._publisher = self._new_publisher()
        publisher.reach()
        session = ReplicationSession(dsn, self._stop)
        try:
            self._slot_start.recover(session, publisher, catalog.slot, since)
        finally:
            session.close()

    def _attempt(self) -> bool:
        """Run one session; True when nothing is left to do. Pauses after a temporary error; raises any other."""
        self._retry.begin()
        self._progress()
        try:
            self._run_session()
        except BatchRejected as rejected:
            self._isolate(rejected)
        except CdcOutboxError as error:
            self._failed(error)
            if self._stop.requested or not self._retry.heals(error):
                raise
            self._retry.log(error, producer_lost=self._publisher is None)
            self._pause(self._retry.pause(error))
        else:
            return True
        return False

    def _isolate(self, rejected: BatchRejected) -> None:
        """Let a new producer send the transactions with a rejected record again, record by record."""
        if self._stop.requested:
            raise Undelivered(
                f"stopped with refused records, which the next start sends again: {rejected}", code="undelivered"
            ) from rejected
        self._history.isolated_lsns |= rejected.lsns
        log.warning("delivery.isolating", error=str(rejected), transactions=len(self._history.isolated_lsns))
        self._drop_publisher()

    def _failed(self, error: CdcOutboxError) -> None:
        """Record the error that ended the session."""
        if self._settings.reads_messages and isinstance(error, StreamGap):
            error.cure = join_cures(error.cure, NOT_IN_A_TABLE)
        self._counters.note_error(str(error), error.code, complete(error.cure, self._settings))
        self._disconnected()

    def _run_session(self) -> None:
        dsn = self._settings.dsn.reveal()
        catalog = self._preflight(dsn)
        publisher = self._publisher = self._publisher or self._new_publisher()
        try:
            if not self._history.streamed:
                publisher.reach()
            self._progress()
            session = ReplicationSession(dsn, self._stop)
            self._retry.connecting, self._retry.session_open = False, True
            self._progress()
            self._stream(self._slot_start.start(session, publisher, catalog), publisher, catalog)
        finally:
            if publisher.broken:
                self._drop_publisher()

    def _stream(self, started: Started, publisher: Publisher, catalog: CatalogState) -> None:
        """Run the loop of a started stream to its end."""
        self._connected()
        history, counters, gap = self._history, self._counters, started.gap
        server_shutdown = ServerShutdown()
        claim_limit = ClaimLimit(UNSET if gap else catalog.lsn, tables=bool(self._settings.tables), gap=gap is not None)
        watch = CatalogWatch(self._settings, counters, self._catalog, claim_limit, server_shutdown)
        params = SessionParams(
            table_oids=catalog.table_oids,
            looked_at=catalog.lsn,
            confirmed=started.confirmed,
            shutdown_timeout=self._settings.shutdown_timeout,
            max_delay=self._settings.max_delay,
            policy=self._policy,
            target=self._target,
            isolated_lsns=history.isolated_lsns,
            native=publisher.native_reader(started.stream.pgconn_ptr, history.isolated_lsns),
            raise_findings=watch.raise_findings,
            gap=gap,
            server_shutdown=server_shutdown,
            claim_limit=claim_limit,
        )
        loop = StreamLoop(started.stream, publisher, self._row_mappings, counters, self._stop, params)
        delivered = counters.transactions
        try:
            with watch.running() if gap is None else contextlib.nullcontext():
                loop.run()
        except StreamGap as found:
            if found is not gap or self._settings.on_slot_lost != "recover":
                raise
            history.gap_streamed = True
            log.warning("slot.replaced", error=found)
            raise CatalogFinding.of(found) from found
        finally:
            history.settled = loop.settled
            self._slot_start.identity.streamed(Lsn(counters.confirmed_lsn), counters.transactions - delivered)

    def _preflight(self, dsn: str, *, recovering: bool = False) -> CatalogState:
        """Check the prerequisites of streaming, on a short connection. Raises ConfigurationError with the cure."""
        settings = self._settings
        with connect.open_connection(
            dsn, self._stop, lock_timeout=publication.LOCK_SECONDS, timeout=PREFLIGHT_SECONDS
        ) as connection:
            self._retry.connecting = False
            self._counters.database = server.place(connection)
            server.require_primary(connection)
            server.require_logical(connection)
            if settings.failover:
                slot.require_failover(connection)
            catalog = self._catalog.look(connection)
            if catalog.slot is not None and not self._history.streamed and not recovering:
                self._catalog.warn_of_older_rows(connection, catalog.slot)
        self._retry.connecting = True
        if settings.until_caught_up and self._target is None:
            self._target = catalog.lsn
        if not recovering:
            self._slot_start.require(catalog.slot)
        return catalog

    def _new_publisher(self) -> Publisher:
        """Make a producer. Its secrets are read again."""
        kafka = self._settings.kafka
        return self._make_publisher(effective(kafka(), self._settings), self._counters, reread=kafka)

    def _drop_publisher(self) -> None:
        """Abandon a producer that has a gap: a new one sends again from the slot's confirmed position."""
        if self._publisher is not None:
            self._publisher.abandon()
            self._publisher = None
            self._counters.reconnects_kafka += 1

    def _stop_unconnected(self) -> None:
        """Stop without a stream. Raises Undelivered when the last session left events unconfirmed."""
        if not self._history.settled:
            raise Undelivered(
                "stopped without a connection, with events that are not confirmed: they will be sent again by the next start",
                code="undelivered",
            )

    def _connected(self) -> None:
        counters = self._counters
        counters.reconnects_postgres += int(self._history.streamed)
        self._history.streamed = True
        counters.state = State.STREAMING
        counters.postgres_connected = True
        counters.clear_error()
        log.info("streaming", slot=self._settings.slot, publication=self._settings.publication)

    def _disconnected(self) -> None:
        counters = self._counters
        counters.postgres_connected = False
        if counters.state is not State.DRAINING:
            counters.state = State.RECONNECTING if self._history.streamed else State.STARTING
        if self._history.streamed and counters.oldest_unacknowledged_timestamp is None:
            counters.oldest_unacknowledged_timestamp = time.time()

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._progress()
            if self._stop.wait(min(1.0, until - now)):
                raise Stopped

    def _progress(self) -> None:
        """Record that the relay is alive although no loop runs."""
        self._counters.waits(time.monotonic())
