"""`emit_many`, `Outbox` and columns of one's own on a real server, by every kind of connection."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any
from uuid import UUID

import psycopg
import pytest

from cdc_outbox.app import Outbox, emit, emit_many
from cdc_outbox.commands.install import InstallOptions, apply_install
from cdc_outbox.identifiers import parse_table
from tests.integration.app.adapters import ADAPTERS

if TYPE_CHECKING:
    from tests.integration.app.adapters import Adapter
    from tests.plugins.postgres import Database

ORDER: dict[str, Any] = {"aggregate_type": "order", "type": "OrderPlaced"}


def orders(count: int) -> list[dict[str, Any]]:
    return [
        {
            **ORDER,
            "aggregate_id": number,
            "payload": {"ü": '"%s" :p1 $1'},
            "headers": {"n": number} if number % 2 else None,
        }
        for number in range(count)
    ]


def test_a_thousand_events_are_written_in_their_order_with_the_change(adapter: Adapter, shop: Database) -> None:
    with adapter.transaction():
        ids = adapter.call(emit_many, orders(1000))

    rows = shop.execute("SELECT id, aggregateid, payload::text, headers FROM outbox ORDER BY seq")
    assert [row[0] for row in rows] == ids
    assert [row[1] for row in rows] == [str(number) for number in range(1000)]
    assert rows[1][2:] == ('{"ü":"\\"%s\\" :p1 $1"}', {"n": "1"})
    assert rows[2][3] is None


def test_many_events_are_rolled_back_with_the_change(adapter: Adapter, shop: Database) -> None:
    with contextlib.suppress(KeyError), adapter.transaction():
        adapter.call(emit_many, orders(3))
        raise KeyError

    assert shop.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_no_events_are_no_statement(adapter: Adapter, shop: Database) -> None:
    assert adapter.call(emit_many, []) == []


def test_a_thousand_events_are_one_round_trip(shop: Database, tmp_path: Any) -> None:
    """libpq's own trace shows each message: one Bind goes out, and the server is ready once."""
    trace = tmp_path / "trace"
    with psycopg.connect(shop.dsn) as connection, trace.open("wb") as file:
        connection.execute("SELECT 1")  # begins the transaction
        connection.pgconn.trace(file.fileno())
        emit_many(connection, orders(1000))
        connection.pgconn.untrace()

    lines = trace.read_text(errors="replace").splitlines()
    assert sum("\tBind\t" in line for line in lines) == 1
    assert sum("ReadyForQuery" in line for line in lines) == 1


def test_values_for_columns_of_ones_own(adapter: Adapter, shop: Database) -> None:
    shop.execute("ALTER TABLE outbox ADD tenant text NOT NULL DEFAULT '-', ADD \"No\" int")
    with adapter.transaction():
        adapter.call(emit, **ORDER, aggregate_id=1, payload={"a": 1}, columns={"tenant": "acme", "No": 7})
        adapter.call(emit_many, [{**one, "columns": {"tenant": f"t{one['aggregate_id']}"}} for one in orders(3)])

    rows = shop.execute('SELECT tenant, "No", payload::text FROM outbox ORDER BY seq')
    assert rows[0] == ("acme", 7, '{"a":1}')
    assert [row[:2] for row in rows[1:]] == [("t0", None), ("t1", None), ("t2", None)]


SNAKE = """
CREATE SCHEMA app;
CREATE TABLE app.events (
    id uuid PRIMARY KEY, aggregate_type text, aggregate_id text, event_type text, payload jsonb, headers json)
"""


def test_another_table_with_other_columns_is_named_once(adapter: Adapter, shop: Database) -> None:
    shop.execute(SNAKE)
    outbox = Outbox(table="app.events", columns="snake", payload_type="jsonb")
    own = UUID(int=9)
    with adapter.transaction():
        assert adapter.call(outbox.emit, **ORDER, aggregate_id=1, payload={"a": 1}, id=own, headers={"h": 1}) == own
        ids = adapter.call(outbox.emit_many, orders(2))

    rows = shop.execute("SELECT id, aggregate_type, aggregate_id, event_type, payload, headers FROM app.events")
    assert min(rows) == (own, "order", "1", "OrderPlaced", {"a": 1}, {"h": "1"})
    assert {row[0] for row in rows} == {own, *ids}


def test_another_table_of_the_same_shape_uses_its_own_function(shop: Database) -> None:
    shop.execute("CREATE SCHEMA app")
    apply_install(shop.dsn, InstallOptions(table=parse_table("app.events"), payload_type="bytea"), pytest.fail)
    outbox = Outbox(table="app.events", payload_type="bytea")
    with psycopg.connect(shop.dsn) as connection:
        outbox.emit_many(connection, [{**ORDER, "aggregate_id": n, "payload": bytes([n, 255])} for n in range(3)])

    assert shop.execute("SELECT payload FROM app.events ORDER BY seq") == [(bytes([n, 255]),) for n in range(3)]


@pytest.mark.parametrize("name", ["psycopg_connection", "asyncpg_connection", "sqlalchemy_session", "django_alias"])
def test_a_table_that_does_not_exist_is_the_drivers_error_with_a_note(name: str, shop: Database) -> None:
    outbox = Outbox(table="app.nothing", columns="snake")
    with (
        ADAPTERS[name](shop.dsn) as adapter,
        pytest.raises(Exception, match="nothing") as refusal,
        adapter.transaction(),
    ):
        adapter.call(outbox.emit, **ORDER, aggregate_id=1, payload={})

    assert "Check table= and columns=" in refusal.value.__notes__[0]
