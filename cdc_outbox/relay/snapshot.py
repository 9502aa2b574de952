"""A first start: the rows that are in the table already, then a slot that goes on exactly where they end.

In: a walsender session, a publisher, mappings. Out: every row of a snapshot delivered, and the permanent slot.
Never: state of our own, a gap, or a slot left behind by a start that ended early.

A temporary slot exports a snapshot that sees exactly what the slot will not send. The rows are read in that snapshot and
delivered; only then the temporary slot is copied to the permanent name, at the same position. Killed half way, the temporary
slot is gone with its session, and the next start begins again: the same events, with the same ids.

Recovery from a lost slot is the same, with the old slot dropped just before the copy: killed in between, there is no slot,
and the next start is a first start.

PostgreSQL manual: 54.4 CREATE_REPLICATION_SLOT (SNAPSHOT 'export'); 9.28.6 pg_copy_logical_replication_slot.
"""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.identifiers import NAME_BYTES, TableName
from cdc_outbox.kafka.errors import caused_by_record, failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import UNSET, Lsn, format_lsn
from cdc_outbox.postgres import connect, slot, table_rows
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.records.mapping import Mappings, SnapshotMapping
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.sender import RecordSender
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

PROGRESS_SECONDS: Final = 10.0
"""Between two progress lines."""

SERVE_SECONDS: Final = 0.05
"""One wait for delivery reports while the producer's queue is full."""

WINDOW_ROWS: Final = 16_000
"""Rows on their way at once: enough to keep a broker busy, and what a refusal sends again."""

WINDOW_BYTES: Final = 16 * 1024 * 1024
"""And no more than this of them, since they are kept till then; but always one batch."""


class Batch:
    """Rows that were fetched together, kept until Kafka has them: what it refuses is sent again from here."""

    __slots__ = (
        "cells",
        "commit_time",
        "events",
        "first",
        "isolated",
        "lsn",
        "mapping",
        "outstanding",
        "sequence",
        "size",
        "whole",
    )

    def __init__(
        self, mapping: SnapshotMapping, cells: Sequence[table_rows.Cells], *, lsn: Lsn, time: int, first: int
    ) -> None:
        """`lsn`: of the snapshot; `time`: of the records, Unix milliseconds; `first`: how many rows came before these."""
        self.mapping = mapping
        self.cells = cells
        self.size = table_rows.size_of(cells)
        self.lsn = lsn
        self.commit_time = time
        self.first = first
        self.restart(isolated=False)

    def restart(self, *, isolated: bool) -> None:
        """Nothing of it is sent (any more)."""
        self.outstanding = 0
        self.events = 0
        self.sequence = self.first
        self.isolated = isolated
        self.whole = False
        """Whether all of them have been handed over: before that, nothing outstanding does not mean delivered."""


class Refused(Exception):
    """Kafka refused records of some batch."""


class FirstStart:
    """One attempt. `run()` either leaves a permanent slot and everything delivered, or nothing."""

    def __init__(
        self,
        settings: Settings,
        session: ReplicationSession,
        publisher: Publisher,
        mappings: Mappings,
        policy: PoisonPolicy,
        counters: Counters,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._session = session
        self._row_mappings = mappings
        self._counters = counters
        self._stop = stop
        self._rows = RowSender(publisher, policy, counters, stop, self._tell)
        self.expected = 0
        """Rows of the snapshot, once they are counted."""
        self.begins_at = UNSET
        """Where the new slot begins."""
        self._gone: list[str] = []
        """Tables that were written, and delete each row as it is inserted."""

    def run(self, *, replace: bool = False) -> None:
        """Do it; `replace`: a slot of that name exists, and is given up at the end.

        Raises Stopped, PoisonEvent, AccessRefused (with the GRANT), ConfigurationError or Unreachable.
        """
        name = self._settings.slot
        if not (self._settings.snapshot and self._settings.tables) and not replace:
            created = slot.create(self._session, name)
            self._created(created.consistent_point, None)
            return
        suffix = f"_{secrets.token_hex(6)}"
        temporary = name[: NAME_BYTES - len(suffix)] + suffix
        created = slot.create(self._session, temporary, temporary=True, snapshot=True)
        assert created.snapshot is not None
        self._rows.time = int(time.time() * 1000)
        self._rows.lsn = created.consistent_point
        with table_rows.open_snapshot(
            self._settings.dsn.reveal(),
            created.snapshot,
            self._stop,
            self._settings.shard_filter,
            otherwise="" if replace else "--no-snapshot: then the rows that are in the table already are never sent",
        ) as snapshot:
            self._send_tables(snapshot)
            self._gone = [str(table) for table in self._settings.tables if _are_gone(snapshot, table)]
        self._rows.finish()
        old = None
        if replace:
            with connect.open_connection(self._settings.dsn.reveal()) as connection:
                old = slot.inspect(connection, name)
                slot.drop(connection, name)
        slot.make_permanent(self._session, temporary, name)
        log.info("snapshot.finished", slot=name, rows=self._rows.sent)
        self._created(created.consistent_point, old)

    def _created(self, begins_at: Lsn, old: slot.SlotInfo | None) -> None:
        """The slot is there. Events from before it that are in no table are not sent: say so."""
        self.begins_at = begins_at
        log.info("slot.created", slot=self._settings.slot, lsn=begins_at)
        delivered = old.confirmed_flush_lsn if old is not None else None
        where = {"slot": self._settings.slot, "since": delivered and format_lsn(delivered), "lsn": begins_at}
        after = ": what was written after the last confirmation of the old slot (since) is lost" if old else ""
        if self._settings.reads_messages:
            cure = "messages written before this LSN are not sent, since no table has them"
            log.warning("messages.skipped", **where, cure=cure + after)
        for table in self._gone:
            cure = "rows written before this LSN are not sent: a trigger deletes each as it is inserted"
            first = "; next time, cdc-outbox slot create comes before the first event"
            log.warning("rows.skipped", table=table, **where, cure=cure + (after or first))

    def _send_tables(self, snapshot: table_rows.SnapshotRows) -> None:
        counts = {table: snapshot.count(table) for table in self._settings.tables}
        self.expected = self._counters.snapshot_expected = sum(counts.values())
        if self.expected:
            log.warning(
                "snapshot.started",
                slot=self._settings.slot,
                rows=self.expected,
                complete_since=self._complete_since(snapshot),
                cure="the rows that are in the table are sent before the stream: consumers drop those they know by id",
            )
        for table, count in counts.items():
            if count:
                shape = snapshot.shape(table)
                mapping = mapping_of(self._row_mappings, shape)
                for cells in snapshot.read(shape, row_order(self._settings)):
                    self._rows.send(mapping, cells)

    def _complete_since(self, snapshot: table_rows.SnapshotRows) -> str | None:
        """From when on no row has been deleted, where older ones were: what a recovery cannot send any more lies before it."""
        moments = [snapshot.first_kept(snapshot.shape(table)) for table in self._settings.tables]
        return max((moment for moment in moments if moment is not None), default=None)

    def _tell(self, delivered: int) -> None:
        log.info("snapshot.progress", slot=self._settings.slot, rows=delivered, of=self.expected)


def mapping_of(mappings: Mappings, shape: table_rows.TableShape) -> SnapshotMapping:
    """How the rows of a table become records. Raises ConfigurationError for a missing or wrong column."""
    columns = tuple(Column(column, type_oid) for column, type_oid in shape.columns)
    return mappings.snapshot(Relation(shape.oid, shape.table.schema, shape.table.name, "d", columns))


def _are_gone(snapshot: table_rows.SnapshotRows, table: TableName) -> bool:
    """Whether rows were written that only the stream could have sent."""
    shape = snapshot.shape(table)
    return snapshot.deletes_at_once(shape) and snapshot.was_written(shape)


def row_order(settings: Settings) -> list[str]:
    """Columns that tell the order of the rows: the first that the table has counts."""
    return [name for name in ("seq", settings.columns.timestamp, "created_at") if name]


class RowSender:
    """The way of rows of a table to Kafka: delivered, in order, a bounded number of them on their way.

    `told` hears every `told_seconds` how many are delivered. Raises as `FirstStart.run` does.
    """

    def __init__(
        self,
        publisher: Publisher,
        policy: PoisonPolicy,
        counters: Counters,
        stop: Stop,
        told: Callable[[int], None],
        *,
        told_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self._publisher = publisher
        self._policy = policy
        self._sender = RecordSender(publisher, policy)
        self._counters = counters
        self._stop = stop
        self._told = told
        self._told_seconds = told_seconds
        self._told_at = time.monotonic() + told_seconds
        self._window: deque[Batch] = deque()
        self.sent = 0
        """Rows handed to Kafka."""
        self.time = 0
        """Unix milliseconds: the records' time, since a row of the table does not have the time of its commit."""
        self.lsn = UNSET
        """Where the snapshot was taken, if that is known."""
        self._rows = 0
        """Rows taken."""

    def send(self, mapping: SnapshotMapping, cells: Sequence[table_rows.Cells]) -> None:
        """Send rows that were fetched together, and wait for a place for the next."""
        batch = Batch(mapping, cells, lsn=self.lsn, time=self.time, first=self._rows)
        self._rows += len(cells)
        self._window.append(batch)
        self._deliver(batch)
        self._counters.received[mapping.name] = self._counters.received.get(mapping.name, 0) + len(cells)

    def finish(self) -> None:
        """Wait until all that was sent is delivered."""
        self._deliver(None)

    def pause(self, until: float) -> None:
        """Serve reports until `until` (time.monotonic)."""
        try:
            self._wait(
                until=lambda: self._stop.wait(min(SERVE_SECONDS, until - time.monotonic())) or time.monotonic() >= until
            )
        except Refused:
            self._mend()

    def _deliver(self, batch: Batch | None) -> None:
        """Send a batch, and wait for a place for the next one; None: wait for all that are on their way."""
        try:
            if batch is not None:
                self._send(batch)
            self._wait(until=self._has_room if batch is not None else self._is_empty)
        except Refused:
            self._mend()
        self._counters.last_turn_monotonic = None  # what comes next is PostgreSQL's to give: a sort may take long

    def _send(self, batch: Batch) -> None:
        for cells in batch.cells:
            if not self._sender.send(batch.mapping, cells, batch):
                self._serve(SERVE_SECONDS)
                while not self._sender.retry():
                    self._serve(SERVE_SECONDS)
        batch.whole = True
        self.sent += len(batch.cells)
        self._serve()

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            self._serve(SERVE_SECONDS)

    def _has_room(self) -> bool:
        window = self._window
        rows_kept = sum(len(batch.cells) for batch in window)
        return len(window) <= 1 or (rows_kept <= WINDOW_ROWS and sum(batch.size for batch in window) <= WINDOW_BYTES)

    def _is_empty(self) -> bool:
        return not self._window

    def _mend(self) -> None:
        """Kafka refused records, and some behind them may be delivered: send all again from the first batch that is not
        delivered, suspected batches one by one. So each key's order holds for whoever takes the last of an id.
        """
        suspected: set[Batch] = set()
        while self._window:
            self._settle()
            suspected.update(batch for batch in self._window if batch.outstanding or not batch.whole)
            try:
                for batch in list(self._window):
                    self.sent -= len(batch.cells) if batch.whole else 0
                    batch.restart(isolated=batch in suspected)
                    self._send(batch)
                self._wait(until=self._is_empty)
            except Refused:
                continue

    def _settle(self) -> None:
        """Wait for the reports of everything in flight, say what was refused, and begin afresh. Raises Kafka's own error if no
        record is to blame.
        """
        failures = self._publisher.failures
        while self._publisher.in_flight:
            self._publisher.serve(SERVE_SECONDS)
            self._look()
        caused = caused_by_record(failures)
        failed = failed_delivery((caused or failures)[0])
        log.warning("delivery.failed", error=failed, refused=len(failures))
        if not caused:
            raise failed
        failures.clear()
        self._sender = RecordSender(self._publisher, self._policy)
        self._forget_delivered()

    def _serve(self, seconds: float = 0.0) -> None:
        """Serve reports; raise Refused when Kafka refused records, Stopped when a stop is wanted."""
        self._publisher.serve(seconds if self._publisher.in_flight else 0.0)
        if self._publisher.failures and not self._sender.isolated:
            raise Refused
        self._look()
        self._forget_delivered()

    def _forget_delivered(self) -> None:
        while self._window and self._window[0].whole and not self._window[0].outstanding:
            self._window.popleft()

    def _look(self) -> None:
        if self._stop.requested:
            raise Stopped
        self._count()

    def _count(self) -> None:
        now = time.monotonic()
        counters = self._counters
        counters.last_turn_monotonic = now
        counters.snapshot_rows = self.sent - self._publisher.in_flight
        publisher = self._publisher
        counters.note_in_flight(publisher.in_flight, publisher.in_flight_bytes, publisher.delivered_bytes, now)
        if now >= self._told_at:
            self._told_at = now + self._told_seconds
            self._told(counters.snapshot_rows)


def somebody_else_was_first(error: CdcOutboxError) -> bool:
    """Whether a slot of the permanent name appeared meanwhile (42710): another relay made its first start beside us."""
    return error.where.get("sqlstate") == "42710"
