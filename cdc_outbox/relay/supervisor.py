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
import dataclasses
import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import (
    AccessRefused,
    CannotConnect,
    CatalogFinding,
    CdcOutboxError,
    ConfigurationError,
    SlotBusy,
    StreamGap,
    Undelivered,
    Unreachable,
)
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective, message_max_bytes
from cdc_outbox.lsn import UNSET, Lsn, LsnRange, format_lsn
from cdc_outbox.postgres import connect, publication, server, slot
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.backoff import Backoff
from cdc_outbox.relay.catalog import Catalog, CatalogState
from cdc_outbox.relay.catalog_watch import CatalogWatch
from cdc_outbox.relay.claim_limit import ClaimLimit
from cdc_outbox.relay.loop import BatchRejected, SessionParams, StreamLoop
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.server_shutdown import ServerShutdown
from cdc_outbox.relay.snapshot import FirstStart
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

STANDBY_SECONDS: Final = 0.5
"""Between two attempts to take a busy slot: when its holder dies, a standby takes over within a second."""

PREFLIGHT_SECONDS: Final = 60.0
"""For all queries of a preflight. The longest is the search for rows that a change of the publication may have hidden."""

GOOD_SECONDS: Final = 10.0
"""A session that lasted this long resets the pause between attempts."""

MADE_BY_MIGRATIONS: Final = frozenset({"table-missing", "publication-missing"})
"""Codes of errors that a first start waits out with --wait-for-table."""

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
        self._isolated_lsns: frozenset[LsnRange] = frozenset()
        self._target: Lsn | None = None
        self._catalog = Catalog(settings)
        self._streamed = False
        self._settled = True
        """Whether the last connection left nothing unconfirmed."""
        self._identity = slot.SlotIdentity()
        self._gap_streamed = False
        """Whether a session has sent all that the slot still has before a gap: the table may not have these rows any more."""
        self._backoff = Backoff()
        self._connecting = True
        """Whether a connection is being opened: only then may a refused login pass by itself."""
        self._session_open = False
        """Whether the present attempt has its replication session: before that, every error is one of waiting."""
        self._first_attempt = time.monotonic()
        self._missing_since: float | None = None
        """When a first start found for the first time that the table or the publication is missing."""
        self._missing = ""

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
            if not slot.lock_creation(session, self._settings.slot):
                raise self._made_by_another("wait until it is done")
            self._first_start(session, publisher, replace=catalog.slot is not None, since=since)
        finally:
            session.close()

    def _attempt(self) -> bool:
        """Run one session; True when nothing is left to do. Pauses after a temporary error; raises any other."""
        began = time.monotonic()
        self._connecting, self._session_open = True, False
        self._counters.last_turn_monotonic = (
            None  # the loop does not run before the stream has started, however long it takes
        )
        try:
            self._run_session()
        except BatchRejected as rejected:
            self._isolate(rejected)
        except CdcOutboxError as error:
            self._failed(error)
            if not self._heals(error):
                raise
            self._log_retry(error)
            if time.monotonic() - began > GOOD_SECONDS:
                self._backoff.reset()
            pause = self._backoff.next()
            self._pause(min(pause, self._table_seconds_left()) if self._is_missing(error) else pause)
        else:
            return True
        return False

    def _isolate(self, rejected: BatchRejected) -> None:
        """Let a new producer send the transactions with a rejected record again, record by record."""
        if self._stop.requested:
            raise Undelivered(
                f"stopped with refused records, which the next start sends again: {rejected}", code="undelivered"
            ) from rejected
        self._isolated_lsns |= rejected.lsns
        log.warning("delivery.isolating", error=str(rejected), transactions=len(self._isolated_lsns))
        self._drop_publisher()

    def _failed(self, error: CdcOutboxError) -> None:
        """Record the error that ended the session."""
        if self._settings.reads_messages and isinstance(error, StreamGap) and NOT_IN_A_TABLE not in error.cure:
            error.cure += f". {NOT_IN_A_TABLE}"
        self._counters.note_error(str(error), error.code, error.cure)
        self._disconnected()

    def _run_session(self) -> None:
        dsn = self._settings.dsn.reveal()
        catalog = self._preflight(dsn)
        publisher = self._publisher = self._publisher or self._new_publisher()
        if not self._streamed:
            publisher.reach()
        session = ReplicationSession(dsn, self._stop)
        try:
            self._connecting, self._session_open = False, True
            replace = catalog.gap is not None and self._gap_streamed
            if catalog.slot is None or catalog.slot.wal_status == slot.LOST or replace:
                session = self._make_slot(session, publisher, replace=replace)
                catalog = dataclasses.replace(catalog, gap=None)
            try:
                stream, confirmed = self._start(session)
            except StreamGap as other_slot:
                if self._settings.on_slot_lost != "recover":
                    raise
                log.warning("slot.replaced", error=other_slot)
                session = self._make_slot(session, publisher, replace=True)
                stream, confirmed = self._start(session)
        except BaseException:
            session.close()
            self._drop_broken_publisher()
            raise
        self._connected()
        server_shutdown = ServerShutdown()
        gap = catalog.gap
        claim_limit = ClaimLimit(UNSET if gap else catalog.lsn, tables=bool(self._settings.tables), gap=gap is not None)
        watch = CatalogWatch(self._settings, self._counters, self._catalog, claim_limit, server_shutdown)
        params = SessionParams(
            table_oids=catalog.table_oids,
            looked_at=catalog.lsn,
            confirmed=confirmed,
            shutdown_timeout=self._settings.shutdown_timeout,
            max_delay=self._settings.max_delay,
            policy=self._policy,
            target=self._target,
            isolated_lsns=self._isolated_lsns,
            native=publisher.native_reader(stream.pgconn_ptr, self._isolated_lsns),
            raise_findings=watch.raise_findings,
            gap=gap,
            server_shutdown=server_shutdown,
            claim_limit=claim_limit,
        )
        loop = StreamLoop(stream, publisher, self._row_mappings, self._counters, self._stop, params)
        delivered = self._counters.transactions
        try:
            with watch.running() if gap is None else contextlib.nullcontext():
                loop.run()
        except StreamGap as found:
            if found is not gap or self._settings.on_slot_lost != "recover":
                raise
            self._gap_streamed = True
            log.warning("slot.replaced", error=found)
            raise CatalogFinding(found.message, code=found.code, cure=found.cure) from found
        finally:
            self._settled = loop.settled
            self._identity.streamed(Lsn(self._counters.confirmed_lsn), self._counters.transactions - delivered)
            self._drop_broken_publisher()

    def _preflight(self, dsn: str, *, recovering: bool = False) -> CatalogState:
        """Check the prerequisites of streaming, on a short connection. Raises ConfigurationError with the cure."""
        settings = self._settings
        with connect.open_connection(
            dsn, self._stop, lock_timeout=publication.LOCK_SECONDS, timeout=PREFLIGHT_SECONDS
        ) as connection:
            self._connecting = False
            self._counters.database = server.place(connection)
            server.require_primary(connection)
            server.require_logical(connection)
            if settings.failover:
                slot.require_failover(connection)
            catalog = self._catalog.look(connection)
            if catalog.slot is not None and not self._streamed and not recovering:
                self._catalog.warn_of_older_rows(connection, catalog.slot)
        self._connecting = True
        if settings.until_caught_up and self._target is None:
            self._target = catalog.lsn
        if not recovering:
            self._require_slot(catalog.slot)
        return catalog

    def _require_slot(self, found: slot.SlotInfo | None) -> None:
        """Raise ConfigurationError unless the slot can be streamed from, or may be created."""
        settings = self._settings
        recovers = settings.on_slot_lost == "recover"
        if found is not None:
            slot.require_usable(found, lost_is_fine=recovers)
        elif self._streamed and not recovers:
            raise StreamGap(
                f"slot {settings.slot} is gone: it was dropped while the relay was running",
                code="slot-gone",
                cure="cdc-outbox slot recover, or simply a new start: both make a new slot and first send every row that is "
                "still in the table; nothing is skipped, and what was delivered comes again with the same ids",
                slot=settings.slot,
            )
        elif not self._streamed and not settings.create_slot:
            raise slot.missing(settings.slot)

    def _make_slot(
        self, session: ReplicationSession, publisher: Publisher, *, replace: bool = False
    ) -> ReplicationSession:
        """Create the slot, or replace a lost one: one relay at a time; the others stand by until the slot exists.

        `replace`: replace also a slot that is not lost. Returns a new session: the old one is closed, which releases the lock
        and drops the temporary slot.
        """
        name = self._settings.slot
        waited = False
        while not slot.lock_creation(session, name):
            self._stand_by(self._made_by_another("leave out --on-slot-busy exit: then this one stands by"))
            waited = True
        found = slot.inspect(session, name)
        if found is None or found.wal_status == slot.LOST or (replace and not waited):
            self._first_start(session, publisher, replace=found is not None)
        else:
            log.info("slot.exists", slot=name)
        if waited:
            self._forget_old_slot()
        session.close()
        return ReplicationSession(self._settings.dsn.reveal(), self._stop)

    def _made_by_another(self, cure: str) -> SlotBusy:
        name = self._settings.slot
        return SlotBusy(
            f"another process makes slot {name}, and sends the rows of the table first",
            code="first-start-busy",
            cure=cure,
            slot=name,
        )

    def _first_start(
        self, session: ReplicationSession, publisher: Publisher, *, replace: bool, since: str | None = None
    ) -> None:
        self._counters.state = State.RECONNECTING if self._streamed else State.STARTING
        first = FirstStart(
            self._settings, session, publisher, self._row_mappings, self._policy, self._counters, self._stop
        )
        try:
            first.run(replace=replace, since=since)
        except (Stopped, Unreachable) as error:
            if first.expected and self._stop.requested:
                raise Undelivered(
                    "stopped in the middle of a first start: it begins again with the next", code="undelivered"
                ) from error
            raise
        self._forget_old_slot()

    def _forget_old_slot(self) -> None:
        self._identity.forget()
        self._catalog.slot_replaced()
        self._gap_streamed = False

    def _start(self, session: ReplicationSession) -> tuple[ReplicationStream, Lsn]:
        """Start to stream; stand by while the slot is busy. Returns the stream and the slot's confirmed LSN.

        Raises SlotBusy with --on-slot-busy exit, StreamGap when the slot is not the one of the sessions before.
        """
        settings = self._settings
        while True:
            confirmed = self._require_same_slot(session)
            try:
                if settings.failover:
                    slot.make_failover(session, settings.slot)
                stream = ReplicationStream.start(
                    session,
                    self._stop,
                    slot=settings.slot,
                    publication=settings.publication,
                    tables=bool(settings.tables),
                    messages=settings.reads_messages,
                )
            except SlotBusy as error:
                self._settled = True  # the process that has the slot sends the events that this one left unconfirmed
                cure = "stop the relay that streams from it, or leave out --on-slot-busy exit: then this one stands by"
                self._stand_by(SlotBusy(error.message, cure=cure, slot=settings.slot))
            else:
                return stream, confirmed

    def _require_same_slot(self, session: ReplicationSession) -> Lsn:
        """Raise StreamGap when the slot is not the one of the sessions before. Returns its confirmed LSN."""
        name = self._settings.slot
        found = slot.inspect(session, name)
        if found is None:
            raise Unreachable(
                f"slot {name} was dropped a moment ago", code="slot-dropped", cure="the relay looks again", slot=name
            )
        timeline = server.timeline(session)
        moved = self._identity.require_same(
            found, timeline, lambda before: server.switch_point(session, before, timeline)
        )
        position = self._identity.known
        if moved:
            log.info("slot.moved", slot=name, lsn=format_lsn(position))
        if (
            position < self._counters.confirmed_lsn
        ):  # another timeline: its LSNs are not comparable with the earlier ones
            self._counters.received_lsn = self._counters.confirmed_lsn = position
            self._counters.slot = None
        return found.confirmed_flush_lsn or UNSET

    def _stand_by(self, busy: SlotBusy) -> None:
        """Wait STANDBY_SECONDS for a busy slot. Raises `busy` with --on-slot-busy exit, Stopped on a stop."""
        if self._settings.on_slot_busy == "exit":
            raise busy
        counters = self._counters
        if counters.state is not State.STANDBY or counters.last_error != busy.message:
            log.info("standby", slot=self._settings.slot, error=busy.message)
        counters.state = State.STANDBY
        counters.note_error(busy.message, busy.code)
        counters.postgres_connected = True
        counters.last_turn_monotonic = time.monotonic()
        if self._stop.wait(STANDBY_SECONDS):
            raise Stopped

    def _new_publisher(self) -> Publisher:
        """Make a producer. Its secrets are read again."""
        kafka = self._settings.kafka
        return self._make_publisher(effective(kafka(), self._settings), self._counters, reread=kafka)

    def _drop_broken_publisher(self) -> None:
        if self._publisher is not None and self._publisher.broken:
            self._drop_publisher()

    def _drop_publisher(self) -> None:
        """Abandon a producer that has a gap: a new one sends again from the slot's confirmed position."""
        if self._publisher is not None:
            self._publisher.abandon()
            self._publisher = None
            self._counters.reconnects_kafka += 1

    def _stop_unconnected(self) -> None:
        """Stop without a stream. Raises Undelivered when the last session left events unconfirmed."""
        if not self._settled:
            raise Undelivered(
                "stopped without a connection, with events that are not confirmed: they will be sent again by the next start",
                code="undelivered",
            )

    def _connected(self) -> None:
        counters = self._counters
        counters.reconnects_postgres += int(self._streamed)
        self._streamed = True
        counters.state = State.STREAMING
        counters.postgres_connected = True
        counters.clear_error()
        log.info("streaming", slot=self._settings.slot, publication=self._settings.publication)

    def _disconnected(self) -> None:
        counters = self._counters
        counters.postgres_connected = False
        if counters.state is not State.DRAINING:
            counters.state = State.RECONNECTING if self._streamed else State.STARTING
        if self._streamed and counters.oldest_unacknowledged_timestamp is None:
            counters.oldest_unacknowledged_timestamp = time.time()

    def _heals(self, error: BaseException) -> bool:
        """Whether a retry may cure the error."""
        if self._stop.requested:
            return False
        if isinstance(error, Unreachable):
            limit = self._settings.startup_timeout
            return self._streamed or not limit or time.monotonic() - self._first_attempt < limit
        if self._is_missing(error):
            return self._table_seconds_left() > 0
        return self._streamed and self._connecting and isinstance(error, (AccessRefused, CannotConnect))

    def _is_missing(self, error: BaseException) -> bool:
        """Whether a first start lacks what a migration creates. A slot that has missed rows (StreamGap) is no first start."""
        if self._streamed or isinstance(error, StreamGap) or not isinstance(error, ConfigurationError):
            return False
        return error.code in MADE_BY_MIGRATIONS

    def _table_seconds_left(self) -> float:
        """Seconds that a first start goes on to wait for the table, counted from when it was found missing."""
        now = time.monotonic()
        if self._missing_since is None:
            self._missing_since = now
        return max(0.0, self._missing_since + self._settings.wait_for_table - now)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self._counters.last_turn_monotonic = now
            if self._stop.wait(min(1.0, until - now)):
                raise Stopped

    def _log_retry(self, error: CdcOutboxError) -> None:
        if self._is_missing(error):
            if self._missing != str(error):
                self._missing = str(error)
                log.warning("waiting", error=error, seconds=round(self._table_seconds_left()))
        elif not self._session_open:
            log.warning("waiting", error=error)
        elif self._publisher is None:
            log.warning("producer.failed", error=error)
        else:
            log.warning("postgres.disconnected", error=error)
