"""`cdc-outbox sql … --apply`, `sql status`, `emit` on a real server: exit codes, stdout, stderr; the printed SQL in psql."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from cdc_outbox.cli import cli
from cdc_outbox.commands.install import SQL_VERSION
from cdc_outbox.demo.binaries import find_binaries
from cdc_outbox.errors import ConfigurationError
from tests.plugins.absence import absent
from tests.plugins.postgres import Database
from tests.servers.client_programs import folder_of

EVENT = ("--aggregate-type", "order", "--aggregate-id", "42", "--type", "OrderPlaced")

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(database: Database) -> Invoke:
    """Run one command line on the test's database."""

    def run(*arguments: str, stdin: bytes = b"", dsn: str = "") -> Result:
        return CliRunner().invoke(cli, list(arguments), input=stdin, env={"CDC_OUTBOX_DSN": dsn or database.dsn})

    return run


@pytest.fixture
def psql(database: Database) -> Callable[[str], str]:
    """Feed a script to psql as `| psql` does, without ON_ERROR_STOP. What it said on stderr."""
    try:
        program = folder_of("psql", find_binaries()) / "psql"
    except ConfigurationError as error:
        absent(str(error))
    if not program.exists():
        absent(f"{program} is not there")

    def run(script: str) -> str:
        command = [program, "--no-psqlrc", "--quiet", "--dbname", database.dsn]
        return subprocess.run(command, input=script, capture_output=True, text=True, check=False, timeout=30).stderr

    return run


def installed(invoke: Invoke, *arguments: str) -> None:
    result = invoke("sql", "install", "--apply", *arguments)
    assert result.exit_code == 0, result.output


def test_apply_reports_on_stderr_what_it_did_and_prints_no_sql(invoke: Invoke, database: Database) -> None:
    result = invoke("sql", "install", "--apply")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == ("installed: table public.outbox, function public.outbox_emit, publication cdc_outbox\n")

    result = invoke("sql", "roles", "--apply")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "cdc_outbox_relay" in result.stderr

    result = invoke("sql", "uninstall", "--apply", "--slot", f"s_{secrets.token_hex(6)}")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "table public.outbox is still there" in result.stderr
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_status_is_1_before_and_0_after(invoke: Invoke) -> None:
    before = invoke("sql", "status")
    assert before.exit_code == 1
    assert before.stdout.count("missing") == 6
    assert "cdc-outbox sql install --apply" in before.stderr

    installed(invoke)

    after = invoke("sql", "status")
    assert (after.exit_code, after.stderr) == (0, "")
    assert f"version {SQL_VERSION} of {SQL_VERSION}, payload json" in after.stdout


def test_status_as_json_has_the_same_in_one_object(invoke: Invoke) -> None:
    installed(invoke, "--table", "app.outbox", "--payload-type", "bytea")

    result = invoke("sql", "status", "--json", "--table", "app.outbox")

    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "table": {"name": "app.outbox", "exists": True, "payload_type": "bytea", "delete_after_insert": False},
        "function": {"name": "app.outbox_emit", "exists": True},
        "publication": {
            "name": "cdc_outbox",
            "exists": True,
            "publishes_table": True,
            "options_as_installed": True,
        },
        "roles": {"cdc_outbox_writer": False, "cdc_outbox_relay": False, "cdc_outbox_pruner": False},
        "version": SQL_VERSION,
        "newest_version": SQL_VERSION,
        "complete": True,
    }


def test_the_printed_script_installs_through_psql_without_output(invoke: Invoke, psql: Callable[[str], str]) -> None:
    scripts = invoke("sql", "install").stdout + invoke("sql", "roles").stdout

    assert psql(scripts) == ""
    assert "ERROR" not in psql(scripts)
    assert invoke("sql", "status").exit_code == 0


def test_uninstall_in_psql_stops_at_an_active_slot_and_does_nothing_more(
    invoke: Invoke, psql: Callable[[str], str], database: Database
) -> None:
    installed(invoke)
    slot = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(f"{database.dsn} replication=database", autocommit=True) as relay:
        relay.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput".encode())

        said = psql(invoke("sql", "uninstall", "--drop-table", "--slot", slot).stdout)

    assert f"ERROR:  slot {slot} is active" in said
    assert "HINT:  stop the relay, then run this again" in said
    assert invoke("sql", "status").exit_code == 0


def test_an_active_slot_is_75_with_the_cure(invoke: Invoke, database: Database) -> None:
    installed(invoke)
    slot = f"s_{secrets.token_hex(6)}"
    with psycopg.connect(f"{database.dsn} replication=database", autocommit=True) as relay:
        relay.execute(f"CREATE_REPLICATION_SLOT {slot} TEMPORARY LOGICAL pgoutput".encode())

        result = invoke("sql", "uninstall", "--apply", "--drop-table", "--slot", slot)

    assert result.exit_code == 75
    assert "is active: process" in result.stderr
    assert "cure: stop the relay, then run this again" in result.stderr


def test_a_server_that_is_not_there_is_69_and_a_wrong_password_77_without_the_password(
    invoke: Invoke, database: Database
) -> None:
    assert invoke("sql", "install", "--apply", dsn="host=127.0.0.1 port=1 connect_timeout=2").exit_code == 69

    database.execute("CREATE ROLE somebody LOGIN PASSWORD 'right'")
    result = invoke("sql", "install", "--apply", dsn=database.dsn_for("somebody", "wr0ng-passw0rd"))
    assert result.exit_code == 77
    assert "wr0ng-passw0rd" not in result.output


def test_emit_prints_the_id_of_the_row_it_wrote(invoke: Invoke, database: Database) -> None:
    installed(invoke)

    result = invoke("emit", *EVENT, "--payload", '{"b": 1,  "a": "ü"}', "--headers", '{"tenant": "acme"}')

    assert (result.exit_code, result.stderr) == (0, "")
    assert database.execute(
        "SELECT id::text, aggregatetype, aggregateid, type, payload::text, headers FROM outbox"
    ) == [(result.stdout.strip(), "order", "42", "OrderPlaced", '{"b": 1,  "a": "ü"}', {"tenant": "acme"})]


def test_emit_reads_stdin_and_files_byte_for_byte(invoke: Invoke, database: Database, tmp_path: Path) -> None:
    installed(invoke, "--payload-type", "bytea")
    file = tmp_path / "payload"
    file.write_bytes(b"\x00file\xff\n")

    assert invoke("emit", *EVENT, "--payload", "-", stdin=b"\x00stdin\xff\n").exit_code == 0
    assert invoke("emit", *EVENT, "--payload", f"@{file}").exit_code == 0
    assert invoke("emit", *EVENT, "--payload", "").exit_code == 0
    assert invoke("emit", *EVENT, "--tombstone").exit_code == 0

    assert database.execute("SELECT payload FROM outbox ORDER BY seq") == [
        (b"\x00stdin\xff\n",),
        (b"\x00file\xff\n",),
        (b"",),
        (None,),
    ]


@pytest.mark.parametrize("payload", [b"{", b'"\xff"', b'"\x00"', b""])
def test_emit_of_what_is_no_json_is_78_and_writes_nothing(invoke: Invoke, database: Database, payload: bytes) -> None:
    installed(invoke)

    result = invoke("emit", *EVENT, "--payload", "-", stdin=payload)

    assert (result.exit_code, result.stdout) == (78, "")
    assert "cure: " in result.stderr
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_emit_without_the_function_is_78_and_names_the_command(invoke: Invoke) -> None:
    result = invoke("emit", *EVENT, "--payload", "{}", "--table", "app.outbox")

    assert (result.exit_code, result.stdout) == (78, "")
    assert "there is no function app.outbox_emit" in result.stderr
    assert "cure: cdc-outbox sql install --table app.outbox --apply" in result.stderr


def test_emit_without_execute_is_77_and_names_the_grant(invoke: Invoke, database: Database) -> None:
    installed(invoke)
    database.execute("CREATE ROLE somebody LOGIN PASSWORD 'secret'")

    result = invoke("emit", *EVENT, "--payload", "{}", dsn=database.dsn_for("somebody", "secret"))

    assert (result.exit_code, result.stdout) == (77, "")
    assert (
        'GRANT EXECUTE ON FUNCTION "public"."outbox_emit"(text, text, text, json, jsonb, uuid) TO "somebody"'
        in result.stderr
    )
