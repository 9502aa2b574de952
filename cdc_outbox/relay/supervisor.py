"""Connect, stream, and again: a relay that outlives its connections.

In: settings, counters, the wish to stop. Out: nothing; returns when stopped cleanly or caught up.
Never: a position carried from one connection to the next. Each generation looks at the publication, the tables and the slot
afresh, begins where the slot stands, and has a ledger of its own.

What a restart would heal is waited for here (Unreachable, with a growing, jittered pause that a stop ends); what it would
not heal ends the relay. A slot that somebody else streams from means standby. After the relay has streamed once, a refused
login is waited for as well: passwords rotate, and failovers pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog
import tenacity

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import (
    AccessRefused,
    CannotConnect,
    CdcOutboxError,
    SlotBusy,
    StreamGap,
    Undelivered,
    Unreachable,
)
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective, message_max_bytes
from cdc_outbox.lsn import UNSET, Lsn, LsnRange, format_lsn
from cdc_outbox.postgres import connect, publication, server, slot
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.catalog_watch import CatalogWatch
from cdc_outbox.relay.loop import BatchRejected, SessionParams, StreamLoop
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.server_shutdown import ServerShutdown
from cdc_outbox.relay.snapshot import FirstStart, somebody_else_was_first
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

RETRY_SECONDS: Final = (0.2, 15.0)
"""The first pause and the longest: a server restart is over in seconds, and an outage must not become a storm."""

JITTER_SECONDS: Final = 0.5
"""Added to each, at random: relays that lost the same server do not come back in step."""

STANDBY_SECONDS: Final = 0.5
"""Between two tries for a busy slot: a holder that died is followed within a second."""

GOOD_SECONDS: Final = 10.0
"""A generation that lasted this long makes the next pause short again."""

NOT_IN_A_TABLE: Final = (
    "Events written as messages are in no table: those that were not delivered before are lost, so look there first "
    "(docs/how-to/outbox-without-a-table.md)"
)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """What the catalog says before a generation begins."""

    table_oids: dict[int, TableName]
    lsn: Lsn
    """Where the server was when it said so."""
    slot: slot.SlotInfo | None
    """None when it has to be made."""


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
        self._isolated_lsns: frozenset[LsnRange] = frozenset()
        self._target: Lsn | None = None
        self._table_oids: dict[int, TableName] = {}
        self._streamed = False
        self._settled = True
        """Whether the last connection left nothing unconfirmed."""
        self._shared = False
        """Whether somebody else was seen to stream from the slot: then it may have moved without us."""
        self._stood_at = UNSET
        """Where the slot stood when we first saw it. To notice a slot that is not the same any more; never reported."""
        self._connecting = True
        self._first_attempt = self._began = time.monotonic()

    def run(self) -> None:
        """Relay until stopped or caught up. Raises what waiting does not heal, or Undelivered."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._heals),
            wait=tenacity.wait_exponential(multiplier=RETRY_SECONDS[0], max=RETRY_SECONDS[1])
            + tenacity.wait_random(0, JITTER_SECONDS),
            sleep=self._pause,
            before_sleep=self._say,
            reraise=True,
        )
        try:
            while not retrying(self._attempt):
                pass
        except Stopped:
            self._stop_unconnected()
        except Unreachable:
            if not self._stop.requested:
                raise
            self._stop_unconnected()

    def recover(self) -> None:
        """Replace the slot, lost or not, by the way of a first start: once, without waiting for anybody.

        Raises our errors, SlotBusy while somebody streams from it, ConfigurationError when it is none of ours; Stopped when a
        stop is requested meanwhile. Then the old slot is as it was.
        """
        dsn = self._settings.dsn.reveal()
        around = self._preflight(dsn, recovering=True)
        if around.slot is not None:
            slot.require_usable(around.slot, lost_is_fine=True)
            slot.require_idle(around.slot)
        publisher = self._publisher = self._new_publisher()
        publisher.reach()
        session = ReplicationSession(dsn, self._stop)
        try:
            self._first_start(session, publisher, replace=around.slot is not None)
        finally:
            session.close()

    def _attempt(self) -> bool:
        """One generation; True when there is nothing more to do. A long one ends without its error: a short pause follows."""
        self._began = time.monotonic()
        self._connecting = True
        self._counters.last_turn_monotonic = None  # no loop turns before the stream is there, however long that takes
        try:
            self._run_session()
        except BatchRejected as found:
            if self._stop.requested:
                raise Undelivered(f"stopped with refused records, which the next start sends again: {found}") from found
            self._isolated_lsns |= found.lsns
            log.warning("delivery.isolating", error=str(found), transactions=len(self._isolated_lsns))
            self._drop_publisher()
            return False
        except CdcOutboxError as error:
            if self._settings.reads_messages and isinstance(error, StreamGap) and NOT_IN_A_TABLE not in error.cure:
                error.cure += f". {NOT_IN_A_TABLE}"
            self._counters.last_error = str(error)
            self._disconnected()
            if self._heals(error) and time.monotonic() - self._began > GOOD_SECONDS:
                self._say_error(error)
                self._pause(RETRY_SECONDS[0])
                return False
            raise
        return True

    def _run_session(self) -> None:
        dsn = self._settings.dsn.reveal()
        around = self._preflight(dsn)
        publisher = self._publisher = self._publisher or self._new_publisher()
        if not self._streamed:
            publisher.reach()
        session = ReplicationSession(dsn, self._stop)
        try:
            self._connecting = False
            if around.slot is None or around.slot.wal_status == slot.LOST:
                self._first_start(session, publisher, replace=around.slot is not None)
                session.close()
                session = ReplicationSession(dsn, self._stop)
            stream = self._start(session)
        except BaseException:
            session.close()
            self._drop_broken_publisher()
            raise
        self._connected()
        server_shutdown = ServerShutdown()
        watch = CatalogWatch(self._settings, self._counters, around.table_oids, server_shutdown)
        params = SessionParams(
            table_oids=around.table_oids,
            looked_at=around.lsn,
            confirmed=(around.slot and around.slot.confirmed_flush_lsn) or UNSET,
            shutdown_timeout=self._settings.shutdown_timeout,
            max_delay=self._settings.max_delay,
            policy=self._policy,
            target=self._target,
            isolated_lsns=self._isolated_lsns,
            native=publisher.native_reader(stream.pgconn_ptr, self._isolated_lsns),
            raise_findings=watch.raise_findings,
            server_shutdown=server_shutdown,
        )
        relay = StreamLoop(stream, publisher, self._row_mappings, self._counters, self._stop, params)
        try:
            with watch.running():
                relay.run()
        finally:
            self._settled = relay.settled
            self._drop_broken_publisher()

    def _preflight(self, dsn: str, *, recovering: bool = False) -> CatalogState:
        """Check what must be so before streaming, over a short connection. Raises ConfigurationError with the cure."""
        settings = self._settings
        with connect.open_connection(dsn, self._stop, lock_timeout=publication.LOCK_SECONDS) as connection:
            self._counters.database = server.place(connection)
            server.require_primary(connection)
            server.require_logical(connection)
            if settings.failover:
                slot.require_failover(connection)
            tables = publication.find_tables(connection, settings.tables, self._table_oids, settings.publication)
            current = server.current_lsn(connection)
            published = publication.inspect(connection, settings.publication)
            found = slot.inspect(connection, settings.slot)
            publication.require_published(
                published, settings.publication, tables, older_slot=found is not None, own=settings.shard_filter
            )
            if found is not None and self._was_served_by_another(connection, found):
                self._shared = True
                log.info(
                    "slot.moved",
                    slot=settings.slot,
                    lsn=found.confirmed_flush_lsn and format_lsn(found.confirmed_flush_lsn),
                )
        if settings.until_caught_up and self._target is None:
            self._target = current
        if not recovering:
            self._require_slot(found)
        self._table_oids = {table.oid: table.name for table in tables}
        return CatalogState(self._table_oids, current, found)

    def _require_slot(self, found: slot.SlotInfo | None) -> None:
        """Raise ConfigurationError unless the slot can be streamed from, or may be made; StreamGap when it is not the same."""
        settings = self._settings
        recovers = settings.on_slot_lost == "recover"
        if found is not None:
            slot.require_usable(found, lost_is_fine=recovers)
            self._require_same_slot(found)
        elif self._streamed and not recovers:
            raise StreamGap(
                f"slot {settings.slot} is gone: somebody dropped it while the relay was running",
                cure="cdc-outbox slot recover, or simply a new start: both make a new slot and first send every row that is "
                "still in the table; nothing is skipped, and what was delivered comes again with the same ids",
                slot=settings.slot,
            )
        elif not self._streamed and not settings.create_slot:
            raise slot.missing(settings.slot)

    def _known(self) -> Lsn:
        """How far the slot can stand if it is the one that we know, and nobody else streamed from it."""
        return Lsn(max(self._stood_at, self._counters.confirmed_lsn))

    def _was_served_by_another(self, connection: connect.Connection, found: slot.SlotInfo) -> bool:
        """Whether a slot that has moved without us did so since another relay took over: it is in use, or what was decoded
        from it includes what we received. A slot that was made again has decoded less.
        """
        if not self._streamed or (found.confirmed_flush_lsn or UNSET) <= self._known():
            return False
        return found.active or slot.decoded_transactions(connection, found.name) >= max(1, self._counters.transactions)

    def _require_same_slot(self, found: slot.SlotInfo) -> None:
        """Raise StreamGap when the slot stands where nobody acknowledged anything: it is another one."""
        confirmed = found.confirmed_flush_lsn or UNSET
        known = self._known()
        if self._streamed and not self._shared and known != UNSET and confirmed > known:
            raise StreamGap(
                f"slot {found.name} stands at {format_lsn(confirmed)}, but {format_lsn(known)} is the last that was "
                "acknowledged: somebody dropped it and made it again, or advanced it, and what lies between is not streamed",
                cure="cdc-outbox slot recover sends what is in the table; if another relay has streamed from the slot "
                "meanwhile, nothing is missing: start again",
                slot=found.name,
                lsn=format_lsn(confirmed),
            )
        self._stood_at = max(self._stood_at, confirmed)

    def _first_start(self, session: ReplicationSession, publisher: Publisher, *, replace: bool) -> None:
        first = FirstStart(
            self._settings, session, publisher, self._row_mappings, self._policy, self._counters, self._stop
        )
        try:
            first.run(replace=replace)
        except (Stopped, Unreachable) as error:
            if first.expected and self._stop.requested:
                raise Undelivered("stopped in the middle of a first start: it begins again with the next") from error
            raise
        except CdcOutboxError as error:
            if not somebody_else_was_first(error):
                raise
            log.info("slot.exists", slot=self._settings.slot)
        else:
            self._stood_at = max(self._stood_at, first.begins_at)

    def _start(self, session: ReplicationSession) -> ReplicationStream:
        """Start to stream; while the slot is busy, wait for it. Raises SlotBusy with --on-slot-busy exit."""
        settings = self._settings
        told = None
        while True:
            try:
                if settings.failover:
                    slot.make_failover(session, settings.slot)
                return ReplicationStream.start(
                    session,
                    self._stop,
                    slot=settings.slot,
                    publication=settings.publication,
                    tables=bool(settings.tables),
                    messages=settings.reads_messages,
                )
            except SlotBusy as error:
                if settings.on_slot_busy == "exit":
                    cure = (
                        "stop the relay that streams from it, or leave out --on-slot-busy exit: then this one stands by"
                    )
                    raise SlotBusy(error.message, cure=cure, slot=settings.slot) from error
                self._shared = self._settled = True  # whoever has the slot sends what we left unconfirmed
                if told != error.message:
                    told = error.message
                    log.info("standby", slot=settings.slot, error=error.message)
                self._counters.state = State.STANDBY
                self._counters.postgres_connected = True
                self._counters.last_turn_monotonic = time.monotonic()
                if self._stop.wait(STANDBY_SECONDS):
                    raise Stopped from None

    def _new_publisher(self) -> Publisher:
        """Make a producer, with secrets read again."""
        kafka = self._settings.kafka
        return self._make_publisher(effective(kafka(), self._settings), self._counters, reread=kafka)

    def _drop_broken_publisher(self) -> None:
        if self._publisher is not None and self._publisher.broken:
            self._drop_publisher()

    def _drop_publisher(self) -> None:
        """Let go of a producer that has a gap: a new one sends again from where the slot stands."""
        if self._publisher is not None:
            self._publisher.abandon()
            self._publisher = None
            self._counters.reconnects_kafka += 1

    def _stop_unconnected(self) -> None:
        """Stopped while there was no stream: is there something that the last one left unconfirmed?"""
        if not self._settled:
            raise Undelivered(
                "stopped without a connection, with events that are not confirmed: they will be sent again by the next start"
            )

    def _connected(self) -> None:
        counters = self._counters
        counters.reconnects_postgres += int(self._streamed)
        self._streamed = True
        counters.state = State.STREAMING
        counters.postgres_connected = True
        counters.last_error = None
        log.info("streaming", slot=self._settings.slot, publication=self._settings.publication)

    def _disconnected(self) -> None:
        counters = self._counters
        counters.postgres_connected = False
        if counters.state is not State.DRAINING:
            counters.state = State.RECONNECTING if self._streamed else State.STARTING
        if self._streamed and counters.oldest_unacknowledged_timestamp is None:
            counters.oldest_unacknowledged_timestamp = time.time()

    def _heals(self, error: BaseException) -> bool:
        """Whether waiting may heal it."""
        if self._stop.requested:
            return False
        if isinstance(error, Unreachable):
            limit = self._settings.startup_timeout
            return self._streamed or not limit or time.monotonic() - self._first_attempt < limit
        return self._streamed and self._connecting and isinstance(error, (AccessRefused, CannotConnect))

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._counters.last_turn_monotonic = now
            if self._stop.wait(min(1.0, until - now)):
                raise Stopped

    def _say(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, CdcOutboxError):
            self._say_error(error)

    def _say_error(self, error: CdcOutboxError) -> None:
        if self._connecting:
            log.warning("waiting", error=error)
        elif self._publisher is None:
            log.warning("producer.failed", error=error)
        else:
            log.warning("postgres.disconnected", error=error)
