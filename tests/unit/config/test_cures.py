"""A cure's command has the options without which it would fail."""

from __future__ import annotations

from typing import Any

import click
import pytest

from cdc_outbox.cli import cli
from cdc_outbox.config.cures import COMMANDS, complete
from cdc_outbox.config.settings import OPTIONS, Settings
from cdc_outbox.config.value_types import Secret
from cdc_outbox.identifiers import TableName

CURE = "nothing is lost: cdc-outbox slot recover, or a new start"


def settings(**chosen: Any) -> Settings:
    return Settings(dsn=Secret.dsn(lambda: ""), brokers="kafka:9092", **chosen)


@pytest.mark.parametrize(
    ("chosen", "options"),
    [
        ({}, ""),
        ({"on_poison": "skip"}, " --on-poison skip"),
        (
            {"on_poison": "dead-letter", "dead_letter_topic": "dead"},
            " --on-poison dead-letter --dead-letter-topic dead",
        ),
        ({"slot": "other"}, " --slot other"),
        ({"publication": "other"}, " --publication other"),
        (
            {"tables": (TableName("public", "a"), TableName("Shop", "b c"))},
            ' --table public.a --table \'"Shop"."b c"\'',
        ),
        ({"source": "both"}, " --source both"),
        ({"slot": "cdc_outbox_0_of_2", "publication": "cdc_outbox_0_of_2"}, " --shard 0/2"),
        ({"slot": "shop_1_of_3", "publication": "cdc_outbox_1_of_3"}, " --shard 1/3 --slot shop"),
        ({"slot": "shop_1_of_3"}, " --shard 1/3 --slot shop"),
        ({"slot": "other", "on_poison": "skip"}, " --slot other --on-poison skip"),
    ],
)
def test_the_command_has_the_options_that_are_not_the_default(chosen: dict[str, Any], options: str) -> None:
    found = complete(CURE, settings(**chosen))
    assert found == f"nothing is lost: cdc-outbox slot recover{options}, or a new start"


def test_a_slot_that_the_cure_names_is_named_once() -> None:
    found = complete("cdc-outbox slot recover --slot other", settings(slot="other", on_poison="skip"))
    assert found == "cdc-outbox slot recover --on-poison skip --slot other"


@pytest.mark.parametrize(
    ("cure", "completed"),
    [
        ("cdc-outbox run, which", "cdc-outbox run --slot s --publication p --table public.t --on-poison skip, which"),
        ("(cdc-outbox check)", "(cdc-outbox check --slot s --publication p --table public.t --on-poison skip)"),
        ("cdc-outbox status; or", "cdc-outbox status --slot s --publication p --table public.t; or"),
        ("cdc-outbox slot create creates", "cdc-outbox slot create --slot s --publication p creates"),
        ("cdc-outbox slot status.", "cdc-outbox slot status --slot s."),
        ("cdc-outbox slot drop --slot other: then", "cdc-outbox slot drop --slot other: then"),
        ("cdc-outbox sql install --apply", "cdc-outbox sql install --publication p --table public.t --apply"),
        ("cdc-outbox sql roles; then", "cdc-outbox sql roles --table public.t; then"),
        (
            "cdc-outbox run --failover; and",
            "cdc-outbox run --slot s --publication p --table public.t --on-poison skip --failover; and",
        ),
        ("cdc-outbox explain slot-lost", "cdc-outbox explain slot-lost"),
    ],
)
def test_each_command_has_the_options_that_it_takes(cure: str, completed: str) -> None:
    chosen = settings(slot="s", publication="p", tables=(TableName("public", "t"),), on_poison="skip")
    assert complete(cure, chosen) == completed
    assert complete(completed, chosen) == completed


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_takes_the_options_that_it_gets(command: str) -> None:
    found: click.Command = cli
    for name in command.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), name) or pytest.fail(f"no command {name}")
    assert {parameter.name for parameter in found.params} >= {OPTIONS[name].key for name in COMMANDS[command]}


@pytest.mark.parametrize("cure", [CURE, "cdc-outbox slot recover --slot other"])
def test_a_complete_cure_stays_as_it_is(cure: str) -> None:
    tables = (TableName("public", "a"), TableName("Shop", "it's b"))
    chosen = settings(slot="other", on_poison="dead-letter", dead_letter_topic="dead", tables=tables)
    once = complete(cure, chosen)
    assert complete(once, chosen) == once
