"""`cdc-outbox config show | example`: the configured values and their origins; an example file.

In: the same options, variables and files as `run`. Out: text or JSON on stdout.
Never: a secret, or a connection.
"""

from __future__ import annotations

import json
import textwrap
from typing import Final, TypeAlias

import click

from cdc_outbox.cli.options import CONTEXT, SettingsCommand, all_options, choose, config_file, kafka_properties
from cdc_outbox.config.options import Option
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.config.sources import Chosen

Rows: TypeAlias = dict[str, tuple[str | None, Chosen]]
"""By name: the value as it is shown, and its origin."""

EXAMPLE_WIDTH: Final = 100
"""Columns of the example's comments."""


@click.group(name="config", context_settings=CONTEXT)
def command() -> None:
    """Show the configuration and its origins; print an example file."""


@command.command(cls=SettingsCommand)
@click.option("--json", "as_json", is_flag=True, help="One JSON object: values and origins by name.")
@all_options
@click.pass_context
def show(ctx: click.Context, /, as_json: bool, **_options: object) -> None:
    """Print every option's value and its origin, with secrets masked.

    Origins: flag, environment (with the variable), file (with its path), preset (--columns), default.
    """
    from cdc_outbox.config.redaction import MASK, is_secret_property

    chosen = choose(ctx)
    kafka = kafka_properties(ctx, chosen)
    chosen["brokers"] = kafka.brokers(chosen["brokers"])
    del chosen["kafka-property"]
    rows: Rows = {name: (OPTIONS[name].show(one.value), one) for name, one in chosen.items()}
    if file := config_file(ctx):
        source = ctx.get_parameter_source("config")
        variable = OPTIONS["config"].variable
        environment = source is not None and source.name == "ENVIRONMENT"
        rows["config"] = (str(file), Chosen(file, "environment", variable) if environment else Chosen(file, "flag"))
    properties: Rows = {
        name: (MASK if is_secret_property(name) else str(one.value), one)
        for name, one in sorted(kafka.chosen().items())
    }
    click.echo(_as_json(rows, properties) if as_json else _as_text(rows, properties))


@command.command()
def example() -> None:
    """Print a TOML file with every option, its meaning, its variable and its default, all commented out."""
    lines = ["# cdc-outbox: every option, with its default or an example. Remove the # from the options to set."]
    lines += ["# Flags win over environment variables, and those over this file: cdc-outbox run --config FILE"]
    section = ""
    for option in OPTIONS.values():
        if not option.in_file:
            continue
        if option.section != section:
            section = option.section
            lines += ["", f"# ---- {section} ----"]
        lines += ["", *_explained(option), f"#{option.name} = {_toml(option)}"]
    explanation = OPTIONS["kafka-property"].help
    lines += ["", "# ---- Kafka properties; a table, so it stays at the end ----", "", *_comment(explanation)]
    lines += ["#[kafka]", '#"security.protocol" = "SASL_SSL"', '#"sasl.mechanisms" = "SCRAM-SHA-512"']
    lines += ['#"sasl.username" = "relay"']
    click.echo("\n".join(lines))


def _as_text(rows: Rows, properties: Rows) -> str:
    table = [(name, *row) for name, row in rows.items()] + [(f"kafka {name}", *row) for name, row in properties.items()]
    shown = [(name, "-" if value in {None, ""} else str(value), _origin(one)) for name, value, one in table]
    width = [max(len(row[column]) for row in shown) for column in (0, 1)]
    return "\n".join(f"{name:{width[0]}}  {value:{width[1]}}  {origin}" for name, value, origin in shown)


def _as_json(rows: Rows, properties: Rows) -> str:
    def entries(some: Rows) -> dict[str, dict[str, str | None]]:
        return {
            name: {"value": value, "origin": one.origin, "place": one.place or None}
            for name, (value, one) in some.items()
        }

    return json.dumps({"options": entries(rows), "kafka": entries(properties)}, indent=2)


def _origin(one: Chosen) -> str:
    if one.origin == "default" and not one.value and one.value is not False:
        return "not set"
    return f"{one.origin} {one.place}".strip()


def _explained(option: Option) -> list[str]:
    default = f"default: {option.default}" if option.default is not None else "no default"
    return [*_comment(option.help), f"# {option.variable}; {default}"]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, EXAMPLE_WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _toml(option: Option) -> str:
    """The default, or the example, as TOML. JSON's strings are TOML's basic strings."""
    text = option.example if option.default is None else option.default
    if str not in option.value_type.toml:
        return text
    return json.dumps([text] if option.repeat else text, ensure_ascii=False)
