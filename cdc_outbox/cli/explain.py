"""`cdc-outbox explain CODE`: what an error code means and what to do. stdout is the section of the troubleshooting page."""

from __future__ import annotations

import click

from cdc_outbox.cli.options import CONTEXT


@click.command(name="explain", context_settings=CONTEXT)
@click.argument("code", required=False)
@click.option("--list", "list_all", is_flag=True, help="Print every code.")
def command(code: str | None, *, list_all: bool) -> None:
    """Explain an error code, or the name of a log event.

    CODE is in brackets behind an error on a terminal, and `code` in the JSON log.
    """
    from cdc_outbox.commands.explain import explain, read_sections

    if list_all:
        click.echo("\n".join(read_sections()))
        return
    if code is None:
        raise click.UsageError("name a code, such as slot-lost, or --list")
    click.echo(explain(code.strip("[]")))
