"""`cdc-outbox slot …`: create, drop, replace or show the replication slot.

stdout is data: the LSN at which a new slot begins, the status. Messages go to stderr. No logic: see `commands.slots`.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from cdc_outbox.cli.confirm import confirm
from cdc_outbox.cli.options import (
    CONTEXT,
    ParsedText,
    SettingsCommand,
    all_options,
    complete_cure,
    dsn_option,
    option,
    publication_option,
    reveal,
    settings_of,
    slot_option,
)
from cdc_outbox.config.value_types import MOMENT_OR_AGE

if TYPE_CHECKING:
    from cdc_outbox.commands.slots import SlotStatus
    from cdc_outbox.config.settings import Settings
    from cdc_outbox.config.value_types import Secret


@click.group("slot", context_settings=CONTEXT)
def command() -> None:
    """The replication slot, the relay's only state: create, drop, replace or show it.

    `cdc-outbox run` creates its slot; use these commands to manage it separately.
    """


@command.command(cls=SettingsCommand)
@option("failover")
@publication_option
@slot_option
@dsn_option
@click.pass_context
def create(ctx: click.Context, dsn: Secret | None, slot: str, publication: str, *, failover: bool) -> int:
    """Create the slot now, at the current position, and print that position (an LSN).

    It streams commits from now on. Rows already in the table are NOT sent: to have them sent, let `cdc-outbox run` create
    the slot; a first start sends them first, without a gap. Every open transaction has to end before the slot exists.
    Needs the attribute REPLICATION.
    """
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.slots import create_slot
    from cdc_outbox.lsn import format_lsn
    from cdc_outbox.shutdown import Stopped

    try:
        with stop_on_signals() as stop:
            created = create_slot(reveal(dsn), slot, publication, stop, _log, failover=failover)
    except Stopped:
        _log("stopped while waiting: no slot was created")
        raise
    click.echo(format_lsn(created.consistent_point))
    instead = complete_cure(
        ctx, "cdc-outbox slot drop, and cdc-outbox run, which creates the slot and sends them first"
    )
    _log(
        f"slot {created.name} begins here. Rows already in the table are not sent by it. To have them sent: {instead}. "
        "From now on the server keeps WAL until a relay has confirmed it: start one soon."
    )
    return 0


@command.command(cls=SettingsCommand)
@click.option("--yes", is_flag=True, help="Do it without asking.")
@slot_option
@dsn_option
def drop(dsn: Secret | None, slot: str, *, yes: bool) -> None:
    """Drop the slot, after a confirmation. Refused while a relay streams from it (75).

    The relay's position is lost with it: the next start sends every row in the table again.
    Needs the attribute REPLICATION.
    """
    from cdc_outbox.commands.slots import drop_slot, read_status, require_droppable, what_dropping_means

    found = read_status(reveal(dsn), slot)
    require_droppable(found)
    _log(what_dropping_means(found))
    confirm(f"Drop slot {slot}?", yes=yes)
    drop_slot(reveal(dsn), slot)
    _log(f"dropped: slot {slot}")


@command.command(cls=SettingsCommand)
@click.option("--yes", is_flag=True, help="Do it without asking.")
@click.option(
    "--since",
    type=ParsedText(MOMENT_OR_AGE),
    help="Send only rows of this time or later, such as 2026-11-23T08:00Z or 12h (created_at).",
)
@all_options
@click.pass_context
def recover(ctx: click.Context, /, *, yes: bool, since: str | None, **_options: object) -> int:
    """Replace the slot by a new one, and send every row in the table first.

    For a slot that is lost, or that skipped rows while the publication was missing. Takes the options of `run`; no relay may
    stream from the slot meanwhile (75). Delivered events are sent again, with the same ids. Rows that were deleted before
    they were delivered cannot be sent. If interrupted, the old slot is unchanged.

    --since leaves out older rows: choose a time at which everything older was delivered. A row without a time is sent.
    """
    settings = settings_of(ctx)
    if not settings.snapshot:
        raise click.UsageError("a recovery sends the rows in the table: leave --no-snapshot out", ctx)
    if since is not None:
        _show_choice(ctx, settings, since)
    _log(_what_recovery_sends(settings, since))
    confirm(f"Recover slot {settings.slot}?", yes=yes)
    from cdc_outbox.service import recover as recover_slot

    return recover_slot(settings, since)


def _show_choice(ctx: click.Context, settings: Settings, since: str) -> None:
    """Print how many rows are sent and left out. Raises a usage error (2) for a table without a column with a time."""
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.slots import choose_rows
    from cdc_outbox.errors import ConfigurationError

    if not settings.tables:
        raise click.UsageError("--since chooses rows of a table, and --source message has none", ctx)
    try:
        with stop_on_signals() as stop:
            found = choose_rows(settings, since, stop)
    except ConfigurationError as error:
        if error.code != "choose-column":
            raise
        raise click.UsageError(
            f"{error.message}. Name a column with the time of the insert, --timestamp-column COLUMN; or leave --since out",
            ctx,
        ) from error
    for choice in found:
        _log(f"{choice.table}: {choice.sent:,} rows are sent, {choice.older:,} are older than {since} and are not")


def _what_recovery_sends(settings: Settings, since: str | None) -> str:
    text = [f"slot {settings.slot} will be replaced"]
    if settings.tables:
        which = "every row" if since is None else f"every row since {since}"
        text.append(f"{which} in {', '.join(map(str, settings.tables))} is sent, again or not")
    if settings.reads_messages:
        text.append("logical messages are in no table: those that are not delivered yet are LOST with the old slot")
    return "; ".join(text) + "."


@command.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@slot_option
@dsn_option
def status(dsn: Secret | None, slot: str, *, as_json: bool) -> None:
    """Show the slot's position, and the WAL that the server keeps for it.

    Exit code 78 if the slot does not exist or cannot be used: lost, or of another plugin or database.
    Needs no privilege.
    """
    from cdc_outbox.commands.slots import read_status
    from cdc_outbox.postgres.slot import require_usable

    found = read_status(reveal(dsn), slot)
    if as_json:
        click.echo(json.dumps(found.document()))
    else:
        for name, state in _lines(found):
            click.echo(f"{name:<16}{state}")
    require_usable(found.slot)


def _lines(found: SlotStatus) -> list[tuple[str, str]]:
    """Name and text of each line."""
    from cdc_outbox.postgres.slot import LOST

    shown = {name: "-" if value is None else str(value) for name, value in found.document().items()}
    info = found.slot
    kind = f"{info.slot_type}{', temporary' if info.temporary else ''}"
    safe = "no limit is set" if info.safe_wal_bytes is None else f"{info.safe_wal_bytes:,} bytes until it is in danger"
    kept = "no WAL is kept for it" if info.restart_lsn is None else f"{_bytes(found.retained_wal_bytes)} of WAL kept"
    if info.wal_status == LOST:
        safe = "it can never be streamed from again"
    return [
        ("slot", shown["slot"]),
        ("kind", f"{kind}, plugin {shown['plugin']}, database {shown['database']}"),
        ("in use", f"by pid {info.active_pid}" if info.active else "no"),
        ("WAL status", f"{shown['wal_status']} ({safe})"),
        ("confirmed", f"{shown['confirmed_flush_lsn']}, {_bytes(found.lag_bytes)} behind"),
        ("restart", f"{shown['restart_lsn']}, {kept}"),
        ("failover", "standbys may keep a copy" if info.failover else "no copy on standbys"),
        ("server at", shown["current_lsn"]),
    ]


def _bytes(count: int | None) -> str:
    return "-" if count is None else f"{count:,} bytes"


def _log(message: str) -> None:
    click.echo(message, err=True)
