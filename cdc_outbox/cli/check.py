"""`cdc-outbox check` (alias `doctor`): settings in, one line for each check out, with commands that correct it.

stdout is data: lines, or one JSON document. No logic: `cdc_outbox.check` has it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from cdc_outbox.cli.options import CONTEXT, SettingsCommand, all_options, choose, settings_of

if TYPE_CHECKING:
    from cdc_outbox.check.report import Report


@click.command("check", cls=SettingsCommand, context_settings=CONTEXT)
@click.option("--offline", is_flag=True, help="Check the settings only, without a connection.")
@click.option("--strict", is_flag=True, help="Treat warnings as failures.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@all_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    offline: bool,
    strict: bool,
    as_json: bool,
    **_options: object,
) -> int:
    """Check everything that `run` needs, and show how to correct it. Takes the options of `run`.

    One line for each check: ok, warn (a risk), fail (the relay would not run, or not keep its guarantees), or - for a check
    that could not be made, with the reason. Below it, the commands to type: for PostgreSQL itself, or for the managed
    service (Amazon RDS and Aurora, Cloud SQL, Azure, Supabase, Neon). Changes nothing. Exit code 1 when
    something failed, else 0.

    To test a running relay with one real event: cdc-outbox emit --wait 10s.
    """
    settings = settings_of(ctx)
    _quiet(ctx, settings.log_format, settings.log_level)
    from cdc_outbox.check import run_check
    from cdc_outbox.commands.interrupts import stop_on_signals

    with stop_on_signals() as stop:
        report = run_check(settings, stop, offline=offline)
    _print(report, as_json=as_json)
    return 0 if report.passed(strict=strict) else 1


def _print(report: Report, *, as_json: bool) -> None:
    from cdc_outbox.check.report import lines
    from cdc_outbox.config.redaction import scrub

    if as_json:
        click.echo(scrub(json.dumps(report.document(), indent=2, ensure_ascii=False)))
        return
    colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    for line in lines(report, colors=colors):
        click.echo(scrub(line), color=colors)


def _quiet(ctx: click.Context, log_format: str, log_level: str) -> None:
    """Suppress the log, because the findings include librdkafka's errors; an explicit log level keeps it."""
    import logging

    from cdc_outbox.observe import logs

    asked = choose(ctx)["log-level"].origin != "default"
    logs.configure(log_format, log_level if asked else "error")
    if not asked:
        logging.getLogger("confluent_kafka").setLevel(logging.CRITICAL)
