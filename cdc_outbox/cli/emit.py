"""`cdc-outbox emit`: one event through the emit function, for try-outs and smoke tests.

stdout is the event's id; with --wait, stderr is the time until the slot has confirmed it. No logic: see `commands.emit`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cdc_outbox.cli.options import (
    CONTEXT,
    ParsedText,
    SettingsCommand,
    complete_cure,
    dsn_option,
    reveal,
    slot_option,
    table_option,
)
from cdc_outbox.config.value_types import SECONDS

if TYPE_CHECKING:
    from cdc_outbox.commands.emit import Confirmation, NewEvent
    from cdc_outbox.config.value_types import Secret
    from cdc_outbox.identifiers import TableName

_EXAMPLE: Final = """\b
cdc-outbox emit --aggregate-type order --aggregate-id 42 --type OrderPlaced --payload '{"total": 99}' --wait 10s"""


@click.command("emit", cls=SettingsCommand, context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option(
    "--aggregate-type", metavar="NAME", required=True, help="The type of the aggregate that changed: names the topic."
)
@click.option("--aggregate-id", metavar="ID", help="The aggregate's id: the record's key. Without it: a null key.")
@click.option(
    "--type", "event_type", metavar="NAME", help="What happened: the header `type`. Without it: no such header."
)
@click.option(
    "--payload",
    metavar="TEXT|@FILE|-",
    help="The record's value: the text itself, the content of a file, or stdin.",
)
@click.option("--tombstone", is_flag=True, help="A null value, in place of --payload.")
@click.option("--headers", metavar="JSON", help="A JSON object; each of its members becomes a header.")
@click.option(
    "--wait",
    type=ParsedText(SECONDS),
    help="Wait at most this long until the slot has confirmed the event, and print the time it took; else end with 1.",
)
@slot_option
@table_option
@dsn_option
def command(
    *,
    dsn: Secret | None,
    table: TableName,
    aggregate_type: str,
    aggregate_id: str | None,
    event_type: str | None,
    payload: str | None,
    tombstone: bool,
    headers: str | None,
    wait: float | None,
    slot: str,
) -> int:
    """Write one event with the emit function of the outbox table, and print its id.

    With --wait: an end-to-end test. The slot confirms the event when Kafka has acknowledged its record.
    """
    from cdc_outbox.commands.emit import NewEvent, emit_event

    if not aggregate_type:
        raise click.BadParameter("it must not be empty", param_hint="--aggregate-type")
    if (payload is None) != tombstone:
        raise click.UsageError("give either --payload or --tombstone")
    value = None if payload is None else _payload(payload)
    event = NewEvent(aggregate_type, aggregate_id, event_type, value, _headers(headers))
    if wait is None:
        click.echo(emit_event(reveal(dsn), table, event))
        return 0
    return _emit_and_wait(reveal(dsn), table, event, slot, wait)


def _emit_and_wait(dsn: str, table: TableName, event: NewEvent, slot: str, seconds: float) -> int:
    from cdc_outbox.commands.emit import emit_and_wait
    from cdc_outbox.commands.interrupts import stop_on_signals

    with stop_on_signals() as stop:
        found = emit_and_wait(dsn, table, event, slot, seconds, stop, click.echo)
    click.echo(_result(found, seconds), err=True)
    return 1 if found.seconds is None else 0


def _result(found: Confirmation, seconds: float) -> str:
    from cdc_outbox.lsn import UNSET, format_lsn

    slot = found.slot
    if found.seconds is not None:
        return f"confirmed by slot {slot.name} {found.seconds * 1000:.0f} ms after the commit"
    position = (
        f"it has confirmed {format_lsn(slot.confirmed_flush_lsn or UNSET)}, the event ends at {format_lsn(found.lsn)}"
    )
    reader = f"server process {slot.active_pid} streams from it" if slot.active else "no relay streams from it"
    late = f"not confirmed by slot {slot.name} within {seconds:g} s"
    cure = complete_cure(click.get_current_context(), "cdc-outbox status; cdc-outbox check")
    return f"{late}: {reader}; {position}\ncure: {cure}"


def _payload(given: str) -> bytes:
    """The bytes that `--payload` names, as they are. Raises a usage error for a file that cannot be read."""
    if given == "-":
        return sys.stdin.buffer.read()
    if not given.startswith("@"):
        return given.encode(errors="surrogateescape")  # the bytes of the command line
    try:
        return Path(given[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}", param_hint="--payload") from None


def _headers(given: str | None) -> str | None:
    """`given`, if it is a JSON object. Raises a usage error if not."""
    if given is None:
        return None
    try:
        is_object = isinstance(json.loads(given), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise click.BadParameter('write a JSON object: {"tenant": "acme"}', param_hint="--headers")
    return given
