"""What `sql/` installs is enough: a writer that may only emit, a relay that may only stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from tests.plugins.outbox import event_id

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

SQL: Final = Path(__file__).parents[2] / "sql"

PASSWORD: Final = "not-a-secret-elsewhere"


@pytest.fixture
def installed(outbox: Outbox) -> Outbox:
    """The files as they are shipped, and two roles that log in: the relay's, and an application's."""
    for name in ("outbox.sql", "roles.sql"):
        outbox.database.execute((SQL / name).read_text(encoding="utf-8"))
    outbox.database.execute(
        f"ALTER ROLE cdc_outbox_relay PASSWORD '{PASSWORD}';"
        f"CREATE ROLE shop LOGIN PASSWORD '{PASSWORD}' IN ROLE cdc_outbox_writer"
    )
    return outbox


def emit(outbox: Outbox, payload: str) -> str:
    with psycopg.connect(outbox.database.dsn_for("shop", PASSWORD)) as shop:
        query = "SELECT outbox_emit('order', '42', 'OrderPlaced', %s, '{\"traceparent\": \"00-aa-bb-01\"}')"
        row = shop.execute(query, [payload]).fetchone()
    assert row is not None
    return str(row[0])


def test_the_writer_emits_and_the_relay_streams_first_start_included(installed: Outbox) -> None:
    relay_dsn = installed.database.dsn_for("cdc_outbox_relay", PASSWORD)
    first = emit(installed, '{ "total":  99 }')
    relay = installed.streaming(dsn=relay_dsn)
    second = emit(installed, '{"total": 100}')
    records = installed.records(until=2)
    assert [(event_id(record), record.value) for record in records] == [
        (first, b'{ "total":  99 }'),
        (second, b'{"total": 100}'),
    ]
    for record in records:
        assert (record.topic, record.key) == (f"{installed.prefix}order", b"42")
        assert record.headers[1:] == [("type", b"OrderPlaced"), ("traceparent", b"00-aa-bb-01")]
    relay.terminate()
    assert relay.wait() == 0


def test_the_relay_may_not_write_and_does_not_need_to_read_after_its_first_start(installed: Outbox) -> None:
    relay_dsn = installed.database.dsn_for("cdc_outbox_relay", PASSWORD)
    installed.drain(dsn=relay_dsn)
    for privilege in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER"):
        query = f"SELECT has_table_privilege('cdc_outbox_relay', 'outbox', '{privilege}')"
        assert installed.database.execute(query) == [(False,)]
    assert installed.database.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'cdc_outbox_relay'") == [(False,)]
    installed.database.execute("REVOKE ALL ON outbox FROM cdc_outbox_relay")
    written = emit(installed, "{}")
    installed.drain(dsn=relay_dsn)
    assert [event_id(record) for record in installed.records()] == [written]


def test_the_writer_may_neither_read_nor_change_what_is_written(installed: Outbox) -> None:
    emit(installed, "{}")
    with psycopg.connect(installed.database.dsn_for("shop", PASSWORD), autocommit=True) as shop:
        for statement in (
            "SELECT * FROM outbox",
            "DELETE FROM outbox",
            "UPDATE outbox SET type = 'x'",
            "TRUNCATE outbox",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                shop.execute(statement.encode())
