"""A quiet outbox in a busy database: WAL is released all the same, and nothing is written for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.outbox import SLOT, Outbox, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

MEGABYTE = 1024 * 1024


@pytest.fixture
def hurried(own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox on a server with a wal_sender_timeout of two seconds, which makes every cadence thirty times faster."""
    server = own_postgres(settings={"wal_sender_timeout": "2s", "autovacuum": "off"})
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.database.execute(
        "CREATE TABLE business (n bigint, filler text);"
        "CREATE ROLE relay LOGIN REPLICATION PASSWORD 'relay-password'; GRANT SELECT ON outbox TO relay"
    )
    return outbox


def retained(outbox: Outbox) -> int:
    """Bytes of WAL that the slot keeps the server from removing."""
    query = "SELECT (pg_current_wal_lsn() - restart_lsn)::bigint FROM pg_replication_slots WHERE slot_name = %s"
    return int(outbox.database.execute(query, [SLOT])[0][0])


def reply_time(outbox: Outbox) -> float:
    query = "SELECT coalesce(extract(epoch FROM max(reply_time)), 0) FROM pg_stat_replication"
    return float(outbox.database.execute(query)[0][0])


def test_wal_of_other_tables_is_released_without_a_single_event_and_without_any_write_privilege(
    hurried: Outbox,
) -> None:
    hurried.streaming(dsn=hurried.database.dsn_for("relay", "relay-password"))
    before = hurried.current_lsn()
    for _ in range(4):
        hurried.database.execute(
            "INSERT INTO business SELECT n, repeat(md5(n::text), 10) FROM generate_series(1, 20000) n; CHECKPOINT"
        )
    written = hurried.current_lsn()
    assert hurried.database.execute(f"SELECT ('{written}'::pg_lsn - '{before}')::bigint")[0][0] > 20 * MEGABYTE
    eventually(lambda: hurried.confirmed_past(written), "the flush LSN follows the WAL of others")

    def released() -> bool:
        hurried.database.execute("CHECKPOINT")  # writes where a slot may restart; a busy server does so every 15 s
        return retained(hurried) < MEGABYTE

    eventually(released, "the server may remove that WAL")
    assert hurried.records() == []
    assert hurried.database.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_an_event_in_the_middle_of_other_wal_is_confirmed_when_it_is_delivered(hurried: Outbox) -> None:
    relay = hurried.streaming()
    hurried.database.execute("INSERT INTO business SELECT n FROM generate_series(1, 10000) n")
    written = hurried.add()
    hurried.database.execute("INSERT INTO business SELECT n FROM generate_series(1, 10000) n")
    reached = hurried.current_lsn()
    eventually(lambda: hurried.confirmed_past(reached), "the flush LSN follows")
    relay.kill()
    hurried.drain()
    assert ids(hurried.records()) == [written]


def test_an_idle_relay_is_not_cut_off_by_wal_sender_timeout(hurried: Outbox) -> None:
    relay = hurried.streaming()
    began = eventually(lambda: reply_time(hurried), "the relay answers")
    eventually(lambda: reply_time(hurried) > began + 5, "it answers for more than two timeouts")
    assert not relay.log_lines("postgres.disconnected")
    assert len(relay.log_lines("streaming")) == 1


def test_a_server_with_an_idle_relay_shuts_down_at_once_and_the_relay_comes_back(hurried: Outbox) -> None:
    relay = hurried.streaming()
    server = hurried.database.server.embedded
    assert server is not None
    server.restart("fast", timeout=10)
    relay.wait_for_log("streaming", nth=2)
    written = hurried.add()
    assert ids(hurried.records(until=1)) == [written]
