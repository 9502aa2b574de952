"""A role that may create objects in `public` gains nothing by it: no command and no script calls what it has created there."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest

from cdc_outbox.app import emit, emit_many, once
from cdc_outbox.commands.install import InstallOptions, render_consumer, render_install, render_roles, render_uninstall
from tests.plugins.command import run_command
from tests.plugins.hostile import ROLE, TRAP, pinned, set_traps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database

PATHS = (pytest.param("public, pg_catalog", marks=pytest.mark.nightly), '"$user", public')
"""What an owner of the database may set, and PostgreSQL's default."""

FILTERS_SINCE = 150000


@pytest.fixture(params=PATHS)
def hostile(database: Database, request: pytest.FixtureRequest) -> Iterator[psycopg.Connection[Any]]:
    """A database full of traps; a session that they do not concern."""
    assert set_traps(database, request.param) > 1000
    with contextlib.closing(pinned(database)) as session:
        yield session


def ok(database: Database, *command: str) -> str:
    done = run_command(*command, dsn=database.dsn)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def scripts(shards: int) -> list[str]:
    options = InstallOptions(partitioned=True, shards=shards)
    kept = InstallOptions(partitioned=True)
    return [
        render_install(options),
        render_install(kept),
        render_roles(kept),
        render_consumer(),
        render_uninstall(kept, drop_table=True, drop_roles=True),
        render_install(InstallOptions(delete_after_insert=True)),
        render_uninstall(InstallOptions(), drop_table=True),
        render_install(InstallOptions(source="message")),
    ]


def shards_of(session: psycopg.Connection[Any]) -> int:
    return 2 if session.info.server_version >= FILTERS_SINCE else 0


def test_a_trap_is_called_by_sql_without_schema_and_cast(database: Database, hostile: psycopg.Connection[Any]) -> None:
    with database.connect() as session, pytest.raises(psycopg.Error) as trapped:
        session.execute("SELECT hashtext('a'::varchar)")
    assert trapped.value.sqlstate == TRAP


def test_no_command_calls_a_trap(outbox: Outbox, hostile: psycopg.Connection[Any]) -> None:
    database = outbox.database
    shards = shards_of(hostile)
    ok(database, "sql", "install", "--apply", "--partitioned", *(["--shards", "2"] if shards else []))
    ok(database, "sql", "roles", "--apply")
    ok(database, "sql", "consumer", "--apply")
    ok(database, "sql", "status")
    ok(database, "sql", "upgrade", "--apply")
    ok(database, "emit", "--aggregate-type", "order", "--aggregate-id", "1", "--type", "OrderPlaced", "--payload", "{}")
    with database.connect(autocommit=False) as session:
        session.execute("SELECT public.outbox_emit('order', '2', 'OrderPlaced', '{}')")
        event = {"aggregate_type": "order", "type": "OrderPlaced", "payload": {}}
        emit(session, **event, aggregate_id="3")
        emit_many(session, [{**event, "aggregate_id": "4"}, {**event, "aggregate_id": "5"}])
        session.execute("SELECT public.inbox_claim('mailer', '1'), public.inbox_prune('1 day')")
        session.commit()
        with once(session, consumer="mailer", message_id="2") as first:
            assert first

    to_kafka = ("--brokers", outbox.kafka.brokers, "--topic", outbox.prefix + "{aggregatetype}")
    ok(database, "check", *to_kafka)
    outbox.drain()
    for shard in range(shards):
        outbox.drain("--shard", f"{shard}/{shards}")
    assert len(outbox.records()) == (10 if shards else 5)
    ok(database, "slot", "status")
    ok(database, "replay", *to_kafka, "--all", "--yes")
    ok(database, "replay", *to_kafka, "--key", "1", "--since", "2020-01-01", "--from-seq", "1", "--yes")
    ok(database, "slot", "recover", *to_kafka, "--yes")
    ok(database, "slot", "create", "--slot", f"{outbox.prefix[:-1]}_x")
    ok(database, "slot", "drop", "--slot", f"{outbox.prefix[:-1]}_x", "--yes")
    ok(database, "tail", "--limit", "1")
    hostile.execute("UPDATE public.outbox SET created_at = created_at - interval '3 days'")
    relay = outbox.streaming()
    ok(database, "prune", "--older-than", "1d", "--partitions-ahead", "9")
    relay.terminate()
    assert relay.wait() == 0
    assert hostile.execute("SELECT count(*) FROM public.outbox").fetchone() == (0,)
    assert ok(database, "sql", "uninstall", "--apply", "--drop-table", "--drop-roles")
    assert hostile.execute(
        "SELECT count(*) FROM pg_replication_slots WHERE database = current_database()"
    ).fetchone() == (0,)
    assert hostile.execute("SELECT count(*) FROM pg_publication").fetchone() == (0,)


def test_printed_scripts_run_in_any_session_and_leave_its_search_path_alone(
    database: Database, hostile: psycopg.Connection[Any]
) -> None:
    with database.connect() as session:
        for text in scripts(shards_of(hostile)):
            for _ in range(2):
                session.execute("SET search_path = public, pg_catalog")
                session.execute(text.encode())
                assert shown(session) == "public, pg_catalog"
                with session.transaction():
                    session.execute("SET LOCAL search_path = public")
                    session.execute(text.encode())
                    assert shown(session) == "public"
                assert shown(session) == "public, pg_catalog"


@pytest.mark.since_postgres(15)
def test_shards_of_a_varchar_key_send_every_row_once(outbox: Outbox, hostile: psycopg.Connection[Any]) -> None:
    hostile.execute(
        "CREATE TABLE public.outbox (id uuid DEFAULT gen_random_uuid(), aggregatetype varchar(255) NOT NULL,"
        " aggregateid varchar(255), type varchar(255), payload json, headers jsonb)"
    )
    ok(outbox.database, "sql", "install", "--apply", "--shards", "2")
    outbox.database.execute(f"ALTER DATABASE {outbox.database.name} SET quote_all_identifiers = on")
    rows = "INSERT INTO public.outbox (aggregatetype, aggregateid) SELECT 'order', n::text FROM generate_series(1, 100) AS n"
    hostile.execute(rows.encode())
    for _ in range(2):
        for shard in range(2):
            outbox.drain("--shard", f"{shard}/2")
        hostile.execute(rows.encode())
    assert len(outbox.records_by_id()) == 200


def shown(session: psycopg.Connection[Any]) -> str:
    row = session.execute("SHOW search_path").fetchone()
    assert row is not None
    return str(row[0])


def test_printed_scripts_run_in_psql(
    database: Database, hostile: psycopg.Connection[Any], postgres_binaries: Path
) -> None:
    psql = shutil.which("psql", path=str(postgres_binaries)) or shutil.which("psql")
    if psql is None:
        pytest.skip("no psql")
    for text in scripts(shards_of(hostile)):
        done = subprocess.run(
            [psql, "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--dbname", database.dsn],
            input=text,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


# --- objects that another role made beforehand ------------------------------------------------------------------------

BEFOREHAND = {
    "table": "CREATE TABLE public.outbox"
    " (id uuid, aggregatetype text, aggregateid text, type text, payload json, headers jsonb)",
    "view": "CREATE VIEW public.outbox AS SELECT 1 AS id",
    "type": "CREATE TYPE public.outbox AS (id uuid)",
    "function": "CREATE FUNCTION public.outbox_emit(a text, b text, c text, d json, e jsonb DEFAULT NULL, f uuid DEFAULT NULL)"
    " RETURNS uuid LANGUAGE sql AS 'SELECT null::uuid'",
    "overload": "CREATE FUNCTION public.outbox_emit(a text, b text, c text, d text) RETURNS uuid LANGUAGE sql"
    " AS 'SELECT null::uuid'",
    "trigger function": "CREATE FUNCTION public.outbox_delete() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
    "publication": "CREATE PUBLICATION cdc_outbox",
}


def as_mallory(database: Database, statement: str) -> None:
    database.execute(
        f"CREATE ROLE {ROLE} NOLOGIN; GRANT CREATE ON SCHEMA public TO {ROLE};"
        f" GRANT CREATE ON DATABASE {database.name} TO {ROLE}"
    )
    database.execute(f"SET ROLE {ROLE}; {statement}")


@pytest.mark.parametrize("statement", BEFOREHAND.values(), ids=BEFOREHAND)
def test_an_object_of_another_role_is_refused_with_its_owner(database: Database, statement: str) -> None:
    as_mallory(database, statement)
    for command in (("install",), ("install", "--delete-after-insert"), ("install", "--partitioned")):
        done = run_command("sql", *command, "--apply", dsn=database.dsn)
        assert done.returncode == 78
        assert f"belongs to role {ROLE}, not to postgres" in done.stderr
        assert f"SET ROLE {ROLE}" in done.stderr
    assert database.execute(
        "SELECT count(*) FROM pg_proc WHERE proowner = 'postgres'::regrole AND proname ~ '^outbox'"
    ) == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.inbox (consumer text, message_id text, claimed_at date, PRIMARY KEY (consumer, message_id))",
        "CREATE FUNCTION public.inbox_claim(a text, b text) RETURNS boolean LANGUAGE sql AS 'SELECT true'",
        "CREATE FUNCTION public.inbox_prune(a interval) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
    ],
)
def test_an_inbox_of_another_role_is_refused_with_its_owner(database: Database, statement: str) -> None:
    as_mallory(database, statement)
    done = run_command("sql", "consumer", "--apply", dsn=database.dsn)
    assert done.returncode == 78
    assert f"belongs to role {ROLE}, not to postgres" in done.stderr


OVERLOADS: Final = (
    "a text, b text, c text, d json, e jsonb",
    "a text, b text, c text, d text, e jsonb",
    "a text, b text, c text, d json, e text, f text DEFAULT NULL",
    "a anyelement, b anyelement, c anyelement, d anyelement, e anyelement",
)


@pytest.mark.parametrize("definer", ["SECURITY INVOKER", "SECURITY DEFINER"])
def test_emit_calls_no_overload_that_another_role_has_added(database: Database, definer: str) -> None:
    ok(database, "sql", "install", "--apply")
    as_mallory(
        database,
        "; ".join(
            f"CREATE FUNCTION public.outbox_emit({parameters}) RETURNS uuid LANGUAGE plpgsql {definer}"
            " AS 'BEGIN RAISE EXCEPTION ''overload''; END'"
            for parameters in OVERLOADS
        ),
    )
    ok(database, "emit", "--aggregate-type", "order", "--aggregate-id", "1", "--type", "OrderPlaced", "--payload", "{}")
    with database.connect(autocommit=False) as session:
        emit(session, aggregate_type="order", aggregate_id="2", type="OrderPlaced", payload={})
        session.commit()
    assert database.execute("SELECT aggregateid FROM outbox ORDER BY 1") == [("1",), ("2",)]


def test_a_table_and_its_function_belong_to_one_role(database: Database) -> None:
    ok(database, "sql", "install", "--apply")
    database.execute(
        f"CREATE ROLE {ROLE} NOLOGIN; ALTER FUNCTION public.outbox_emit(text, text, text, json, jsonb, uuid) OWNER TO {ROLE}"
    )
    done = run_command("sql", "roles", "--apply", dsn=database.dsn)
    assert done.returncode == 78
    assert f"belongs to role {ROLE}, and its table to role postgres" in done.stderr


def test_roles_that_another_role_may_grant_are_refused(database: Database) -> None:
    ok(database, "sql", "install", "--apply")
    database.execute(
        f"CREATE ROLE {ROLE} NOLOGIN; CREATE ROLE cdc_outbox_relay; GRANT cdc_outbox_relay TO {ROLE} WITH ADMIN OPTION"
    )
    done = run_command("sql", "roles", "--apply", dsn=database.dsn)
    assert done.returncode == 78
    assert f"REVOKE ADMIN OPTION FOR cdc_outbox_relay FROM {ROLE}" in done.stderr
    database.execute(f"REVOKE ADMIN OPTION FOR cdc_outbox_relay FROM {ROLE}")
    ok(database, "sql", "roles", "--apply")
    database.execute(f"GRANT cdc_outbox_relay TO {ROLE} WITH ADMIN OPTION")
    ok(database, "sql", "roles", "--apply")


def test_a_table_with_the_name_of_a_partition_is_refused_with_its_owner(database: Database) -> None:
    ok(database, "sql", "install", "--apply", "--partitioned")
    ((day,),) = database.execute("SELECT max(relname) FROM pg_class WHERE relname ~ '^outbox_[0-9]+$'")
    database.execute(f"DROP TABLE {day}")
    as_mallory(database, f"CREATE TABLE public.{day} ()")
    done = run_command("sql", "install", "--apply", "--partitioned", dsn=database.dsn)
    assert done.returncode == 78
    assert f"table public.{day} of role {ROLE} has the name of a partition" in done.stderr


@pytest.mark.since_postgres(15)
def test_uninstall_takes_the_slots_and_publications_of_shards_and_no_other(database: Database) -> None:
    ok(database, "sql", "install", "--apply", "--shards", "2")
    database.execute("CREATE TABLE other (id int PRIMARY KEY); CREATE PUBLICATION cdc_outbox_0_of_3 FOR TABLE other")
    for slot in ("cdc_outbox", "cdc_outbox_0_of_2", "cdc_outbox_1_of_2", "cdc_outbox_0_of_3", "cdc_outbox_x"):
        database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    ok(database, "sql", "uninstall", "--apply")
    assert database.execute(
        "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
    ) == [
        ("cdc_outbox_0_of_3",),
        ("cdc_outbox_x",),
    ]
    assert database.execute("SELECT pubname FROM pg_publication") == [("cdc_outbox_0_of_3",)]
