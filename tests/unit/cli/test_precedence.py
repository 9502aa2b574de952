"""Flag beats environment beats TOML file beats default: for every option of the table, and for each Kafka property."""

from __future__ import annotations

import json

import pytest

from cdc_outbox.config.options import Option
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.config.value_types import PATH, SWITCH
from tests.plugins.samples import samples

EVERYWHERE = [
    option
    for option in OPTIONS.values()
    if option.in_environment and option.in_file and option.value_type is not PATH  # a test of its own, below
]


def flags(option: Option, text: str) -> list[str]:
    if option.value_type is SWITCH:
        return [f"--{option.name}" if text == "true" else f"--no-{option.name}"]
    return [f"--{option.name}", text]


def toml_line(option: Option, text: str) -> str:
    bare = str not in option.value_type.toml
    return f"{option.name} = {text if bare else json.dumps([text] if option.repeat else text)}\n"


@pytest.mark.parametrize("option", EVERYWHERE, ids=lambda option: option.name)
def test_a_flag_beats_its_variable_beats_the_file_beats_the_default(option: Option, show, toml) -> None:
    flag, variable, file = samples(option)
    path = toml(toml_line(option, file))
    environment = {option.variable: variable}

    def shown(*arguments: str, **variables: str) -> tuple[str | None, str | None, str | None]:
        entry = show(*arguments, **variables)["options"][option.name]
        return entry["value"], entry["origin"], entry["place"]

    assert shown("--config", path, *flags(option, flag), **environment) == (flag, "flag", None)
    assert shown("--config", path, **environment) == (variable, "environment", option.variable)
    assert shown("--config", path) == (file, "file", path)
    assert shown(CDC_OUTBOX_CONFIG=path) == (file, "file", path)
    value, origin, _ = shown()
    assert origin == "default"
    assert value == (option.default if option.default is not None else ("" if option.repeat else None))


def test_the_kafka_file_is_chosen_like_any_option(show, toml, tmp_path) -> None:
    names = {}
    for name in ("flag", "variable", "file"):
        names[name] = str(tmp_path / name)
        (tmp_path / name).write_text(f"client.id={name}\n")
    path = toml(f'kafka-config = "{names["file"]}"\n')
    environment = {"CDC_OUTBOX_KAFKA_CONFIG": names["variable"]}

    def client_id(*arguments: str, **variables: str) -> str | None:
        return show(*arguments, **variables)["kafka"].get("client.id", {}).get("value")

    assert client_id("--config", path, "-F", names["flag"], **environment) == "flag"
    assert client_id("--config", path, **environment) == "variable"
    assert client_id("--config", path) == "file"
    assert client_id() is None


def test_a_property_is_taken_from_x_then_environment_then_properties_file_then_toml(show, toml, tmp_path) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text("client.id = properties\n")
    path = toml('[kafka]\nclient.id = "toml"\n')

    def chosen(*arguments: str, **variables: str) -> tuple[str | None, str | None, str | None]:
        entry = show("--config", path, *arguments, **variables)["kafka"]["client.id"]
        return entry["value"], entry["origin"], entry["place"]

    variable = {"CDC_OUTBOX_KAFKA_CLIENT_ID": "variable"}
    file = ("-F", str(properties))
    assert chosen("-X", "client.id=flag", *file, **variable) == ("flag", "flag", None)
    assert chosen(*file, **variable) == ("variable", "environment", "CDC_OUTBOX_KAFKA_CLIENT_ID")
    assert chosen(*file) == ("properties", "file", str(properties))
    assert chosen() == ("toml", "file", path)


def test_precedence_counts_also_when_one_property_has_two_names(show, tmp_path) -> None:
    properties = tmp_path / "client.properties"
    properties.write_text("sasl.mechanism=PLAIN\nqueue.buffering.max.ms=1\n")
    kafka = show("-F", str(properties), "-X", "sasl.mechanisms=SCRAM-SHA-512", "-X", "linger.ms=7")["kafka"]
    assert {name: entry["value"] for name, entry in kafka.items()} == {
        "sasl.mechanisms": "SCRAM-SHA-512",
        "linger.ms": "7",
    }


def test_the_last_of_two_equal_flags_counts(show) -> None:
    assert show("-X", "linger.ms=1", "-X", "linger.ms=2")["kafka"]["linger.ms"]["value"] == "2"


def test_repeated_flags_and_commas_in_variables_and_lists_in_the_file_mean_the_same(show, toml) -> None:
    expected = 'app.outbox,"My Schema"."Out,Box"'
    by_flag = show("--table", "app.outbox", "--table", '"My Schema"."Out,Box"')
    by_variable = show(CDC_OUTBOX_TABLE=' app.outbox , "My Schema"."Out,Box"')
    by_file = show("--config", toml("table = ['app.outbox', '\"My Schema\".\"Out,Box\"']\n"))
    assert [shown["options"]["table"]["value"] for shown in (by_flag, by_variable, by_file)] == [expected] * 3
    assert show(CDC_OUTBOX_HEADER="tenant:tenant-id,region")["options"]["header"]["value"] == "tenant:tenant-id,region"


def test_an_empty_variable_is_not_set(show) -> None:
    assert show(CDC_OUTBOX_SLOT="", CDC_OUTBOX_DSN="", CDC_OUTBOX_KAFKA_CLIENT_ID="")["options"]["slot"] == {
        "value": "cdc_outbox",
        "origin": "default",
        "place": None,
    }


@pytest.mark.parametrize("text", [" ", ",", " , ,"])
@pytest.mark.parametrize("command", ["run", "tail", "prune --older-than 7d", "sql install", "config show"])
def test_a_variable_that_names_no_table_is_refused_and_not_a_relay_of_nothing(command: str, text: str, invoke) -> None:
    result = invoke(*command.split(), CDC_OUTBOX_TABLE=text, CDC_OUTBOX_BROKERS="x:1")
    assert result.exit_code == 2
    assert "not a table name" in result.stderr
    assert "CDC_OUTBOX_TABLE" in result.stderr


def test_a_list_of_headers_may_come_to_none(show, toml) -> None:
    assert show(CDC_OUTBOX_HEADER=" , ")["options"]["header"]["value"] == ""
    assert show("--config", toml("header = []"))["options"]["header"]["value"] == ""


def test_space_around_a_variables_text_is_kept(show) -> None:
    shown = show(CDC_OUTBOX_KAFKA_CLIENT_ID=" a b ", CDC_OUTBOX_TOPIC=" t ")
    assert shown["kafka"]["client.id"]["value"] == " a b "
    assert shown["options"]["topic"]["value"] == " t "


def test_the_snake_preset_changes_three_columns_and_the_topic(show) -> None:
    options = show("--columns", "snake")["options"]
    changed = {name: entry["value"] for name, entry in options.items() if entry["origin"] == "preset"}
    assert changed == {
        "topic": "outbox.event.{aggregate_type}",
        "key-column": "aggregate_id",
        "type-column": "event_type",
    }


@pytest.mark.parametrize("where", ["flag", "environment", "file"])
def test_an_explicit_column_wins_over_the_preset(where: str, show, toml) -> None:
    arguments = {"flag": ("--key-column", "k"), "environment": (), "file": ("--config", toml('key_column = "k"'))}[
        where
    ]
    variables = {"CDC_OUTBOX_KEY_COLUMN": "k"} if where == "environment" else {}
    entry = show("--columns", "snake", *arguments, **variables)["options"]["key-column"]
    assert (entry["value"], entry["origin"]) == ("k", where)


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        (["-X", "bootstrap.servers=x:1"], {}, "x:1"),
        (["-b", "b:1", "-X", "bootstrap.servers=x:1"], {}, "b:1"),
        (["-X", "bootstrap.servers=x:1"], {"CDC_OUTBOX_BROKERS": "e:1"}, "x:1"),
        ([], {"CDC_OUTBOX_BROKERS": "e:1", "CDC_OUTBOX_KAFKA_BOOTSTRAP_SERVERS": "k:1"}, "e:1"),
        (["--bootstrap-server", "s:1"], {}, "s:1"),
        (["--bootstrap-servers", "s:1"], {}, "s:1"),
    ],
)
def test_brokers_may_come_as_a_property_too(arguments, variables, expected, show) -> None:
    assert show(*arguments, **variables)["options"]["brokers"]["value"] == expected


@pytest.mark.parametrize(
    "option", [option for option in EVERYWHERE if option.value_type is not SWITCH], ids=lambda option: option.name
)
def test_a_value_that_is_no_utf8_text_or_holds_a_nul_is_refused(option: Option, invoke, toml) -> None:
    if option.secret:
        refused = invoke("config", "show", f"--{option.name}", "password=hidden\udcff")
        assert (refused.exit_code, "hidden" in refused.stderr) == (2, False)
        return  # from the environment or a file it is checked where it is used: see test_session_conninfo
    refused = invoke("config", "show", **{option.variable: "a\udcff"})
    assert (refused.exit_code, f"--{option.name}" in refused.stderr) == (2, True)
    if str in option.value_type.toml:
        refused = invoke("config", "show", "--config", toml(toml_line(option, "a\0b")))
        assert (refused.exit_code, option.name in refused.stderr) == (78, True)
