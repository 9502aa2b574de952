"""Replay: rows that are still in the table, sent to Kafka once more, each marked with a header.

In: settings (those of `run`), a selection of rows, a rate. Out: the same records as the relay makes of these rows, in the order
of `seq`, with the header `outbox.replay`: when the replay began. How many rows there are and what they look like, before.
Never: a second way from a row to a record (`row_sender.RowSender` is the one), or a touch of the slot.

A replay goes around the order of the stream: a record of today comes behind, before or between the live ones of its key.
All rows are read in one transaction, as long as the replay itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective, message_max_bytes
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.postgres import table_rows
from cdc_outbox.postgres.selection import Selection, condition
from cdc_outbox.records.mapping import Mappings, SnapshotMapping
from cdc_outbox.records.router import InFlight, KafkaRecord
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.row_sender import RowSender
from cdc_outbox.relay.snapshot import mapping_of, outbox_shape, row_order
from cdc_outbox.shutdown import Stop

HEADER: Final = "outbox.replay"
"""Its value: when the replay began, ISO 8601 in UTC. Consumers that do not process replays skip records with it."""

SAMPLE_ROWS: Final = 10
"""Rows that are shown before a replay."""

SLICE_SECONDS: Final = 0.1
"""With a rate: the share of one second's records that is sent at once."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A row as it would be sent; `error`: why no record can be made of it."""

    table: TableName
    id: str | None
    type: str | None
    key: str | None
    topic: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """What a replay would send."""

    counts: dict[TableName, int]
    samples: list[Sample]

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.counts.values())


class Replay:
    """One replay. `preview()`, then `run()`."""

    def __init__(self, settings: Settings, selection: Selection, stop: Stop) -> None:
        """Raises ConfigurationError for a broken --topic or a refused Kafka property."""
        self._settings = settings
        self._selection = selection
        self._stop = stop
        self._properties = effective(settings.kafka(), settings)
        self._limit = message_max_bytes(self._properties)
        self._row_mappings = Mappings(settings, self._limit)
        self.counters = Counters()

    def preview(self, samples: int = SAMPLE_ROWS) -> Preview:
        """Look at the rows; needs no Kafka. Raises ConfigurationError, AccessRefused, Unreachable or Stopped."""
        counts: dict[TableName, int] = {}
        shown: list[Sample] = []
        for table in self._settings.tables:
            with self._snapshot() as snapshot:
                shape = outbox_shape(self._settings, snapshot, table)
                where = condition(self._selection, snapshot.shape(table), self._settings.columns)
                counts[table] = snapshot.count(table, where)
                mapping = mapping_of(self._row_mappings, shape)
                wanted = samples - len(shown)
                if counts[table] and wanted > 0:
                    order = table_rows.row_order(self._settings.columns.timestamp)
                    first = next(snapshot.read(shape, order, where=where))
                    shown += [_sample(table, mapping, cells) for cells in first[:wanted]]
        return Preview(counts, shown)

    def run(self, rate: float | None, report: Callable[[int], None], *, report_seconds: float) -> int:
        """Send them, at most `rate` a second; `report` gets the rows delivered, every `report_seconds`. Returns the rows sent.

        Raises Stopped, PoisonEvent (--on-poison stop), AccessRefused, ConfigurationError or Unreachable.
        """
        settings = self._settings
        policy = PoisonPolicy(
            settings.on_poison,
            settings.dead_letter_topic,
            self._limit,
            self.counters,
        )
        publisher = Publisher(self._properties, self.counters, reread=settings.kafka)
        try:
            publisher.reach()
            sender = RowSender(publisher, policy, self.counters, self._stop, report, report_seconds=report_seconds)
            sender.time = int(time.time() * 1000)
            stamp = datetime.fromtimestamp(sender.time / 1000, UTC).isoformat(timespec="milliseconds").encode()
            with self._snapshot() as snapshot:
                for table in settings.tables:
                    self._send(sender, snapshot, table, stamp, rate)
            sender.finish()
            return sender.sent
        finally:
            publisher.abandon()

    def _send(
        self, sender: RowSender, snapshot: table_rows.SnapshotRows, table: TableName, stamp: bytes, rate: float | None
    ) -> None:
        shape = outbox_shape(self._settings, snapshot, table)
        where = condition(self._selection, snapshot.shape(table), self._settings.columns)
        mapping = _marked(mapping_of(self._row_mappings, shape), stamp)
        due = time.monotonic()
        order = row_order(self._settings, shape, snapshot.count(table, where))
        for batch in snapshot.read(shape, order, where=where):
            size = max(1, round(rate * SLICE_SECONDS)) if rate else len(batch)
            for first in range(0, len(batch), size):
                cells = batch[first : first + size]
                if rate:
                    sender.pause(due)
                    due = max(due, time.monotonic() - SLICE_SECONDS) + len(cells) / rate
                sender.send(mapping, cells)

    def _snapshot(self) -> AbstractContextManager[table_rows.SnapshotRows]:
        return table_rows.open_snapshot(self._settings.dsn.reveal(), None, self._stop)


def _marked(mapping: SnapshotMapping, stamp: bytes) -> SnapshotMapping:
    """The mapping, with the header added to each of its records."""

    def marked(cells: Sequence[bytes | None], transaction: InFlight) -> KafkaRecord:
        record = mapping.record(cells, transaction)
        return record._replace(headers=[*record.headers, (HEADER, stamp)], small=False)

    return SnapshotMapping(mapping.name, mapping.event, marked)


def _sample(table: TableName, mapping: SnapshotMapping, cells: table_rows.Cells) -> Sample:
    try:
        topic, error = mapping.record(cells, Transaction(0)).topic, None
    except PoisonEvent as poison:
        topic, error = None, poison.message
    event = mapping.event(cells)
    return Sample(table, _text(event.id), _text(event.type), _text(event.key), topic, error)


def _text(cell: bytes | None) -> str | None:
    return None if cell is None else cell.decode(errors="replace")
