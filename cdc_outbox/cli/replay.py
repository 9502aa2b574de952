"""`cdc-outbox replay`: send rows of the table again.

stdout is data: the number of rows, and with --dry-run the first ones. Messages, progress and logs go to stderr. No logic:
see `commands.replay`.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from cdc_outbox.cli.confirm import confirm
from cdc_outbox.cli.options import CONTEXT, ParsedText, SettingsCommand, options, settings_of
from cdc_outbox.config.settings import KAFKA, OPTIONS, RECORDS
from cdc_outbox.config.value_types import COUNT, MOMENT

if TYPE_CHECKING:
    from cdc_outbox.commands.replay import Preview, Replay

BAR_SECONDS: Final = 0.5
LINE_SECONDS: Final = 10.0
"""Between two looks at the progress: of a bar, and of lines where there is no terminal."""

INTERRUPTED: Final = 75
"""Some rows may have been sent, the rest was not."""

_PROCESS_OPTIONS: Final = ("max-in-flight-events", "max-in-flight-bytes", "log-format", "log-level")

_RECORD_OPTIONS: Final = (
    "dsn",
    *(name for name, each in OPTIONS.items() if each.section == KAFKA),
    *(name for name, each in OPTIONS.items() if each.section == RECORDS and name not in {"source", "message-prefix"}),
    *_PROCESS_OPTIONS,
)
"""Options of `run` that change a record or its delivery. Messages are in no table, so the options of `source` are left out."""

_EXAMPLE: Final = """\b
cdc-outbox replay --since 2026-11-23T08:00Z --until 2026-11-23T09:30Z --dry-run"""


@click.command("replay", cls=SettingsCommand, context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option("--id", "ids", multiple=True, metavar="ID", help="Rows with this event id; may be repeated.")
@click.option("--key", "keys", multiple=True, metavar="KEY", help="Rows with this key; may be repeated.")
@click.option("--since", type=ParsedText(MOMENT), help="Rows written at this time or later (created_at).")
@click.option("--until", "before", type=ParsedText(MOMENT), help="Rows written before this time.")
@click.option("--from-seq", type=int, metavar="N", help="Rows from this seq on, inclusive.")
@click.option("--to-seq", type=int, metavar="N", help="Rows up to this seq, inclusive.")
@click.option("--all", "everything", is_flag=True, help="Every row of the table.")
@click.option("--rate", type=ParsedText(COUNT), metavar="N", help="At most N events per second; without it, no limit.")
@click.option(
    "--dry-run", is_flag=True, help="Show the number of rows and the first ones; send nothing. Needs no Kafka."
)
@click.option("--yes", is_flag=True, help="Skip the confirmation.")
@options(_RECORD_OPTIONS)
@click.pass_context
def command(
    ctx: click.Context,
    /,
    ids: tuple[str, ...],
    keys: tuple[str, ...],
    since: str | None,
    before: str | None,
    from_seq: int | None,
    to_seq: int | None,
    rate: int | None,
    *,
    everything: bool,
    dry_run: bool,
    yes: bool,
    **_options: object,
) -> int:
    """Send rows of the table to Kafka again, each with the header outbox.replay.

    All conditions must hold. Takes the options of `run` that define the records, so that they are the same, ids included:
    consumers that drop duplicates by id drop a replay too. Records are sent in the order of seq; their order among live
    events of the same key is NOT kept. The slot is not touched, and the relay may run. Needs SELECT on the table. Ends with
    75 if interrupted.
    """
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.replay import Replay
    from cdc_outbox.observe import logs
    from cdc_outbox.postgres.selection import Selection
    from cdc_outbox.shutdown import Stopped

    selection = Selection(ids, keys, since, before, from_seq, to_seq)
    if selection.all_rows and not everything:
        raise click.UsageError(
            "which rows? Choose by --id, --key, --since, --until, --from-seq, --to-seq, or --all.", ctx
        )
    settings = settings_of(ctx, brokers_required=not dry_run)
    logs.configure(settings.log_format, settings.log_level)
    with stop_on_signals() as stop:
        replay = Replay(settings, selection, stop)
        try:
            found = replay.preview()
            _show(found, rows=dry_run)
            if dry_run or not found.total:
                return 0
            confirm(f"Send {found.total:,} rows again?", yes=yes)
            sent = _send(replay, found.total, rate)
        except Stopped:
            _log(f"stopped after {replay.counters.snapshot_rows:,} rows")
            return INTERRUPTED
    _log(f"sent: {sent:,} rows")
    return 0


def _show(found: Preview, *, rows: bool) -> None:
    for table, count in found.counts.items():
        click.echo(f"{table} {count}")
    for sample in found.samples if rows else ():
        where = f"cannot be sent: {sample.error}" if sample.error else f"to {sample.topic}"
        _log(f"  {sample.id or '-'}  {sample.type or '-'}  key {sample.key or '-'}  {where}")
    if rows and found.total > len(found.samples):
        _log(f"  and {found.total - len(found.samples):,} more")


def _send(replay: Replay, rows: int, rate: int | None) -> int:
    """Send with a progress bar on a terminal, and periodic lines elsewhere."""
    if not sys.stderr.isatty():
        return replay.run(rate, lambda sent: _log(f"{sent:,} of {rows:,} rows"), report_seconds=LINE_SECONDS)
    bar: Any
    with click.progressbar(length=rows, label="replay", file=sys.stderr, show_pos=True) as bar:
        sent = replay.run(rate, lambda sent: bar.update(sent - bar.pos), report_seconds=BAR_SECONDS)
        bar.update(sent - bar.pos)
    return sent


def _log(message: str) -> None:
    click.echo(message, err=True)
