"""Options and settings: complete, consistent, and without secrets in a repr."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, Final

import pytest

from cdc_outbox.config.options import Option
from cdc_outbox.config.settings import OPTIONS, PRESETS, Columns, Settings
from cdc_outbox.config.shards import Shard
from cdc_outbox.config.sources import Chosen, OptionConflict, settings_from, with_preset
from cdc_outbox.config.value_types import DSN, Secret
from cdc_outbox.identifiers import TableName
from tests.plugins.samples import other_than_default

FORCED: Final = {
    "on-poison": {"dead-letter-topic": "letters"},
    "format": {"ce-source": "/shop"},
    "partitions-ahead": {"prune-after": 1.0},
}
"""Options that need another one."""


def chosen(**given: object) -> dict[str, Chosen]:
    """Each of these values as if it came from a flag; parameters are the options' keys."""
    by_key = {option.key: name for name, option in OPTIONS.items()}
    return {by_key[key]: Chosen(value, "flag") for key, value in given.items()}


def parsed(option: Option, text: str) -> object:
    value = option.value_type.parse(text)
    return (value,) if option.repeat else value


def at(settings: Settings, option: Option) -> object:
    """The attribute that the option sets."""
    value: object = settings
    for name in option.path:
        value = getattr(value, name)
    return value


def test_the_option_table_is_complete() -> None:
    """Each field is an option, save two that no option sets, and the group of columns."""
    fields = {(field.name,) for field in dataclasses.fields(Settings)} - {("columns",)}
    fields |= {("columns", field.name) for field in dataclasses.fields(Columns)}
    assert fields - {option.path for option in OPTIONS.values()} == {("kafka",), ("columns", "headers")}
    assert len({option.path for option in OPTIONS.values()}) == len(OPTIONS)


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_every_setting_can_be_chosen(option: Option) -> None:
    value = parsed(option, other_than_default(option))
    choices = {option.name: Chosen(value, "flag")}
    choices |= {name: Chosen(other, "flag") for name, other in FORCED.get(option.name, {}).items()}
    settings = settings_from(choices)
    unchanged = settings_from({name: one for name, one in choices.items() if name != option.name})

    if option.value_type is DSN:
        assert settings.dsn.reveal() == other_than_default(option)
        return
    assert at(settings, option) == value != at(unchanged, option)
    for other in OPTIONS.values():
        if other.value_type is not DSN and other is not option and option.name != "shard":
            assert at(settings, other) == at(unchanged, other), f"--{option.name} changes --{other.name}"


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_the_default_has_the_effect_of_leaving_the_option_out(option: Option) -> None:
    left_out = settings_from({})
    if option.default is None:
        assert at(left_out, option) in {None, "", ()} or option.value_type is DSN
    else:
        settings = settings_from({option.name: Chosen(parsed(option, option.default), "flag")})
        assert at(settings, option) == at(left_out, option)


def test_kafka_properties_are_read_through_the_settings() -> None:
    assert settings_from({}, lambda: {"acks": "all"}).kafka() == {"acks": "all"}


def test_a_shards_slot_and_publication_have_its_suffix() -> None:
    settings = settings_from(chosen(shard=Shard(0, 2), slot="s"))
    assert (settings.slot, settings.publication) == ("s_0_of_2", "cdc_outbox_0_of_2")


def test_a_source_of_messages_has_no_table() -> None:
    assert settings_from(chosen(source="message", table=(TableName("a", "b"),))).tables == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_poison": "dead-letter"}, "--dead-letter-topic"),
        ({"format": "cloudevents"}, "--ce-source"),
        ({"shard": Shard(0, 2), "source": "both"}, "--shard"),
        ({"shard": Shard(0, 2), "prune_after": 1.0}, "--prune-after"),
        ({"source": "message", "prune_after": 1.0}, "--prune-after"),
        ({"partitions_ahead": 7}, "--prune-after"),
    ],
)
def test_options_that_conflict_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionConflict, match=message):
        settings_from(chosen(**given))


def test_partitions_ahead_of_a_file_may_be_meant_for_prune() -> None:
    assert settings_from({"partitions-ahead": Chosen(7, "file", "x.toml")}).partitions_ahead == 7


@pytest.mark.parametrize("option", OPTIONS.values(), ids=lambda option: option.name)
def test_an_option_is_explained_and_its_default_is_one_of_its_values(option) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", option.name)
    assert option.variable == "CDC_OUTBOX_" + option.name.upper().replace("-", "_")
    assert option.help.endswith(".")
    assert option.default is not None or option.example or not option.in_file
    for text in filter(None, (option.default, option.example)):
        assert option.value_type.show(option.value_type.parse(text)) == text


def test_presets_change_only_options_that_exist() -> None:
    assert set(OPTIONS["columns"].value_type.metavar.strip("[]").split("|")) == set(PRESETS)
    for changed in PRESETS.values():
        assert set(changed) <= set(OPTIONS)


def test_a_preset_changes_defaults_and_nothing_else() -> None:
    choices = {name: Chosen(None, "default") for name in ("key-column", "type-column", "slot", "topic")}
    changed = with_preset(choices | chosen(columns="snake", type_column=("t",)))
    assert changed["key-column"] == Chosen(("aggregate_id",), "preset", "snake")
    assert changed["type-column"] == Chosen(("t",), "flag")
    assert changed["slot"] == Chosen(None, "default")


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
