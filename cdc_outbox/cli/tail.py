"""`cdc-outbox tail`: events as JSON lines, without Kafka and without moving the relay's slot.

stdout is one JSON object a line; messages go to stderr. No logic: see `commands.tail`.
"""

from __future__ import annotations

import sys
from typing import Final

import click

from cdc_outbox.cli.options import (
    CONTEXT,
    SettingsCommand,
    dsn_option,
    option,
    publication_option,
    settings_of,
    tables_option,
    topic_option,
)

_EXAMPLE: Final = """\b
cdc-outbox tail --from-now | jq 'select(.headers.type == "OrderPlaced") | .value'"""


@click.command("tail", cls=SettingsCommand, context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="End after N events.")
@click.option("--from-now", is_flag=True, help="Skip the rows in the table; needs no SELECT on it.")
@dsn_option
@publication_option
@tables_option
@option("source")
@option("message-prefix")
@option("columns")
@topic_option
@option("id-column")
@option("key-column")
@option("type-column")
@option("payload-column")
@option("timestamp-column")
@option("span-context-column")
@option("header")
@option("format")
@option("ce-source")
@option("content-type")
@click.pass_context
def command(ctx: click.Context, /, limit: int | None, *, from_now: bool, **_options: object) -> None:
    """Print events as JSON lines, until Ctrl-C: the rows in the table, then new commits.

    Each line is the record that the relay would send: topic, key, headers, value, timestamp; then lsn (of its commit) and
    table. `value` is the payload itself if it is JSON, else its text, else base64; `value_format` is the format. For rows
    of the table lsn is null, because a row has no commit position, and so is timestamp without --timestamp-column. An
    event that cannot become a record is a line with `error`.

    Reads from a temporary slot of its own, which ends with the command: the relay's slot is not touched, and Kafka is not
    needed. Needs the attribute REPLICATION, and SELECT on the table.
    """
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.tail import Output, Tail

    with stop_on_signals() as stop:
        Tail(settings_of(ctx), Output(sys.stdout.fileno()), stop, _log, from_now=from_now, limit=limit).run()


def _log(message: str) -> None:
    click.echo(message, err=True)
