"""One table of options: complete, consistent with `Settings`, and free of secrets in what it prints."""

from __future__ import annotations

import dataclasses
import re

import pytest

from cdc_outbox.config.options import DSN, OPTIONS, PRESETS, preset_values
from cdc_outbox.config.settings import Columns, HeaderColumn, Secret, Settings, settings_from
from cdc_outbox.identifiers import TableName


def chosen(**given: object) -> dict[str, object]:
    """One parsed value for each option: its default, or what the test gives."""
    values: dict[str, object] = {}
    for option in OPTIONS.values():
        default = None if option.default is None else option.kind.parse(option.default)
        values[option.key] = (() if default is None else (default,)) if option.repeat else default
    return values | given


def test_the_defaults_of_the_table_are_those_of_the_settings() -> None:
    made = settings_from(chosen(), "b:1", dict)
    bare = Settings(brokers="b:1")
    for field in dataclasses.fields(Settings):
        if field.name not in {"dsn", "kafka"}:
            assert getattr(made, field.name) == getattr(bare, field.name), field.name
    assert made.dsn.reveal() == ""


def test_every_setting_can_be_chosen() -> None:
    made = settings_from(
        chosen(
            dsn=Secret.of("host=db"),
            slot="s",
            publication="p",
            create_slot=False,
            snapshot=False,
            table=(TableName("a", "b"), TableName("c", "d")),
            topic="t",
            id_column=("i",),
            key_column=("k", "k2"),
            type_column=("y",),
            payload_column=("l",),
            timestamp_column="ts",
            partition_column="pa",
            header=(HeaderColumn("c", "n"),),
            on_poison="stop",
            on_slot_busy="exit",
            max_in_flight_events=1,
            max_in_flight_bytes=2,
            until="caught-up",
            shutdown_timeout=3.0,
            startup_timeout=4.0,
            http="off",
            log_format="json",
            log_level="debug",
        ),
        "b:1",
        lambda: {"acks": "all"},
    )
    assert made.kafka() == {"acks": "all"}
    assert made.dsn.reveal() == "host=db"
    assert dataclasses.replace(made, kafka=dict, dsn=made.dsn) == Settings(
        brokers="b:1",
        dsn=made.dsn,
        slot="s",
        publication="p",
        create_slot=False,
        snapshot=False,
        tables=(TableName("a", "b"), TableName("c", "d")),
        topic="t",
        columns=Columns(id=("i",), key=("k", "k2"), type=("y",), payload=("l",), timestamp="ts", partition="pa"),
        headers=(HeaderColumn("c", "n"),),
        on_slot_busy="exit",
        max_in_flight_events=1,
        max_in_flight_bytes=2,
        until_caught_up=True,
        shutdown_timeout=3.0,
        startup_timeout=4.0,
        http="off",
        log_format="json",
        log_level="debug",
    )


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_an_option_is_explained_and_its_default_is_one_of_its_values(option) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", option.name)
    assert option.variable == "CDC_OUTBOX_" + option.name.upper().replace("-", "_")
    assert option.help.endswith(".")
    assert option.default is not None or option.example or not option.in_file
    for text in filter(None, (option.default, option.example)):
        assert option.kind.show(option.kind.parse(text)) == text


def test_presets_change_only_options_that_exist() -> None:
    assert set(OPTIONS["columns"].kind.metavar.strip("[]").split("|")) == set(PRESETS)
    assert preset_values("debezium") == {}
    assert preset_values("snake")["key-column"] == ("aggregate_id",)


def test_a_secret_prints_as_asterisks_everywhere() -> None:
    settings = Settings(brokers="b:1", dsn=Secret.of("host=db password=hunter2"))
    for text in (repr(settings), str(settings.dsn), f"{settings.dsn}", f"{settings.dsn!r}", "%s" % settings.dsn):  # noqa: UP031
        assert "hunter2" not in text
        assert "***" in text


def test_a_secret_is_read_again_at_each_use() -> None:
    values = iter(["old", "new"])
    secret = Secret(lambda: next(values))
    assert (secret.reveal(), secret.reveal()) == ("old", "new")


def test_a_connection_string_is_shown_without_its_password() -> None:
    assert DSN.show(DSN.parse("postgresql://relay:hunter2@db/shop")) == "postgresql://relay:***@db/shop"
    assert DSN.show(DSN.parse("hunter2")) == "***"
