"""A first start: the rows that are in the table already, then a slot that goes on exactly where they end.

In: a walsender session, a publisher, lanes. Out: every row of a snapshot delivered, and the permanent slot.
Never: state of our own, a gap, or a slot left behind by a start that ended early.

A temporary slot exports a snapshot that sees exactly what the slot will not send. The rows are read in that snapshot and
delivered; only then the temporary slot is copied to the permanent name, at the same position. Killed half way, the temporary
slot is gone with its session, and the next start begins again: the same events, with the same ids.

PostgreSQL manual: 54.4 CREATE_REPLICATION_SLOT (SNAPSHOT 'export'); 9.28.6 pg_copy_logical_replication_slot.
"""

from __future__ import annotations

import secrets
import time
from typing import Final

import structlog

from cdc_outbox.config import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.decode.pgoutput import Column, Relation
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.lanes import Lane, Lanes
from cdc_outbox.lsn import format_lsn
from cdc_outbox.names import TableName
from cdc_outbox.postgres import rows, slot
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.publish.errors import failed_delivery
from cdc_outbox.publish.producer import Publisher, Report
from cdc_outbox.stop import Stop, Stopped

log = structlog.get_logger(__name__)

PROGRESS_SECONDS: Final = 10.0
"""Between two progress lines."""

SERVE_SECONDS: Final = 0.05
"""One wait for delivery reports while the producer's queue is full."""

SLOT_NAME_BYTES: Final = 63
"""NAMEDATALEN - 1: the server cuts longer names off."""


class FirstStart:
    """One attempt. `run()` either leaves a permanent slot and everything delivered, or nothing."""

    def __init__(
        self,
        settings: Settings,
        session: ReplicationSession,
        publisher: Publisher,
        lanes: Lanes,
        counters: Counters,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._session = session
        self._publisher = publisher
        self._lanes = lanes
        self._counters = counters
        self._stop = stop
        self.outstanding = 0
        """Rows handed to Kafka whose delivery is not yet reported: the publisher's reports count it down."""
        self.sent = 0
        """Rows handed to Kafka."""
        self._expected = 0
        self._progress_at = time.monotonic() + PROGRESS_SECONDS

    def run(self) -> None:
        """Do it. Raises Stopped, PoisonEvent, AccessRefused (with the GRANT), ConfigurationError or Unreachable."""
        name = self._settings.slot
        if not self._settings.snapshot:
            created = slot.create(self._session, name)
            log.info("slot.created", slot=name, lsn=format_lsn(created.consistent_point))
            return
        suffix = f"_{secrets.token_hex(6)}"
        temporary = name[: SLOT_NAME_BYTES - len(suffix)] + suffix
        created = slot.create(self._session, temporary, temporary=True, snapshot=True)
        assert created.snapshot is not None
        with rows.open_snapshot(self._settings.dsn.reveal(), created.snapshot) as snapshot:
            counts = {table: snapshot.count(table) for table in self._settings.tables}
            self._expected = sum(counts.values())
            if self._expected:
                log.warning(
                    "snapshot.started",
                    slot=name,
                    rows=self._expected,
                    cure="a first start sends the rows that are there",
                )
            for table, count in counts.items():
                if count:
                    self._send_table(snapshot, table)
        self._drain()
        slot.make_permanent(self._session, temporary, name)
        log.info("snapshot.finished", slot=name, rows=self.sent)
        log.info("slot.created", slot=name, lsn=format_lsn(created.consistent_point))

    def _send_table(self, snapshot: rows.SnapshotRows, table: TableName) -> None:
        shape = snapshot.shape(table)
        columns = tuple(Column(column, type_oid) for column, type_oid in shape.columns)
        lane = self._lanes.compile(Relation(shape.oid, table.schema, table.name, "d", columns))
        order = [name for name in ("seq", self._settings.columns.timestamp, "created_at") if name]
        now = int(time.time() * 1000)  # a row of the table does not tell when it was committed
        reports: dict[str, Report] = {}
        for batch in snapshot.read(shape, order):
            for cells in batch:
                self._send(lane, cells, now, reports)
            self._counters.received[str(table)] = self._counters.received.get(str(table), 0) + len(batch)
            self._serve()

    def _send(self, lane: Lane, cells: rows.Cells, now: int, reports: dict[str, Report]) -> None:
        record = lane.record(lane.pick(cells), now)
        report = reports.get(record.topic)
        if report is None:
            report = reports[record.topic] = self._publisher.report(self, record.topic)
        while not self._publisher.produce(record, report):
            self._serve(SERVE_SECONDS)
        self.outstanding += 1
        self.sent += 1

    def _drain(self) -> None:
        while self.outstanding:
            self._serve(SERVE_SECONDS)

    def _serve(self, seconds: float = 0.0) -> None:
        """Serve reports, see whether anything failed or a stop is wanted, and tell how far we are."""
        self._publisher.serve(seconds)
        if self._publisher.failures:
            raise failed_delivery(self._publisher.failures[0])
        if self._stop.requested:
            raise Stopped
        now = time.monotonic()
        counters = self._counters
        counters.last_turn_monotonic = now
        counters.snapshot_rows = self.sent - self.outstanding
        counters.in_flight_events = self._publisher.in_flight
        counters.in_flight_bytes = self._publisher.in_flight_bytes
        if now >= self._progress_at:
            self._progress_at = now + PROGRESS_SECONDS
            log.info("snapshot.progress", slot=self._settings.slot, rows=counters.snapshot_rows, of=self._expected)


def somebody_else_was_first(error: CdcOutboxError) -> bool:
    """Whether a slot of the permanent name appeared meanwhile (42710): another relay made its first start beside us."""
    return error.where.get("sqlstate") == "42710"
