"""What an application developer types first: it does what was meant, or the error names what to type."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import decimal
import enum
import json
import typing
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import asyncpg
import attrs
import psycopg
import pydantic
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from cdc_outbox.app import Event, Outbox, OutboxUsageError, capture, emit, emit_many
from tests.integration.app import django_project
from tests.integration.app.adapters import parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database

KEY = uuid.UUID(int=7)
AT = dt.datetime(2026, 11, 29, 8, 30, tzinfo=dt.UTC)
ORDER: dict[str, Any] = {"aggregate_type": "order", "aggregate_id": 42, "type": "OrderPaid", "payload": {"total": 99.5}}

anything: Any = emit
"""`emit` for calls that a type checker refuses."""


@pytest.fixture
def connection(shop: Database) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(shop.dsn) as connection:
        yield connection


@pytest.fixture
def row(shop: Database) -> Callable[[], Any]:
    """The one row that was committed."""

    def read() -> Any:
        ((found),) = shop.execute("SELECT aggregatetype, aggregateid, type, payload::text, headers FROM outbox")
        return found

    return read


# --- payloads ----------------------------------------------------------------------------------------------------------


class Size(enum.Enum):
    SMALL = "s"


class PaidModel(pydantic.BaseModel):
    order: uuid.UUID
    total: decimal.Decimal
    at: dt.datetime


@dataclasses.dataclass
class PaidDataclass:
    order: uuid.UUID
    size: Size


@attrs.define
class PaidAttrs:
    order: uuid.UUID
    day: dt.date


class PaidTyped(typing.TypedDict):
    order: uuid.UUID


typed: PaidTyped = {"order": KEY}

PAYLOADS: dict[str, tuple[Any, str]] = {
    "a pydantic model": (
        PaidModel(order=KEY, total=decimal.Decimal("9.90"), at=AT),
        f'{{"order":"{KEY}","total":"9.90","at":"2026-11-29T08:30:00Z"}}',
    ),
    "a dataclass": (PaidDataclass(KEY, Size.SMALL), f'{{"order":"{KEY}","size":"s"}}'),
    "a class of attrs": (PaidAttrs(KEY, AT.date()), f'{{"order":"{KEY}","day":"2026-11-29"}}'),
    "a TypedDict": (typed, f'{{"order":"{KEY}"}}'),
    "a tuple": ((1, "a"), '[1,"a"]'),
    "a list of models": ([PaidDataclass(KEY, Size.SMALL)], f'[{{"order":"{KEY}","size":"s"}}]'),
    "a model in a dict": (
        {"paid": PaidModel(order=KEY, total=decimal.Decimal(1), at=AT)},
        f'{{"paid":{{"order":"{KEY}","total":"1","at":"2026-11-29T08:30:00Z"}}}}',
    ),
    "a UUID": ({"id": KEY}, f'{{"id":"{KEY}"}}'),
    "a datetime": ({"at": AT}, '{"at":"2026-11-29T08:30:00+00:00"}'),
    "a date": ({"day": AT.date()}, '{"day":"2026-11-29"}'),
    "a Decimal": ({"total": decimal.Decimal("0.10")}, '{"total":0.10}'),
    "a large int": ({"n": 2**70}, f'{{"n":{2**70}}}'),
    "an Enum": ({"size": Size.SMALL}, '{"size":"s"}'),
    "JSON text": ('{"total": 99.5}', '{"total": 99.5}'),
    "JSON of orjson, which is bytes": (b'{"total":99.5}', '{"total":99.5}'),
    "a huge document": ({"text": "x" * 3_000_000}, '{"text":"' + "x" * 3_000_000 + '"}'),
    "None, a tombstone": (None, None),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("what", PAYLOADS)
def test_a_payload_of_any_usual_type(what: str, connection: Any, row: Callable[[], Any]) -> None:
    payload, text = PAYLOADS[what]

    emit(connection, **{**ORDER, "payload": payload})
    connection.commit()

    assert row() == ("order", "42", "OrderPaid", text, None)


REFUSED_PAYLOADS: dict[str, tuple[Any, str]] = {
    "a set": ({"tags": {"a"}}, "default="),
    "bytes inside": ({"photo": b"\xff"}, "default="),
    "a timedelta": ({"took": dt.timedelta(1)}, "default="),
    "an object": (object(), "default="),
    "a number alone": (5, "an object or an array"),
    "a generator": ((n for n in range(3)), "default="),
    "NaN": ({"total": float("nan")}, "JSON"),
    "bytes of another format": (b"\x00\xff", "payload of type bytea"),
}


@pytest.mark.parametrize("what", REFUSED_PAYLOADS)
def test_a_payload_without_a_form_here_is_refused_with_what_to_give(what: str, connection: Any) -> None:
    payload, named = REFUSED_PAYLOADS[what]

    with pytest.raises(OutboxUsageError, match=named):
        emit(connection, **{**ORDER, "payload": payload})


# --- ids, names, headers -----------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "a UUID as aggregate id": ({"aggregate_id": KEY}, ("order", str(KEY), "OrderPaid", None)),
    "no aggregate id": ({"aggregate_id": None}, ("order", None, "OrderPaid", None)),
    "an Enum as type": ({"type": Size.SMALL}, ("order", "42", "s", None)),
    "an Enum as aggregate type": ({"aggregate_type": Size.SMALL}, ("s", "42", "OrderPaid", None)),
    "headers of other types": (
        {"headers": {"n": 5, "id2": KEY, "at": AT, "ok": True}},
        ("order", "42", "OrderPaid", {"n": "5", "id2": str(KEY), "at": AT.isoformat(), "ok": "true"}),
    ),
}


@pytest.mark.parametrize("what", PARTS)
def test_parts_of_any_usual_type(what: str, connection: Any, row: Callable[[], Any]) -> None:
    given, found = PARTS[what]

    emit(connection, **{**ORDER, **given})
    connection.commit()

    assert (*row()[:3], row()[4]) == found


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the parts by their place": (
        lambda c: anything(c, "order", 42, "OrderPaid", {}),
        r"by name: emit\(connection, aggregate_type=",
    ),
    "no connection": (lambda _: anything(**ORDER), "the connection comes first"),
    "the connection by name": (lambda c: anything(connection=c, **ORDER), "the connection comes first"),
    "the connection last": (lambda c: anything(ORDER, c), "not a connection that is known|the connection comes first"),
    "two connections": (lambda c: anything(c, c, **ORDER), "the connection comes first"),
    "the table's names": (
        lambda c: anything(c, aggregatetype="order", aggregateid=42, type="OrderPaid", payload={}),
        "no 'aggregatetype', write aggregate_type",
    ),
    "Kafka's names": (lambda c: anything(c, topic="order", key=42, value={}), "no 'topic', write aggregate_type"),
    "a misspelt part": (lambda c: anything(c, **ORDER, header={}), "no 'header', write headers"),
    "no payload": (
        lambda c: anything(c, aggregate_type="order", aggregate_id=42, type="OrderPaid"),
        r"no payload \(payload=None is a tombstone\)",
    ),
    "a class that is not registered": (
        lambda c: anything(c, PaidDataclass(KEY, Size.SMALL)),
        r"decorate its class with @outbox\.event",
    ),
    "the type alone": (lambda c: anything(c, "OrderPaid"), "give emit the parts aggregate_type"),
    "bytes as aggregate id": (
        lambda c: anything(c, **{**ORDER, "aggregate_id": b"42"}),
        "a str, an int, a UUID or None",
    ),
    "a float as aggregate id": (
        lambda c: anything(c, **{**ORDER, "aggregate_id": 4.2}),
        "a str, an int, a UUID or None",
    ),
    "headers as Kafka's clients take them": (
        lambda c: anything(c, **ORDER, headers=[("tenant", b"acme")]),
        "headers must be a dict",
    ),
    "bytes as a header": (lambda c: anything(c, **ORDER, headers={"tenant": b"acme"}), "'tenant' has bytes: .* a str"),
    "a dict as a header": (lambda c: anything(c, **ORDER, headers={"tenant": {}}), "'tenant' has dict: .* a str"),
    "an id that is a number": (lambda c: anything(c, **ORDER, id=5), "a UUID or its text"),
    "a class as type": (lambda c: anything(c, **{**ORDER, "type": PaidModel}), "type must be a text"),
    "a connection string": (
        lambda _: anything("host=localhost password=secret", **ORDER),
        r"psycopg\.connect\(dsn\)",
    ),
    "None as connection": (lambda _: anything(None, **ORDER), "NoneType is not a connection"),
    "a list in place of emit_many": (lambda c: anything(c, [ORDER, ORDER]), "list is not a registered event"),
    "one event in emit_many": (lambda c: emit_many(c, ORDER), "emit_many takes a list of events"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_call_that_is_nearly_right_is_refused_and_the_right_one_named(
    what: str, connection: Any, shop: Database
) -> None:
    call, named = MISTAKES[what]

    with pytest.raises(OutboxUsageError, match=named) as refused:
        call(connection)
    connection.commit()

    assert "secret" not in str(refused.value)
    assert shop.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_a_mapping_of_the_parts_is_an_event(connection: Any, row: Callable[[], Any]) -> None:
    emit(connection, ORDER)
    connection.commit()

    assert row()[:3] == ("order", "42", "OrderPaid")


# --- connections -------------------------------------------------------------------------------------------------------


def test_in_autocommit_the_block_to_write_is_named(shop: Database) -> None:
    with (
        psycopg.connect(shop.dsn, autocommit=True) as connection,
        pytest.raises(OutboxUsageError, match=r"with connection\.transaction\(\):"),
    ):
        emit(connection, **ORDER)


def test_what_a_connection_comes_from_is_refused_with_the_line_to_write(shop: Database) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(shop.dsn))
    blocks = {
        engine: r"with engine\.begin\(\) as connection:",
        create_async_engine("postgresql+psycopg://"): r"async with engine\.begin\(\) as connection:",
        sessionmaker(engine): r"with Session\.begin\(\) as session:",
    }
    for target, block in blocks.items():
        with pytest.raises(OutboxUsageError, match=block):
            anything(target, **ORDER)


def test_a_pool_of_asyncpg_is_refused_with_the_line_to_write(shop: Database) -> None:
    async def attempt() -> None:
        async with asyncpg.create_pool(**parameters(shop.dsn), min_size=1, max_size=1) as pool:
            await anything(pool, **ORDER)

    with pytest.raises(OutboxUsageError, match=r"async with pool\.acquire\(\) as connection, connection\.transaction"):
        asyncio.run(attempt())


def test_on_a_cursor(shop: Database, row: Callable[[], Any]) -> None:
    with psycopg.connect(shop.dsn) as connection, connection.cursor() as cursor:
        emit(cursor, **ORDER)

    assert row()[0] == "order"


def test_on_a_session_of_sqlalchemy(shop: Database, row: Callable[[], Any]) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(shop.dsn))
    with Session(engine) as session, session.begin():
        emit(session, **ORDER)
    engine.dispose()

    assert row()[0] == "order"


def test_on_an_async_session_and_a_forgotten_await_writes_nothing_and_warns(
    shop: Database, row: Callable[[], Any]
) -> None:
    async def connect() -> Any:
        return await psycopg.AsyncConnection.connect(shop.dsn)

    async def write() -> None:
        engine = create_async_engine("postgresql+psycopg://", async_creator=connect)
        async with AsyncSession(engine) as session, session.begin():
            await emit(session, **ORDER)
        async with AsyncSession(engine) as session, session.begin():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                anything(session, **ORDER).close()
        await engine.dispose()

    asyncio.run(write())

    assert row()[0] == "order"


def test_on_a_connection_of_django(shop: Database, row: Callable[[], Any]) -> None:
    with django_project.database(shop.dsn):
        from django.db import connection, connections, transaction

        with transaction.atomic():
            emit(connection, **ORDER)
        with pytest.raises(OutboxUsageError, match=r'transaction\.atomic\(\): emit\("default"'):
            anything(connections, **ORDER)
        with pytest.raises(OutboxUsageError, match=r"transaction\.atomic"):
            emit("default", **ORDER)

    assert row()[0] == "order"


def test_in_a_transaction_that_has_failed_the_servers_error_comes_through(connection: Any) -> None:
    with contextlib.suppress(psycopg.errors.UndefinedTable):
        connection.execute("SELECT FROM missing")

    with pytest.raises(psycopg.errors.InFailedSqlTransaction):
        emit(connection, **ORDER)


def test_a_table_that_is_not_installed_names_the_command(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection, pytest.raises(psycopg.errors.UndefinedFunction) as refused:
        emit(connection, **ORDER)

    assert "cdc-outbox sql install --apply" in "\n".join(refused.value.__notes__)


def test_a_registered_event_is_emitted_by_itself(connection: Any, row: Callable[[], Any]) -> None:
    outbox = Outbox()

    @outbox.event("order", type="OrderPaid", key="order")
    class Paid(pydantic.BaseModel):
        order: int
        total: decimal.Decimal

    emit(connection, Paid(order=42, total=decimal.Decimal("9.90")))
    connection.commit()

    assert (row()[:3], json.loads(row()[3])) == (("order", "42", "OrderPaid"), {"order": 42, "total": "9.90"})


def test_in_a_test_without_a_database() -> None:
    with capture(write=False) as events:
        emit(None, **ORDER)

    assert [type(event) for event in events] == [Event]
