"""`capture` without a database: what is recorded, and of whom."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import UUID

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, scoped_session

from cdc_outbox.app import Event, OutboxUsageError, capture, emit

ORDER: dict[str, Any] = {"aggregate_type": "order", "aggregate_id": 42, "type": "OrderPlaced", "payload": {"total": 99}}


def test_events_come_as_they_would_be_written_in_their_order() -> None:
    with capture(write=False) as events:
        first = emit(None, **ORDER)
        emit(None, **{**ORDER, "type": "OrderPaid"})

    assert [event.type for event in events] == ["OrderPlaced", "OrderPaid"]
    assert events[0] == Event(first, "order", "42", "OrderPlaced", '{"total":99}', {}, "public.outbox")
    assert events[0].json() == {"total": 99}


def test_after_the_block_nothing_is_recorded_any_more() -> None:
    with capture(write=False) as events:
        pass
    with capture(write=False):
        emit(None, **ORDER)

    assert events == []


def test_without_a_database_any_object_will_do_and_is_not_touched() -> None:
    untouched = Mock(spec=Session)
    with capture(write=False):
        for connection in (None, object(), untouched, "default"):
            assert isinstance(emit(connection, **ORDER), UUID)
    assert untouched.mock_calls == []


class FakeSession:
    """As an application's tests may have it."""

    async def execute(self, statement: str) -> None:
        """Nothing."""


@pytest.mark.parametrize("session", [AsyncMock(spec=AsyncSession), FakeSession(), AsyncMock()])
def test_what_is_for_asyncio_is_awaited_also_when_nothing_is_written(session: Any) -> None:
    async def register() -> UUID:
        return await emit(session, **ORDER)

    with capture(write=False) as events:
        event_id = asyncio.run(register())

    assert [event.id for event in events] == [event_id]


def test_only_events_of_the_named_connection_are_captured() -> None:
    mine, other = Mock(spec=Session), Mock(spec=Session)
    with capture(mine, write=False) as of_mine, capture(other, write=False) as of_other, capture() as of_all:
        emit(mine, **ORDER)
        emit(mine, **ORDER)
        emit(other, **ORDER)

    assert (len(of_mine), len(of_other), len(of_all)) == (2, 1, 3)


def test_a_cursor_is_its_connection_and_a_scoped_session_its_session() -> None:
    connection = Mock(spec=psycopg.Connection)
    cursor = Mock(spec=psycopg.Cursor, connection=connection)
    session = Session()
    registry = scoped_session(lambda: session)
    with capture(connection, write=False) as by_cursor, capture(session, write=False) as by_registry:
        emit(cursor, **ORDER)
        emit(registry, **ORDER)

    assert (len(by_cursor), len(by_registry)) == (1, 1)


def test_what_is_refused_is_not_recorded() -> None:
    with capture(write=False) as events, pytest.raises(OutboxUsageError):
        emit(None, **{**ORDER, "type": ""})

    assert events == []


@pytest.mark.parametrize("connection", [None, object(), 5, Mock(), "nowhere"])
def test_writing_needs_a_connection_of_a_supported_driver(connection: Any) -> None:
    with (
        capture() as events,
        pytest.raises(Exception, match=r"not a connection that is known|nowhere|configured"),
    ):
        emit(connection, **ORDER)

    assert events == []
