"""`cdc-outbox prune`: delete old delivered rows.

stdout is data: how many rows went, by table. Words and progress go to stderr. No logic: `commands.prune` has it.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any, Final

import click

from cdc_outbox.cli.options import (
    CONTEXT,
    ParsedText,
    SettingsCommand,
    dsn_option,
    option,
    publication_option,
    reveal,
    slot_option,
    tables_option,
)
from cdc_outbox.config.value_types import SECONDS_OR_ZERO

if TYPE_CHECKING:
    from cdc_outbox.commands.prune import Pruned, PruneOrder
    from cdc_outbox.config.value_types import Secret
    from cdc_outbox.identifiers import TableName
    from cdc_outbox.shutdown import Stop

LINE_SECONDS: Final = 10.0
"""Between two lines of progress, where there is no terminal."""

_EXAMPLE: Final = """\b
cdc-outbox prune --older-than 7d --dry-run"""


@click.command("prune", cls=SettingsCommand, context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option(
    "--older-than",
    type=ParsedText(SECONDS_OR_ZERO),
    required=True,
    help="Age of the rows to delete, such as 7d. 0: all delivered rows.",
)
@click.option("--dry-run", is_flag=True, help="Count only; delete nothing, and do not wait.")
@click.option(
    "--batch-size", type=click.IntRange(1, 100_000), default=1000, help="Rows of one transaction.", metavar="N"
)
@click.option(
    "--wait",
    type=ParsedText(SECONDS_OR_ZERO),
    default="60s",
    help="Time for the slot to confirm all commits before the start; after that, end with 75, with nothing deleted.",
)
@click.option(
    "--also-slot",
    multiple=True,
    metavar="NAME",
    help="One more slot that must have confirmed the rows; may be repeated. Slots of other shards are included automatically.",
)
@dsn_option
@slot_option
@publication_option
@tables_option
@option("timestamp-column")
@option("partitions-ahead")
def command(
    dsn: Secret | None,
    slot: str,
    publication: str,
    table: tuple[TableName, ...],
    older_than: float,
    also_slot: tuple[str, ...],
    batch_size: int,
    wait: float,
    timestamp_column: str | None,
    partitions_ahead: int | None,
    *,
    dry_run: bool,
) -> int:
    """Delete delivered rows that are older than an age; never an undelivered row.

    Waits until the slot has confirmed everything that was committed before the command began, so the relay has to run, or
    to have caught up. Then deletes in small transactions. Age is created_at, or the column that --timestamp-column names.
    Of a table that is partitioned by that column, whole partitions are dropped where the role owns them.
    Takes SELECT and DELETE on the table: role cdc_outbox_pruner of `cdc-outbox sql roles`.
    """
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.prune import PruneOrder
    from cdc_outbox.shutdown import Stopped

    order = PruneOrder(
        reveal(dsn),
        slot,
        publication,
        table,
        older_than,
        timestamp_column,
        batch_size,
        wait,
        dry_run=dry_run,
        also=also_slot,
        partitions_ahead=partitions_ahead,
    )
    try:
        with stop_on_signals() as stop:
            result = _prune(order, stop)
    except Stopped:
        _log("stopped: rows deleted so far stay deleted; the next prune deletes the others")
        return 75
    for name, rows in result.rows.items():
        click.echo(f"{name} {rows}")
        if result.held[name]:
            _log(
                f"kept {result.held[name]:,} more old rows of {name}: because of a long-running transaction it is not known "
                "whether they are delivered; the next prune deletes them"
            )
    for action, partitions in (("dropped", result.dropped), ("created", result.made)):
        for name in partitions:
            _log(f"{action}: partition {name}")
    _log(f"{'would delete' if dry_run else 'deleted'}: {result.total:,} rows")
    return 0


def _prune(order: PruneOrder, stop: Stop) -> Pruned:
    """Shows a progress bar on a terminal, and periodic lines elsewhere."""
    from cdc_outbox.commands.prune import PruneProgress, prune
    from cdc_outbox.lsn import Lsn, format_lsn

    class Printed(PruneProgress):
        counts = sys.stderr.isatty()

        def __init__(self) -> None:
            self._rows = 0
            self._line_at = time.monotonic() + LINE_SECONDS
            self._bar: Any = None

        def waiting(self, lsn: Lsn) -> None:
            _log(f"waiting until slot {order.slot} has confirmed {format_lsn(lsn)}")

        def begins(self, table: TableName, rows: int) -> None:
            self.close()
            self._bar = click.progressbar(length=rows, label=str(table), file=sys.stderr, show_pos=True)
            self._bar.render_progress()

        def stepped(self, table: TableName, rows: int) -> None:
            self._rows += rows
            if self._bar is not None:
                self._bar.update(rows)
            elif time.monotonic() >= self._line_at:
                self._line_at = time.monotonic() + LINE_SECONDS
                _log(f"{table}: {self._rows:,} rows so far")

        def close(self) -> None:
            if self._bar is not None:
                self._bar.render_finish()
            self._bar = None

    progress = Printed()
    try:
        return prune(order, stop, progress)
    finally:
        progress.close()


def _log(message: str) -> None:
    click.echo(message, err=True)
