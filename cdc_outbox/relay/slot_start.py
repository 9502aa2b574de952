"""From a walsender session to a started stream: the slot is created, replaced, waited for, and recognized.

In: a session, a publisher, the catalog. Out: a started stream; a new slot with every row of the table delivered.
Never: another slot by the same name taken for the slot of the sessions before; two relays that create the same slot.

PostgreSQL manual: 47.2.3 Replication Slots; 9.28.10 Advisory Lock Functions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import SlotBusy, StreamGap, Undelivered, Unreachable
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import UNSET, Lsn, format_lsn
from cdc_outbox.postgres import relayed_tables, server, slot
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.catalog import Catalog, CatalogState
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.session import History
from cdc_outbox.relay.snapshot import FirstStart
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

STANDBY_SECONDS: Final = 0.5
"""Between two attempts to take a busy slot: when its holder ends, a standby takes over within a second."""


@dataclass(frozen=True, slots=True)
class Started:
    """A started stream."""

    stream: ReplicationStream
    confirmed: Lsn
    """The slot's confirmed LSN. Unset for a slot without one."""
    gap: StreamGap | None
    """The gap of the catalog, unless a new slot was created, which closed it."""


class SlotStart:
    """Starts the streams of one relay, one session after the other."""

    def __init__(
        self,
        settings: Settings,
        counters: Counters,
        stop: Stop,
        catalog: Catalog,
        mappings: Mappings,
        policy: PoisonPolicy,
        history: History,
    ) -> None:
        self._settings = settings
        self._counters = counters
        self._stop = stop
        self._catalog = catalog
        self._row_mappings = mappings
        self._policy = policy
        self._history = history
        self.identity = slot.SlotIdentity()
        self._creating_pid: int | None = None
        """The server process of the last session that made a slot."""

    def start(self, session: ReplicationSession, publisher: Publisher, state: CatalogState) -> Started:
        """Create or replace the slot where that is due, then start to stream. Closes `session` unless the stream has it.

        Raises CdcOutboxError: SlotBusy with --on-slot-busy exit, StreamGap when the slot is not the one of the sessions before.
        Raises Stopped on a stop.
        """
        gap = state.gap
        try:
            replace = gap is not None and self._history.gap_streamed
            if state.slot is None or state.slot.wal_status == slot.LOST or replace:
                session, gap = self._make_slot(session, publisher, replace=replace), None
            try:
                return Started(*self._start(session, state.table_oids), gap)
            except StreamGap as other_slot:
                if self._settings.on_slot_lost != "recover":
                    raise
                log.warning("slot.replaced", error=other_slot)
                session = self._make_slot(session, publisher, replace=True)
                return Started(*self._start(session, state.table_oids), None)
        except BaseException:
            session.close()
            raise

    def require(self, found: slot.SlotInfo | None) -> None:
        """Raise ConfigurationError unless the slot can be streamed from, or may be created."""
        settings, streamed = self._settings, self._history.streamed
        recovers = settings.on_slot_lost == "recover"
        if found is not None:
            slot.require_usable(found, lost_is_fine=recovers)
        elif streamed and not recovers:
            raise StreamGap(
                f"slot {settings.slot} is gone: it was dropped while the relay was running",
                code="slot-gone",
                cure="cdc-outbox slot recover, or simply a new start: both make a new slot and first send every row that is "
                "still in the table; nothing is skipped, and what was delivered comes again with the same ids",
                slot=settings.slot,
            )
        elif not streamed and not settings.create_slot:
            raise slot.missing(settings.slot)

    def recover(
        self, session: ReplicationSession, publisher: Publisher, old: slot.SlotInfo | None, since: str | None
    ) -> None:
        """Replace the slot once, as a first start does. Raises SlotBusy while another process replaces it."""
        if not slot.lock_creation(session, self._settings.slot):
            raise self._made_by_another("wait until it is done")
        self._first_start(session, publisher, replace=old is not None, since=since)

    def _make_slot(
        self, session: ReplicationSession, publisher: Publisher, *, replace: bool = False
    ) -> ReplicationSession:
        """Create the slot, or replace a lost one: one relay at a time; the others stand by until the slot exists.

        `replace`: replace also a slot that is not lost. Returns a new session: the old one is closed, which releases the lock
        and drops the temporary slot.
        """
        name = self._settings.slot
        waited = False
        while not slot.lock_creation(session, name, self._creating_pid):
            self._stand_by(self._made_by_another("leave out --on-slot-busy exit: then this one stands by"))
            waited = True
        self._creating_pid = session.pgconn.backend_pid
        found = slot.inspect(session, name)
        if found is None or found.wal_status == slot.LOST or (replace and not waited):
            self._first_start(session, publisher, replace=found is not None)
        else:
            log.info("slot.exists", slot=name)
            self._forget_old_slot()  # another process has made it since the preflight, and sent the rows of the table
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
        self._counters.state = State.RECONNECTING if self._history.streamed else State.STARTING
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
        self.identity.forget()
        self._catalog.slot_replaced()
        self._history.gap_streamed = False

    def _start(self, session: ReplicationSession, table_oids: Iterable[int]) -> tuple[ReplicationStream, Lsn]:
        """Start to stream these tables; stand by while the slot is busy. Returns the stream and the slot's confirmed LSN."""
        relayed_tables.declare(session, table_oids)
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
                self._history.settled = True  # the process that has the slot sends what this one left unconfirmed
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
        moved = self.identity.require_same(
            found, timeline, lambda before: server.switch_point(session, before, timeline)
        )
        position = self.identity.known
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
        news = counters.state is not State.STANDBY or counters.last_error != busy.message
        counters.state = State.STANDBY
        counters.note_error(busy.message, busy.code)
        counters.postgres_connected = True
        if news:
            log.info("standby", slot=self._settings.slot, error=busy.message)
        counters.waits(time.monotonic())
        if self._stop.wait(STANDBY_SECONDS):
            raise Stopped
