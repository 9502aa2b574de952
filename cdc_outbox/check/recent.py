"""The newest rows of the outbox tables, turned into records as the relay would: which topics, and how large.

In: a short connection, the tables' shapes. Out: `Recent`. Never: all rows of a large table, or a sort of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import CdcOutboxError, PoisonEvent
from cdc_outbox.kafka.properties import message_max_bytes
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.postgres import table_rows
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.records.router import KafkaRecord

NEWEST_ROWS: Final = 1000
"""Rows of each table that are looked at: read in a fraction of a second, and enough to meet every kind of event."""

NEWEST_BYTES: Final = 64 * 1024 * 1024
"""And no more than this of them, however large they are."""

ORDER: Final = ("seq",)
"""Only by an index: by any other column the whole table would be sorted. Without it, rows as they come."""


@dataclass(slots=True)
class Recent:
    """What the rows would become."""

    topics: dict[str, int] = field(default_factory=dict)
    """Bytes of the largest record, by topic."""
    poison: list[PoisonEvent] = field(default_factory=list)
    rows: int = 0
    unreadable: bool = False
    """Whether there is a table that we may not read."""


def read_recent(connection: Connection, settings: Settings, shapes: Sequence[table_rows.TableShape]) -> Recent:
    """Look at the newest rows. Raises no error of ours: the lines about the tables have told it."""
    recent = Recent()
    for shape in shapes:
        connection.execute("BEGIN READ ONLY")
        try:
            _read(connection, settings, shape, recent)
        except CdcOutboxError:
            recent.unreadable = True
        finally:
            connection.execute("ROLLBACK")
    return recent


def check_events(recent: Recent, report: Report) -> None:
    """Rows that no record can be made of. They may be delivered, or skipped, long ago."""
    if recent.unreadable or not recent.rows:
        report.not_checked("there are no rows that we may read", "table.events")
        return
    if recent.poison:
        first = recent.poison[0]
        report.warn(
            "table.events",
            f"{len(recent.poison)} of the newest {recent.rows} rows cannot become a record, for example: {first}",
            first.cure
            or "correct what the application writes; --on-poison decides what the relay does with such an event",
        )
    else:
        report.ok("table.events", f"each of the newest {recent.rows} rows can become a record")


def record_bytes(record: KafkaRecord) -> int:
    """About what librdkafka and the broker count."""
    headers = sum(len(name) + (0 if value is None else len(value)) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _read(connection: Connection, settings: Settings, shape: table_rows.TableShape, recent: Recent) -> None:
    mapping = Mappings(settings, message_max_bytes(settings.kafka())).snapshot(shape.relation)
    seen = size = 0
    for batch in table_rows.SnapshotRows(connection, settings.shard_filter).read(shape, ORDER, newest_first=True):
        for cells in batch:
            try:
                record = mapping.record(cells, Transaction(0))
            except PoisonEvent as error:
                recent.poison.append(error)
            else:
                recent.topics[record.topic] = max(recent.topics.get(record.topic, 0), record_bytes(record))
        seen += len(batch)
        size += table_rows.size_of(batch)
        if seen >= NEWEST_ROWS or size >= NEWEST_BYTES:
            break
    recent.rows += seen
