"""Checks of the rows in the table: may `--prune-after` delete them, and are there rows that the slot never sends?

In: a short connection, `Settings`, the tables. Out: lines `table.prune`, `slot.older-rows`, `table.attached`.
Never: a row deleted; a rule of its own: the prune itself uses the same functions to check its rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cdc_outbox.check.database import Server
from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import AccessRefused, CdcOutboxError
from cdc_outbox.postgres import partitions, publication, retention, slot, table_rows
from cdc_outbox.postgres.connect import Connection

PRUNE: Final = "table.prune"

OLDER: Final = "slot.older-rows"

ATTACHED: Final = "table.attached"


def check_kept_rows(
    connection: Connection,
    settings: Settings,
    shapes: Sequence[table_rows.TableShape],
    catalog: Server,
    report: Report,
) -> None:
    """Run the checks for each table whose rows can become events; the first one only with `--prune-after`."""
    for shape in shapes:
        if settings.prune_after is not None:
            with report.judging(PRUNE):
                _check_prune(connection, settings, publication.find_table(connection, shape.table), report)
        if catalog.slot is not None and catalog.slot.wal_status != slot.LOST:
            _check_older(connection, shape, catalog.slot, report)
            with report.judging(ATTACHED):
                _check_attached(connection, publication.find_table(connection, shape.table), report)


def _check_prune(connection: Connection, settings: Settings, table: publication.Table, report: Report) -> None:
    """Check SELECT and DELETE, a column with the row's age, and ownership of daily partitions. Raises CdcOutboxError."""
    old = retention.find_old_rows(connection, table, settings.columns.timestamp)
    days = partitions.time_key(connection, table) == old.age_column
    if days:
        try:
            partitions.require_owner(connection, table)
        except AccessRefused as error:
            if settings.partitions_ahead is not None:
                raise
            report.warn(
                PRUNE, f"{error.message}; old rows are deleted one by one, and no partition is dropped", error.cure
            )
            return
    elif settings.partitions_ahead is not None:
        report.warn(
            PRUNE,
            f"{table.name} is not partitioned by the column of the row's age, so --partitions-ahead does nothing",
            "leave --partitions-ahead out; or cdc-outbox sql install --partitioned, for a new table",
        )
        return
    actions = "drop and make days" if days else "delete rows"
    report.ok(PRUNE, f"role {connection.role} may {actions} of {table.name}; their age is {old.age_column}")


def _check_older(connection: Connection, shape: table_rows.TableShape, info: slot.SlotInfo, report: Report) -> None:
    """A slot sends what is committed after its creation. A first start also sends the older rows; `slot create` does not."""
    if info.active or info.decoded:
        report.ok(OLDER, f"of {shape.table}: a relay has streamed from {info.name} and confirmed its position")
        return
    try:
        older = table_rows.SnapshotRows(connection).count_older_than(shape, info.name)
    except CdcOutboxError as error:
        report.not_checked(error.message, OLDER)
        return
    if older is None:
        report.not_checked(f"{shape.table} has too many rows to count them", OLDER)
    elif older:
        report.warn(
            OLDER,
            f"{older} rows of {shape.table} are older than slot {info.name}, from which no process has streamed: it does not "
            "send them",
            "if they are not delivered (the slot was created by slot create or another tool): cdc-outbox slot recover",
        )
    else:
        report.ok(OLDER, f"{shape.table} has no row that is older than the slot")


def _check_attached(connection: Connection, table: publication.Table, report: Report) -> None:
    """Check for rows that became rows of the table by ATTACH PARTITION, which no slot streams. When a slot was created is not
    known, so a partition that was attached before that is named as well.
    """
    if not table.partitioned:
        return
    try:
        found = partitions.rows_before_attach(connection, table)
    except AccessRefused as error:
        report.not_checked(error.message, ATTACHED)
        return
    for partition, rows in found.items():
        report.warn(
            ATTACHED,
            f"{rows} rows of {partition} are older than its attachment to {table.name}: no slot streams rows that come by "
            "ATTACH PARTITION. If it was attached before the slot was made, the first start has sent them",
            "if they are not delivered: cdc-outbox slot recover sends every row that is in the table; next time, insert the "
            f"rows into {table.name} after the partition is attached",
        )
    if not found:
        report.ok(ATTACHED, f"no partition of {table.name} had rows when it was attached")
