"""The newest rows of the outbox tables, turned into records as the relay would: which topics, and how large.

In: a short connection, the tables' shapes. Out: `Recent`. Never: all rows of a large table, or a sort of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import CdcOutboxError, PoisonEvent
from cdc_outbox.kafka.properties import message_max_bytes
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.postgres import table_rows
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.records.mapping import Mappings, used_columns
from cdc_outbox.records.router import KafkaRecord

NEWEST_ROWS: Final = 1000
"""Rows to read of each table: a fraction of a second, and enough to include every type of event."""

NEWEST_BYTES: Final = 64 * 1024 * 1024
"""Bytes to read of each table at most, whatever the size of a row."""

ORDER: Final = ("seq",)
"""The newest rows are found by an index only: any other column needs a sort of the whole table. Otherwise: any rows."""


@dataclass(slots=True)
class Recent:
    """The records of the newest rows, as sizes by topic."""

    topics: dict[str, int] = field(default_factory=dict)
    """Bytes of the largest record, by topic."""
    poison: list[PoisonEvent] = field(default_factory=list)
    rows: int = 0
    unreadable: bool = False
    """Whether the role may not read one of the tables."""


def read_recent(connection: Connection, settings: Settings, shapes: Sequence[table_rows.TableShape]) -> Recent:
    """Read the newest rows. Raises no CdcOutboxError: the checks of the tables have already reported it."""
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
    """Check for rows that cannot become a record. They may have been delivered or skipped long ago."""
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
    """Approximate size in bytes, as librdkafka and the broker count it."""
    headers = sum(len(name) + (0 if value is None else len(value)) for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers


def _read(connection: Connection, settings: Settings, shape: table_rows.TableShape, recent: Recent) -> None:
    shape = shape.narrowed(partial(used_columns, settings))
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
