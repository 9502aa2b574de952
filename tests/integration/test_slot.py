"""Slots on a real server: created, looked at, made permanent, judged, dropped."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import CdcOutboxError, ConfigurationError, SlotBusy
from cdc_outbox.lsn import format_lsn
from cdc_outbox.postgres import connect, open_transactions, slot
from cdc_outbox.postgres.errors import translated
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.postgres import Database, PostgresServer


@pytest.fixture
def session(database: Database) -> Iterator[ReplicationSession]:
    with contextlib.closing(ReplicationSession(database.dsn, Stop())) as opened:
        yield opened


@pytest.fixture
def connection(database: Database) -> Iterator[connect.Connection]:
    with connect.open_connection(database.dsn) as opened:
        yield opened


def names(database: Database) -> list[str]:
    query = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
    return [name for (name,) in database.execute(query)]


def test_a_slot_is_created_and_found_again(
    database: Database, session: ReplicationSession, connection: connect.Connection
) -> None:
    assert slot.inspect(connection, "mine") is None
    created = slot.create(session, "mine")
    assert (created.name, created.snapshot) == ("mine", None)
    found = slot.inspect(connection, "mine")
    assert found is not None
    assert (found.plugin, found.slot_type, found.database) == ("pgoutput", "logical", database.name)
    assert (found.temporary, found.active, found.wal_status) == (False, False, "reserved")
    assert found.confirmed_flush_lsn == created.consistent_point
    assert found.restart_lsn is not None
    assert found.restart_lsn <= created.consistent_point
    slot.require_usable(found)


def test_a_temporary_slot_goes_with_its_session_and_its_copy_stays_where_it_stood(
    database: Database, session: ReplicationSession, connection: connect.Connection
) -> None:
    created = slot.create(session, "fleeting", temporary=True, snapshot=True)
    assert created.snapshot is not None
    found = slot.inspect(connection, "fleeting")
    assert found is not None
    assert found.temporary
    database.execute("CREATE TABLE something AS SELECT 1")
    slot.make_permanent(session, "fleeting", "lasting")
    session.close()
    eventually(lambda: names(database) == ["lasting"], "the temporary slot is gone")
    lasting = slot.inspect(connection, "lasting")
    assert lasting is not None
    assert lasting.confirmed_flush_lsn == created.consistent_point, format_lsn(created.consistent_point)
    assert not lasting.temporary


def test_the_snapshot_has_exactly_the_rows_that_the_slot_does_not_send(
    database: Database, session: ReplicationSession
) -> None:
    database.execute(
        "CREATE TABLE outbox (n int); CREATE PUBLICATION p FOR TABLE outbox; INSERT INTO outbox VALUES (1)"
    )
    created = slot.create(session, "mine", temporary=True, snapshot=True)
    database.execute("INSERT INTO outbox VALUES (2)")
    with database.connect(autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute(f"SET TRANSACTION SNAPSHOT '{created.snapshot}'".encode())
        assert reader.execute("SELECT n FROM outbox").fetchall() == [(1,)]
    slot.make_permanent(session, "mine", "copy")
    changes = (
        "SELECT count(*) FROM pg_logical_slot_get_binary_changes('copy', NULL, NULL, {}) WHERE get_byte(data, 0) = 73"
    )
    options = "'proto_version', '1', 'publication_names', 'p'"
    assert database.execute(changes.format(options)) == [(1,)]


def test_a_name_that_is_taken_leaves_the_session_usable(session: ReplicationSession) -> None:
    slot.create(session, "mine")
    with pytest.raises(CdcOutboxError) as refused:
        slot.create(session, "mine")
    assert refused.value.where["sqlstate"] == "42710"
    assert slot.create(session, "another").name == "another"


def test_slots_of_another_plugin_or_database_are_refused_with_a_cure(
    database: Database, postgres_server: PostgresServer, connection: connect.Connection
) -> None:
    def refusal(name: str) -> ConfigurationError:
        found = slot.inspect(connection, name)
        assert found is not None
        with pytest.raises(ConfigurationError) as refused:
            slot.require_usable(found)
        assert "--slot" in refused.value.cure
        return refused.value

    database.execute("SELECT pg_create_logical_replication_slot('decoding', 'test_decoding')")
    assert "test_decoding" in refusal("decoding").message
    other = postgres_server.create_database()
    try:
        other.execute("SELECT pg_create_logical_replication_slot('elsewhere', 'pgoutput')")
        assert other.name in refusal("elsewhere").message
    finally:
        other.drop()
    database.execute("SELECT pg_create_physical_replication_slot('physical')")
    try:
        assert "physical" in refusal("physical").message
    finally:
        database.execute("SELECT pg_drop_replication_slot('physical')")


def test_a_slot_in_use_is_not_dropped_and_a_free_one_is(database: Database, connection: connect.Connection) -> None:
    stop = Stop()
    database.execute("CREATE PUBLICATION p")
    stream_session = ReplicationSession(database.dsn, stop)
    slot.create(stream_session, "mine")
    stream = ReplicationStream.start(stream_session, stop, slot="mine", publication="p")
    with pytest.raises(SlotBusy), translated():
        slot.drop(connection, "mine")
    found = slot.inspect(connection, "mine")
    assert found is not None
    assert found.active
    assert found.active_pid is not None
    stream.close()
    slot.drop(connection, "mine")
    assert slot.inspect(connection, "mine") is None


def test_the_transaction_that_delays_a_slot_is_named(database: Database, connection: connect.Connection) -> None:
    writer = database.connect(autocommit=False, application_name="batch-job")
    writer.execute("SELECT pg_current_xact_id()")
    (blocker,) = open_transactions.blockers(connection)
    assert blocker.pid == writer.info.backend_pid
    assert f"pid {writer.info.backend_pid}" in blocker.text
    assert "batch-job" in blocker.text
    writer.rollback()
    assert open_transactions.blockers(connection) == []
