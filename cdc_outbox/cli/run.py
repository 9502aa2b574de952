"""`cdc-outbox run`: settings in, the service's exit code out."""

from __future__ import annotations

import click

from cdc_outbox.cli.options import CONTEXT, SettingsCommand, all_options, choose, settings_of


@click.command(name="run", cls=SettingsCommand, context_settings=CONTEXT)
@all_options
@click.pass_context
def command(ctx: click.Context, /, **_options: object) -> int:
    """Relay events from PostgreSQL to Kafka until stopped.

    TERM or INT: deliver the events in flight, confirm them, end with 0. A second signal ends the process at once.
    """
    properties = choose(ctx)["kafka-property"].value
    if isinstance(properties, tuple) and ("list", "") in properties:
        _print_properties(ctx)
        return 0
    settings = settings_of(ctx)
    from cdc_outbox.service import run

    return run(settings)


def _print_properties(ctx: click.Context) -> None:
    """`-X list`: print the producer's properties as a properties file, with secrets masked."""
    from cdc_outbox.config.redaction import MASK, is_secret_property
    from cdc_outbox.kafka.properties import effective

    settings = settings_of(ctx, brokers_required=False)
    for name, value in sorted(effective(settings.kafka(), settings).items()):
        click.echo(f"{name}={MASK if is_secret_property(name) else value}")
