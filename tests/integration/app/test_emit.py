"""`emit` on a real server, by every kind of connection: in the caller's transaction, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import psycopg
import pytest
import sqlalchemy as sa
from psycopg.rows import class_row

from cdc_outbox.app import OutboxUsageError, emit
from cdc_outbox.commands.install import PAYLOAD_TYPES, InstallOptions, apply_install, apply_roles
from cdc_outbox.identifiers import parse_table
from tests.integration.app.adapters import ADAPTERS, parameters

if TYPE_CHECKING:
    from cdc_outbox.app import PayloadType
    from tests.integration.app.adapters import Adapter
    from tests.plugins.postgres import Database

ORDER = {"aggregate_type": "order", "aggregate_id": 42, "type": "OrderPlaced"}
EVENT: dict[str, Any] = {**ORDER, "payload": {"total": 99.5, "note": 'a "\\n" ü'}, "headers": {"tenant": "acme"}}

ROW = "SELECT id, aggregatetype, aggregateid, type, payload::text, headers, (SELECT array_agg(id) FROM orders) FROM outbox"


class Changed(Exception):
    """The application changes its mind."""


def place_order_and_change_ones_mind(adapter: Adapter) -> None:
    with contextlib.suppress(Changed), adapter.transaction():
        adapter.execute("INSERT INTO orders VALUES (42)")
        adapter.emit(**EVENT)
        raise Changed


def test_an_event_commits_with_the_change_under_the_id_that_emit_returned(adapter: Adapter, shop: Database) -> None:
    with adapter.transaction():
        adapter.execute("INSERT INTO orders VALUES (42)")
        event_id = adapter.emit(**EVENT)
        assert shop.execute("SELECT count(*) FROM outbox") == [(0,)], "not before the commit"

    assert event_id.version == 7
    payload = '{"total":99.5,"note":"a \\"\\\\n\\" ü"}'
    assert shop.execute(ROW) == [(event_id, "order", "42", "OrderPlaced", payload, {"tenant": "acme"}, [42])]


def test_an_event_is_rolled_back_with_the_change(adapter: Adapter, shop: Database) -> None:
    place_order_and_change_ones_mind(adapter)

    assert shop.execute("SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM orders)") == [(0, 0)]


def test_a_savepoint_takes_its_events_with_it(adapter: Adapter, shop: Database) -> None:
    with adapter.transaction():
        kept = adapter.emit(**EVENT)
        place_order_and_change_ones_mind(adapter)

    assert shop.execute("SELECT id FROM outbox") == [(kept,)]


OPENED = sorted(set(ADAPTERS) - {"django_connection", "django_alias", "asyncpg_connection", "asyncpg_of_a_pool"})


@pytest.mark.parametrize("name", ADAPTERS)
def test_outside_a_transaction_it_is_refused_and_nothing_is_written(name: str, shop: Database) -> None:
    with (
        ADAPTERS[name](shop.dsn, autocommit=True) as adapter,
        pytest.raises(OutboxUsageError, match="not in a transaction"),
    ):
        adapter.emit(**EVENT)

    assert shop.execute("SELECT count(*) FROM outbox") == [(0,)]


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name.startswith("psycopg")])
def test_psycopg_in_autocommit_may_emit_inside_a_transaction_block(name: str, shop: Database) -> None:
    with ADAPTERS[name](shop.dsn, autocommit=True) as adapter, adapter.transaction():
        event_id = adapter.emit(**EVENT)

    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


@pytest.mark.parametrize("name", [name for name in OPENED if name != "psycopg_cursor"])
def test_what_begins_a_transaction_by_itself_is_left_to_the_caller_to_commit(name: str, shop: Database) -> None:
    with ADAPTERS[name](shop.dsn) as adapter:
        event_id = adapter.emit(**EVENT)
        assert shop.execute("SELECT count(*) FROM outbox") == [(0,)]
        adapter.execute("COMMIT" if name.startswith("psycopg") else "SELECT 1")

    expected = [(event_id,)] if name.startswith("psycopg") else []
    assert shop.execute("SELECT id FROM outbox") == expected


# --- what it says when the database says no ----------------------------------------------------------------------------

FAMILIES = [
    "psycopg_connection",
    "psycopg_async",
    "asyncpg_connection",
    "sqlalchemy_session",
    "sqlalchemy_async_session",
]
FAMILIES += ["sqlalchemy_async_session_of_psycopg", "django_alias"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_function_that_is_not_there_is_the_drivers_error_with_our_note(name: str, shop: Database) -> None:
    for how in ({"table": "app.events"}, {"table": "events"}, {"payload_type": "bytea"}):
        with (
            ADAPTERS[name](shop.dsn) as adapter,
            pytest.raises(Exception, match="does not exist") as refusal,
            adapter.transaction(),
        ):
            adapter.emit(**EVENT, **how)

        assert not isinstance(refusal.value, OutboxUsageError)
        assert "Run `cdc-outbox sql install --apply`" in refusal.value.__notes__[0]


@pytest.fixture
def writer(shop: Database) -> str:
    """A DSN of a role that may emit, and do nothing else."""
    apply_roles(shop.dsn, InstallOptions(), pytest.fail)
    role, password = f"shop_{secrets.token_hex(4)}", secrets.token_hex(8)
    shop.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}' IN ROLE cdc_outbox_writer")
    return shop.dsn_for(role, password)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_role_with_nothing_but_execute_may_emit(name: str, shop: Database, writer: str) -> None:
    with ADAPTERS[name](writer) as adapter, adapter.transaction():
        event_id = adapter.emit(**EVENT)

    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


def test_a_role_without_execute_gets_the_grant_as_cure(shop: Database, writer: str) -> None:
    shop.execute("REVOKE EXECUTE ON FUNCTION outbox_emit(text, text, text, json, jsonb, uuid) FROM cdc_outbox_writer")

    with psycopg.connect(writer) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege) as refusal:
        emit(connection, **EVENT)

    assert 'EXECUTE on "public"."outbox_emit"' in refusal.value.__notes__[0]


def test_an_error_of_another_statement_has_no_note(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection, pytest.raises(psycopg.errors.InvalidTextRepresentation) as refusal:
        emit(connection, **ORDER, payload="no JSON")

    assert not hasattr(refusal.value, "__notes__")


# --- payloads ----------------------------------------------------------------------------------------------------------

DOCUMENT = {"path": "C:\\temp\\x", "quote": '"', "line": "a\nb", "ü": ["\\x41", None, 1.5]}
TEXT = '{"path":"C:\\\\temp\\\\x","quote":"\\"","line":"a\\nb","ü":["\\\\x41",null,1.5]}'


@pytest.mark.parametrize("name", FAMILIES)
def test_a_document_arrives_as_it_was_in_a_column_of_any_type(name: str, shop: Database) -> None:
    with ADAPTERS[name](shop.dsn) as adapter:
        for payload_type in PAYLOAD_TYPES:
            table = f"of_{payload_type}"
            apply_install(shop.dsn, InstallOptions(table=parse_table(table), payload_type=payload_type), pytest.fail)
            with adapter.transaction():
                for payload in (DOCUMENT, TEXT, TEXT.encode(), None):
                    adapter.emit(**ORDER, payload=payload, table=table, payload_type=payload_type)

            stored = "payload" if payload_type == "bytea" else "convert_to(payload::text, 'UTF8')"
            rows = [row for (row,) in shop.execute(f"SELECT {stored} FROM {table} ORDER BY seq")]
            if payload_type == "jsonb":
                assert [json.loads(row) for row in rows[:3]] == [DOCUMENT] * 3
            else:
                assert rows[:3] == [TEXT.encode()] * 3
            assert rows[3] is None


def test_bytes_of_every_kind_go_into_a_bytea(shop: Database) -> None:
    apply_install(shop.dsn, InstallOptions(table=parse_table("shop.events"), payload_type="bytea"), pytest.fail)
    payload = bytes(range(256))

    with psycopg.connect(shop.dsn) as connection:
        emit(connection, **ORDER, payload=payload, table="shop.events", payload_type="bytea")

    assert shop.execute("SELECT payload FROM shop.events") == [(payload,)]


@pytest.mark.parametrize("payload_type", ["json", "jsonb", "text"])
def test_a_wrong_payload_type_writes_nothing(shop: Database, payload_type: PayloadType) -> None:
    apply_install(shop.dsn, InstallOptions(table=parse_table("shop.events"), payload_type="bytea"), pytest.fail)

    with psycopg.connect(shop.dsn) as connection, pytest.raises(psycopg.errors.UndefinedFunction):
        emit(connection, **ORDER, payload=DOCUMENT, table="shop.events", payload_type=payload_type)


def test_names_are_those_of_sql(shop: Database) -> None:
    for table in ('"My shop"."Out""box"', "Events"):
        apply_install(shop.dsn, InstallOptions(table=parse_table(table)), pytest.fail)

    with psycopg.connect(shop.dsn) as connection:
        emit(connection, **EVENT, table='"My shop"."Out""box"')
        emit(connection, **EVENT, table="PUBLIC.Events")

    assert shop.execute('SELECT (SELECT count(*) FROM "My shop"."Out""box"), (SELECT count(*) FROM events)') == [(1, 1)]


# --- what applications do to their connections -------------------------------------------------------------------------


@dataclass
class Order:
    total: float


@pytest.mark.parametrize(
    "options",
    [
        {"row_factory": class_row(Order)},
        {"cursor_factory": psycopg.RawCursor},
        {"cursor_factory": psycopg.ClientCursor},
    ],
)
def test_factories_of_the_caller_do_not_matter(shop: Database, options: dict[str, Any]) -> None:
    with psycopg.connect(shop.dsn, **options) as connection:
        event_id = emit(connection, **EVENT)

    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


def test_a_server_side_cursor_stands_for_its_connection(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection, connection.cursor("of_the_server") as cursor:
        event_id = emit(cursor, **EVENT)

    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


def test_in_a_pipeline_it_waits_for_nothing(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection, connection.pipeline():
        ids = [emit(connection, **EVENT) for _ in range(10)]

    assert shop.execute("SELECT id FROM outbox ORDER BY seq") == [(event_id,) for event_id in ids]
    assert ids == sorted(ids)


def test_a_pipeline_in_autocommit_is_no_transaction_whatever_was_sent_in_it_before(shop: Database) -> None:
    with psycopg.connect(shop.dsn, autocommit=True) as connection, connection.pipeline():
        connection.execute("SELECT 1")
        with pytest.raises(OutboxUsageError, match="not in a transaction"):
            emit(connection, **EVENT)
        with connection.transaction():
            connection.execute("SELECT 1")
            event_id = emit(connection, **EVENT)

    async def run() -> None:
        connection = await psycopg.AsyncConnection.connect(shop.dsn, autocommit=True)
        async with connection, connection.pipeline():
            await connection.execute("SELECT 1")
            with pytest.raises(OutboxUsageError, match="not in a transaction"):
                await emit(connection, **EVENT)

    asyncio.run(run())

    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


def test_a_closed_connection_raises_the_error_of_asyncpg(shop: Database) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(**parameters(shop.dsn))
        await connection.close()
        await emit(connection, **EVENT)

    with pytest.raises(asyncpg.InterfaceError, match="connection is closed"):
        asyncio.run(run())


def test_a_json_codec_of_asyncpg_does_not_encode_it_a_second_time(shop: Database) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(**parameters(shop.dsn))
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
        async with connection.transaction():
            await emit(connection, **EVENT)
        await connection.close()

    asyncio.run(run())

    assert shop.execute("SELECT payload ->> 'total', headers ->> 'tenant' FROM outbox") == [("99.5", "acme")]


def test_the_ids_sort_in_the_order_of_the_rows(shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection:
        for _ in range(100):
            emit(connection, **EVENT)

    assert shop.execute(
        "SELECT count(*) FROM (SELECT id, lag(id) OVER (ORDER BY seq) AS before FROM outbox) o WHERE id <= before"
    ) == [(0,)]


def test_another_database_than_postgresql_is_refused() -> None:
    with sa.create_engine("sqlite://").connect() as connection, pytest.raises(OutboxUsageError, match="sqlite"):
        emit(connection, **EVENT)


# --- to Kafka ----------------------------------------------------------------------------------------------------------


def test_what_was_emitted_becomes_the_record_and_what_was_rolled_back_does_not(outbox: Any) -> None:
    apply_install(outbox.database.dsn, InstallOptions(), pytest.fail)
    outbox.create_slot()
    outbox.database.execute("CREATE TABLE orders (id int)")
    with ADAPTERS["sqlalchemy_session"](outbox.database.dsn) as adapter:
        place_order_and_change_ones_mind(adapter)
        with adapter.transaction():
            event_id = adapter.emit(**EVENT)
            tombstone = adapter.emit(**ORDER, payload=None)

    outbox.drain()

    first, second = outbox.records()
    assert first.topic == f"{outbox.prefix}order"
    assert (first.key, first.value) == (b"42", '{"total":99.5,"note":"a \\"\\\\n\\" ü"}'.encode())
    assert dict(first.headers) == {"id": str(event_id).encode(), "type": b"OrderPlaced", "tenant": b"acme"}
    assert (second.value, UUID(second.header("id").decode())) == (None, tombstone)
