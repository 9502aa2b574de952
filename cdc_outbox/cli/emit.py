"""`cdc-outbox emit`: one event through the emit function, for try-outs and smoke tests.

stdout is the event's id. No logic: `operate.emit` has it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from cdc_outbox.cli.options import CONTEXT, dsn_option, reveal, table_option

if TYPE_CHECKING:
    from cdc_outbox.config.value_types import Secret
    from cdc_outbox.identifiers import TableName


_EXAMPLE: Final = """\b
cdc-outbox emit --aggregate-type order --aggregate-id 42 --type OrderPlaced --payload '{"total": 99}'"""


@click.command("emit", context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option(
    "--aggregate-type", metavar="NAME", required=True, help="The kind of thing that changed: names the topic."
)
@click.option("--aggregate-id", metavar="ID", help="Which of them: the record's key. Without it: a null key.")
@click.option(
    "--type", "event_type", metavar="NAME", help="What happened: the header `type`. Without it: no such header."
)
@click.option(
    "--payload",
    metavar="TEXT|@FILE|-",
    help="The record's value: as given, a file's content, or what stdin has.",
)
@click.option("--tombstone", is_flag=True, help="A null value, in place of --payload.")
@click.option("--headers", metavar="JSON", help="A JSON object; each of its members becomes a header.")
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
) -> None:
    """Write one event into the outbox table and print its id."""
    from cdc_outbox.commands.emit import NewEvent, emit_event

    if not aggregate_type:
        raise click.BadParameter("it must not be empty", param_hint="--aggregate-type")
    if (payload is None) != tombstone:
        raise click.UsageError("give either --payload or --tombstone")
    value = None if payload is None else _payload(payload)
    event = NewEvent(aggregate_type, aggregate_id, event_type, value, _headers(headers))
    click.echo(emit_event(reveal(dsn), table, event))


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
