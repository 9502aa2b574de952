"""What `sql/` installs is enough: a writer that may only emit, a relay that may only stream."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from tests.faults.acts import recover
from tests.plugins.command import run_command
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


USED: Final = "id, aggregatetype, aggregateid, type, payload, headers"
"""The columns that become part of a record, and no other."""


@pytest.mark.parametrize("order", ["", ", seq"], ids=["no column of the order", "with the column of the order"])
def test_select_on_the_used_columns_is_enough_for_a_first_start(installed: Outbox, order: str) -> None:
    installed.database.execute(
        f"REVOKE SELECT ON outbox FROM cdc_outbox_relay;GRANT SELECT ({USED}{order}) ON outbox TO cdc_outbox_relay"
    )
    written = [emit(installed, str(number)) for number in range(3)]
    relay = installed.drain(dsn=installed.database.dsn_for("cdc_outbox_relay", PASSWORD))
    records = installed.records()
    assert sorted(map(event_id, records)) == sorted(written)
    assert all(("traceparent", b"00-aa-bb-01") in (record.headers or []) for record in records)
    unordered = relay.log_lines("snapshot.unordered")
    assert bool(unordered) is not bool(order)
    for line in unordered:
        installed.database.execute(line["cure"].partition("; or ")[0])
        query = "SELECT has_column_privilege('cdc_outbox_relay', 'outbox', 'seq', 'SELECT')"
        assert installed.database.execute(query) == [(True,)]


def test_a_used_column_that_may_not_be_read_is_refused_and_not_left_out(installed: Outbox) -> None:
    installed.database.execute(
        "REVOKE SELECT ON outbox FROM cdc_outbox_relay;"
        "GRANT SELECT (id, aggregatetype, aggregateid, type, payload) ON outbox TO cdc_outbox_relay"
    )
    emit(installed, "{}")
    relay = installed.relay(dsn=installed.database.dsn_for("cdc_outbox_relay", PASSWORD))
    assert relay.wait() == 77
    assert installed.records() == []


def test_a_login_that_acts_as_another_role_needs_grants_for_that_role_only(installed: Outbox) -> None:
    """`ALTER ROLE login SET role = other`: the cure names the role whose privileges count, and helps as printed."""
    installed.database.execute(
        "REVOKE ALL ON outbox FROM cdc_outbox_relay; CREATE ROLE acting;"
        "GRANT acting TO cdc_outbox_relay; ALTER ROLE cdc_outbox_relay SET role = 'acting'"
    )
    written = emit(installed, "{}")
    dsn = installed.database.dsn_for("cdc_outbox_relay", PASSWORD)
    refused = installed.relay(dsn=dsn)
    assert refused.wait() == 77
    (line,) = [each for each in refused.logs if each.get("code") == "select-privilege"]
    assert "role acting may not read" in line["error"]
    installed.database.execute(line["cure"].partition(" (or ")[0])
    installed.drain(dsn=dsn)
    assert [event_id(record) for record in installed.records()] == [written]
    recover(installed, "--dsn", dsn)
    dropped = run_command("slot", "drop", "--yes", dsn=dsn)
    assert dropped.returncode == 77
    (cure,) = re.findall(r"ALTER ROLE \"acting\" REPLICATION;", dropped.stderr)
    installed.database.execute(cure)
    assert run_command("slot", "drop", "--yes", dsn=dsn).returncode == 0
