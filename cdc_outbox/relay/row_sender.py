"""Send rows of a table to Kafka, for a first start and for replay: in order, with a bounded number of them in flight.

In: rows that were fetched together, and their mapping. Out: all of them delivered, in order.
Never: a refused row given up: after a refusal, all rows are sent again from the first batch that is not delivered.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from cdc_outbox.counters import Counters
from cdc_outbox.kafka.errors import caused_by_record, failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import UNSET
from cdc_outbox.postgres import table_rows
from cdc_outbox.records.mapping import SnapshotMapping
from cdc_outbox.records.router import InFlight
from cdc_outbox.relay.delivery_watch import DeliveryWatch
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.sender import RecordSender
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

PROGRESS_SECONDS: Final = 10.0
"""Seconds between two progress log lines."""

SERVE_SECONDS: Final = 0.05
"""Seconds of one wait for delivery reports while the producer's queue is full."""

WINDOW_ROWS: Final = 16_000
"""Rows in flight at once: enough to keep a broker busy, and the most that is sent again after a refusal."""

ROW_BYTES: Final = 512
"""Memory of a kept row besides its values: a tuple and some ten bytes objects."""


class Batch:
    """Rows that were fetched together, kept until Kafka has confirmed them: after a refusal they are sent again."""

    __slots__ = ("cells", "first", "mapping", "new_transaction", "size", "transaction", "whole")

    def __init__(
        self,
        mapping: SnapshotMapping,
        cells: Sequence[table_rows.Cells],
        *,
        new_transaction: Callable[[], InFlight],
        first: int,
    ) -> None:
        """`new_transaction`: bound to the snapshot's LSN and the records' time; `first`: the number of rows before these."""
        self.mapping = mapping
        self.cells = cells
        self.size = table_rows.size_of(cells) + ROW_BYTES * len(cells)
        self.new_transaction = new_transaction
        self.first = first
        self.restart(isolated=False)

    def restart(self, *, isolated: bool) -> None:
        """Mark all rows of the batch as not sent."""
        self.transaction = self.new_transaction()
        self.transaction.sequence = self.first
        self.transaction.isolated = isolated
        self.whole = False
        """Whether all rows are handed over: before that, a count of 0 outstanding does not mean delivered."""


class Refused(Exception):
    """Kafka refused records of a batch."""


class RowSender:
    """Sends rows of a table to Kafka, in order, with a bounded number of them in flight.

    `report` is called every `report_seconds` with the rows delivered. Raises as `FirstStart.run` does.
    """

    def __init__(
        self,
        publisher: Publisher,
        policy: PoisonPolicy,
        counters: Counters,
        stop: Stop,
        report: Callable[[int], None],
        *,
        report_seconds: float = PROGRESS_SECONDS,
    ) -> None:
        self._publisher = publisher
        self._policy = policy
        self._sender = RecordSender(publisher, policy)
        self._counters = counters
        self._watch = DeliveryWatch(counters, publisher)
        self._stop = stop
        self._report = report
        self._report_seconds = report_seconds
        self._report_at = time.monotonic() + report_seconds
        self._window: deque[Batch] = deque()
        self.sent = 0
        """Rows handed to Kafka."""
        self.time = 0
        """Timestamp of the records, Unix milliseconds: a row of the table does not have the time of its commit."""
        self.lsn = UNSET
        """The LSN of the snapshot; unset if it is not known."""
        self._rows = 0
        """Rows passed to `send`."""

    def send(self, mapping: SnapshotMapping, cells: Sequence[table_rows.Cells]) -> None:
        """Send rows that were fetched together, then wait until there is room for the next batch."""
        new_transaction = partial(self._publisher.new_transaction, self.time, self.lsn)
        batch = Batch(mapping, cells, new_transaction=new_transaction, first=self._rows)
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
        """Send a batch, then wait until there is room for the next one; None: wait until all batches are delivered."""
        try:
            if batch is None:
                self._wait_for_all()
            else:
                self._send(batch)
                self._wait(until=self._has_room)
        except Refused:
            self._mend()
        self._counters.waits(time.monotonic())  # next is a wait for PostgreSQL, and a sort may take long

    def _send(self, batch: Batch) -> None:
        for cells in batch.cells:
            if not self._sender.send(batch.mapping, cells, batch.transaction):
                self._serve(SERVE_SECONDS)
                while not self._sender.retry():
                    self._serve(SERVE_SECONDS)
        batch.whole = True
        self.sent += len(batch.cells)
        self._serve()

    def _wait(self, until: Callable[[], bool]) -> None:
        while not until():
            self._serve(SERVE_SECONDS)

    def _wait_for_all(self) -> None:
        """Wait until all batches are delivered. Nothing follows that the last records could share a request with."""
        while self._window:
            self._publisher.flush(SERVE_SECONDS)
            self._serve()

    def _has_room(self) -> bool:
        window = self._window
        rows_kept = sum(len(batch.cells) for batch in window)
        next_size = 2 * window[-1].size if window else 0  # the next batch, as rows and as records
        return len(window) <= 1 or (
            rows_kept <= WINDOW_ROWS and self._kept_bytes() + next_size <= self._publisher.limit
        )

    def _kept_bytes(self) -> int:
        """Bytes of the kept rows, and of the records in flight."""
        return sum(batch.size for batch in self._window) + self._publisher.in_flight_bytes

    def _mend(self) -> None:
        """After a refusal, send all rows again from the first batch that is not delivered, rejected batches record by record:
        records after the refused one may be delivered already. So a consumer that keeps the first record of each id sees the
        records of a key in order.
        """
        rejected: set[Batch] = set()
        while self._window:
            self._settle()
            rejected.update(batch for batch in self._window if batch.transaction.outstanding or not batch.whole)
            try:
                for batch in list(self._window):
                    self.sent -= len(batch.cells) if batch.whole else 0
                    batch.restart(isolated=batch in rejected)
                    self._send(batch)
                self._wait_for_all()
            except Refused:
                continue

    def _settle(self) -> None:
        """Wait for the reports of everything in flight, log the refusal, and renew the producer. Raises Kafka's own error if
        no record caused it.
        """
        failures = self._publisher.failures
        while self._publisher.in_flight:
            self._publisher.discard_queued()
            self._publisher.serve(SERVE_SECONDS)
            self._look()
        caused = caused_by_record(failures)
        failed = failed_delivery((caused or failures)[0])
        log.warning("delivery.failed", error=failed, refused=len(failures))
        if not caused:
            raise failed
        failures.clear()
        self._publisher.renew()
        self._sender = RecordSender(self._publisher, self._policy)
        self._forget_delivered()

    def _serve(self, seconds: float = 0.0) -> None:
        """Serve reports; raise Refused when Kafka refused records, Stopped when a stop is requested."""
        self._publisher.wait(seconds)
        if self._publisher.failures and not self._sender.isolated:
            raise Refused
        self._look()
        self._forget_delivered()

    def _forget_delivered(self) -> None:
        while self._window and self._window[0].whole and not self._window[0].transaction.outstanding:
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
        counters.note_in_flight(publisher.in_flight, self._kept_bytes(), publisher.delivered_bytes, now)
        self._watch.check(now)
        if now >= self._report_at:
            self._report_at = now + self._report_seconds
            self._report(counters.snapshot_rows)
