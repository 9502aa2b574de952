"""A TOML file with a mistake in it is refused with the place, what is wrong, and what was probably meant."""

from __future__ import annotations

import pytest

from cdc_outbox.config.toml_file import TomlFile
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("slto = 'x'", "unknown key 'slto'; did you mean 'slot'?"),
        ("max_in_flight_event = 1", "did you mean 'max-in-flight-events'?"),
        ("bootstrap-servers = 'x:1'", "did you mean 'brokers'?"),
        ("bootstrap_server = 'x:1'", "did you mean 'brokers'?"),
        ("kafak = 1", "did you mean 'kafka'?"),
        ("config = 'x'", "unknown key 'config'"),
        ("kafka-property = 'x=y'", "unknown key 'kafka-property'"),
        ("zzzzzz = 1", "unknown key 'zzzzzz'"),
        ("[tables]\nx = 1", "did you mean 'table'?"),
    ],
)
def test_an_unknown_key_is_an_error_that_names_the_nearest(line: str, said: str, invoke, toml) -> None:
    path = toml(line)
    result = invoke("config", "show", "--config", path)
    assert result.exit_code == 78
    assert said in result.stderr
    assert path in result.stderr
    assert result.stderr.splitlines()[-1].startswith("cure: ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("slot = 5", ("slot = 5", "slot name", "string in quotes")),
        ("slot = 'No Good'", ("slot = 'No Good'", "slot name")),
        ("create-slot = 'yes'", ("create-slot = 'yes'", "true or false", "without quotes")),
        ("create-slot = 1", ("create-slot = 1", "true or false")),
        ("max-in-flight-events = true", ("max-in-flight-events = True", "whole number")),
        ("max-in-flight-events = '5'", ("max-in-flight-events = '5'", "a number")),
        ("max-in-flight-events = 0", ("max-in-flight-events = 0", "above 0")),
        ("max-in-flight-bytes = '16M'", ("max-in-flight-bytes = '16M'", "16MiB")),
        ("shutdown-timeout = [25]", ("shutdown-timeout = [25]", "duration")),
        ("table = ['a', 5]", ("table = 5", "list")),
        ("table = []", ("table = []", "table name", "remove table")),
        ("until = 'later'", ("until = 'later'", "never, caught-up")),
        ("slot = 'a'\n[kafka]\nacks = [1]", ("[1]", "[kafka] acks")),
        ("kafka = 5", ("5", "[kafka]")),
        ("slot = 2026-01-01", ("slot = ", "slot name")),
        ("max-in-flight-events = 1\nmax_in_flight_events = 2", ("max-in-flight-events", "twice")),
    ],
)
def test_a_wrong_value_is_an_error_that_names_key_value_and_what_was_expected(line, said, invoke, toml) -> None:
    result = invoke("config", "show", "--config", toml(line))
    assert result.exit_code == 78
    for words in said:
        assert words in result.stderr


@pytest.mark.parametrize(
    "line",
    [
        "dsn = ['hunter2']",
        "[kafka]\n'sasl.password' = ['hunter2']",
        "dsn = 'hunter2",
        "[kafka]\nsasl.password = { a = ['hunter2'] }",
    ],
)
def test_a_mistake_in_a_secret_does_not_show_it(line: str, invoke, toml) -> None:
    result = invoke("config", "show", "--config", toml(line))
    assert result.exit_code == 78
    assert "hunter2" not in result.output


def test_text_that_is_no_toml_is_refused_with_its_line(invoke, toml) -> None:
    result = invoke("run", "--config", toml("slot = 'a'\nslot b\n"))
    assert result.exit_code == 78
    assert "line 2" in result.stderr


@pytest.mark.parametrize("path", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_refused(path: str, invoke, tmp_path) -> None:
    result = invoke("run", "--config", str(tmp_path / path))
    assert result.exit_code == 78
    assert "cannot be read" in result.stderr


def test_native_and_written_values_mean_the_same(toml) -> None:
    native = TomlFile(
        toml("max-in-flight-bytes = 1048576\nshutdown-timeout = 90\nstartup-timeout = 1.5\ntable = 'A'")
    ).values()
    written = TomlFile(
        toml("max_in_flight_bytes = '1MiB'\nshutdown_timeout = '1.5m'\nstartup-timeout = '1500ms'\ntable = ['a']")
    ).values()
    assert native == written
    assert native["table"] == (TableName("public", "a"),)


def test_nested_tables_of_properties_are_joined_with_dots(toml) -> None:
    file = TomlFile(
        toml(
            '[kafka]\n"acks" = "all"\nlinger.ms = 5\n[kafka.sasl]\nusername = "u"\n[kafka.enable]\nidempotence = true\n'
        )
    )
    assert file.values() == {}
    assert file.properties() == {"acks": "all", "linger.ms": "5", "sasl.username": "u", "enable.idempotence": "true"}


def test_secrets_in_the_file_are_read_again_at_each_use(toml) -> None:
    file = TomlFile(toml("dsn = 'password=old'\n[kafka]\n'sasl.password' = 'old'"))
    dsn = file.values()["dsn"]
    assert (dsn.reveal(), file.properties()) == ("password=old", {"sasl.password": "old"})
    toml("dsn = 'password=new'\n[kafka]\n'sasl.password' = 'new'")
    assert (dsn.reveal(), file.properties()) == ("password=new", {"sasl.password": "new"})


def test_a_dsn_that_vanished_from_the_file_is_a_configuration_error(toml) -> None:
    dsn = TomlFile(toml("dsn = 'password=old'")).values()["dsn"]
    toml("")
    with pytest.raises(ConfigurationError, match="dsn"):
        dsn.reveal()


def test_the_file_serves_every_command_and_its_other_keys_do_not_disturb(invoke, toml) -> None:
    path = toml("http = 'off'\nbrokers = 'x:1'\ncolumns = 'snake'\n")
    result = invoke("healthcheck", "--config", path)
    assert (result.exit_code, "is off" in result.stderr) == (1, True)
