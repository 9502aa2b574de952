"""`cdc-outbox sql` as it prints: the rendered files on stdout, nothing else, and no server anywhere."""

from __future__ import annotations

import pytest

from cdc_outbox.commands.install import InstallOptions, render_consumer, render_install, render_roles, render_uninstall
from cdc_outbox.identifiers import TableName

OPTIONS = InstallOptions(table=TableName("App", "outbox"), publication="pub", slot="slot_1", payload_type="jsonb")


def test_install_prints_the_sql_of_its_options_and_nothing_else(invoke) -> None:
    result = invoke("sql", "install", "--table", '"App".Outbox', "--publication", "pub", "--payload-type", "jsonb")

    assert (result.exit_code, result.stdout, result.stderr) == (0, render_install(OPTIONS), "")


def test_options_come_from_the_environment_and_the_file_too(invoke, toml) -> None:
    result = invoke(
        "sql",
        "install",
        "--config",
        toml("publication = 'pub'"),
        CDC_OUTBOX_TABLE='"App".outbox',
        CDC_OUTBOX_PAYLOAD_TYPE="jsonb",
    )

    assert (result.exit_code, result.stdout) == (0, render_install(OPTIONS))


def test_roles_prints_the_roles(invoke) -> None:
    result = invoke("sql", "roles", "--table", '"App".outbox')

    assert (result.exit_code, result.stdout) == (0, render_roles(OPTIONS))


def test_consumer_prints_the_inbox(invoke) -> None:
    other = invoke("sql", "consumer", "--inbox", '"App".inbox')

    assert (other.exit_code, other.stdout, other.stderr) == (0, render_consumer(TableName("App", "inbox")), "")
    assert invoke("sql", "consumer").stdout == render_consumer()
    assert invoke("sql", "consumer", "--inbox", "a.b.c").exit_code == 2


@pytest.mark.parametrize("switch", ["", "--drop-table", "--drop-roles"])
def test_uninstall_prints_the_statements_of_its_switches(invoke, switch: str) -> None:
    names = ["--table", '"App".outbox', "--publication", "pub", "--slot", "slot_1"]

    result = invoke("sql", "uninstall", *names, *([switch] if switch else []))

    expected = render_uninstall(OPTIONS, drop_table=switch == "--drop-table", drop_roles=switch == "--drop-roles")
    assert (result.exit_code, result.stdout) == (0, expected)


def test_a_name_that_postgresql_would_cut_is_refused(invoke) -> None:
    result = invoke("sql", "install", "--table", "t" * 59)

    assert (result.exit_code, result.stdout) == (78, "")
    assert "at most 58 bytes" in result.stderr


@pytest.mark.parametrize("arguments", [["--payload-type", "xml"], ["--table", "a.b.c"], ["--slot", "x"]])
def test_contradictory_options_are_a_usage_error(invoke, arguments: list[str]) -> None:
    assert invoke("sql", "install", *arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--payload", "{}"],
        ["--aggregate-type", "", "--payload", "{}"],
        ["--aggregate-type", "order"],
        ["--aggregate-type", "order", "--payload", "{}", "--tombstone"],
        ["--aggregate-type", "order", "--payload", "@/nonexistent/file"],
        ["--aggregate-type", "order", "--payload", "{}", "--headers", "[]"],
        ["--aggregate-type", "order", "--payload", "{}", "--headers", "{"],
    ],
)
def test_an_event_that_makes_no_sense_is_a_usage_error(invoke, arguments: list[str]) -> None:
    result = invoke("emit", "--dsn", "host=127.0.0.1 port=1", *arguments)

    assert (result.exit_code, result.stdout) == (2, "")
