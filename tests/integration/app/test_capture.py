"""`capture` over real connections: recorded once it is written, by every kind of connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from cdc_outbox.app import capture, emit
from tests.integration.app.adapters import ADAPTERS

if TYPE_CHECKING:
    from tests.integration.app.adapters import Adapter
    from tests.plugins.postgres import Database

ORDER: dict[str, Any] = {"aggregate_type": "order", "aggregate_id": 42, "type": "OrderPlaced", "payload": {"total": 99}}


def test_what_is_emitted_on_the_connection_is_recorded_and_written(adapter: Adapter, shop: Database) -> None:
    with capture(adapter.target) as events, capture(object()) as of_nobody, adapter.transaction():
        event_id = adapter.emit(**ORDER)

    assert [(event.id, event.json()) for event in events] == [(event_id, {"total": 99})]
    assert of_nobody == []
    assert shop.execute("SELECT id FROM outbox") == [(event_id,)]


@pytest.mark.parametrize("name", ADAPTERS)
def test_without_writing_neither_transaction_nor_table_is_needed(name: str, database: Database) -> None:
    with ADAPTERS[name](database.dsn, autocommit=True) as adapter, capture(write=False) as events:
        event_id = adapter.emit(**ORDER)

    assert [event.id for event in events] == [event_id]


def test_what_the_database_refused_is_not_recorded(shop: Database) -> None:
    with (
        psycopg.connect(shop.dsn) as connection,
        capture() as events,
        pytest.raises(psycopg.errors.InvalidTextRepresentation),
    ):
        emit(connection, **{**ORDER, "payload": "no JSON"})

    assert events == []
