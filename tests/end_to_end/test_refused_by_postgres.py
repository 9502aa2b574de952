"""What PostgreSQL is not ready for ends the relay at start: the exit code says whose turn it is, the cure what to type."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import make_conninfo

from cdc_outbox.demo.ports import free_port
from tests.plugins.outbox import TABLE, Outbox, ended, ids, no_slot_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer


def test_a_wrong_password(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("CREATE ROLE relay LOGIN REPLICATION PASSWORD 'the-right-one'")
    relay = outbox.relay(dsn=outbox.database.dsn_for("relay", "entirely-wrong"))
    ended(relay, 77, "password authentication failed", "relay", "CDC_OUTBOX_DSN_FILE")
    assert "entirely-wrong" not in relay.stderr_text


def test_an_unknown_database(outbox: Outbox) -> None:
    relay = outbox.relay(dsn=outbox.database.server.dsn_for(dbname="no_such_shop"))
    ended(relay, 78, "no_such_shop", "does not exist", "--dsn")


def test_a_connection_string_that_is_none_is_not_repeated(outbox: Outbox) -> None:
    relay = outbox.relay("--dsn", "host=localhost the-password", database=None)
    assert relay.wait() in {2, 78}
    assert "the-password" not in relay.stderr_text
    assert "connection string" in relay.stderr_text


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("service=no_such_service", ("no_such_service", "PGSERVICEFILE")),
        ("options='-c no_such_setting=1'", ("no_such_setting", "in --dsn")),
    ],
)
def test_a_service_or_a_setting_that_does_not_exist_is_not_waited_for(
    outbox: Outbox, added: str, words: tuple[str, ...]
) -> None:
    ended(outbox.relay("--startup-timeout", "20s", dsn=f"{make_conninfo(outbox.database.dsn)} {added}"), 78, *words)


def test_replication_in_the_connection_string_has_no_effect(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    outbox.drain(dsn=f"{make_conninfo(outbox.database.dsn)} replication=database")
    assert len(outbox.records()) == 1


def test_a_server_that_does_not_answer_within_the_startup_timeout(outbox: Outbox) -> None:
    port = free_port()
    began = time.monotonic()
    relay = outbox.relay("--startup-timeout", "2s", dsn=f"postgresql://relay@127.0.0.1:{port}/shop")
    ended(relay, 69, f"{port}", "refused")
    assert 2 <= time.monotonic() - began < 20


def test_wal_level_replica(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    server = own_postgres(settings={"wal_level": "replica"})
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    ended(outbox.relay(), 78, "wal_level is replica", "ALTER SYSTEM SET wal_level = 'logical'", "restart")


def test_no_free_slot(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    server = own_postgres(settings={"max_replication_slots": "1"})
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.database.execute("SELECT pg_create_physical_replication_slot('taken')")
    ended(outbox.relay(), 78, "slot", "max_replication_slots")
    no_slot_left(outbox)


def test_a_first_start_needs_two_slots_for_a_moment_and_one_without_a_snapshot(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    server = own_postgres(settings={"max_replication_slots": "1"})
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.add()
    ended(outbox.relay(), 78, "cannot be made", "max_replication_slots")
    assert outbox.records() == []
    no_slot_left(outbox)
    outbox.drain("--no-snapshot")


def test_the_replication_attribute_missing(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("CREATE ROLE plain LOGIN PASSWORD 'plain-password'; GRANT SELECT ON outbox TO plain")
    ended(outbox.relay(dsn=outbox.database.dsn_for("plain", "plain-password")), 77, "REPLICATION", "ALTER ROLE")
    assert outbox.slots() == []


def test_the_privilege_to_connect_missing(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute(
        "CREATE ROLE stranger LOGIN REPLICATION PASSWORD 'stranger-password';"
        f"REVOKE CONNECT ON DATABASE {outbox.database.name} FROM PUBLIC"
    )
    ended(outbox.relay(dsn=outbox.database.dsn_for("stranger", "stranger-password")), 77, "CONNECT")


def test_a_missing_table(outbox: Outbox) -> None:
    outbox.create("other")
    ended(outbox.relay(), 78, "public.outbox", "does not exist", "sql install")
    ended(outbox.relay("--table", "shop.outbox"), 78, "shop.outbox", "does not exist")
    assert outbox.slots() == []


def test_a_missing_publication(outbox: Outbox) -> None:
    outbox.create_table()
    last = ended(outbox.relay("--publication", "it's"), 78, "it's", "does not exist")
    assert 'CREATE PUBLICATION "it\'s" FOR TABLE' in last["cure"]
    assert outbox.slots() == []


def test_a_publication_without_inserts(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.database.execute("CREATE PUBLICATION cdc_outbox FOR TABLE outbox WITH (publish = 'update, delete')")
    last = ended(outbox.relay(), 78, "does not publish inserts")
    outbox.database.execute(last["cure"])
    outbox.drain()


def test_a_table_that_is_not_in_the_publication(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.create("other")
    last = ended(outbox.relay(), 78, "does not publish table public.outbox")
    outbox.database.execute(last["cure"].partition(".")[0] + '."outbox"')
    outbox.drain()


@pytest.mark.since_postgres(15)
def test_a_publication_that_hides_rows(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.database.execute("CREATE PUBLICATION cdc_outbox FOR TABLE outbox WHERE (seq > 5) WITH (publish = 'insert')")
    last = ended(outbox.relay(), 78, "hides rows", "seq > 5")
    outbox.database.execute(last["cure"])
    outbox.drain()


@pytest.mark.since_postgres(15)
def test_a_publication_that_hides_a_column_that_is_needed(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.publish("outbox (seq, id, aggregatetype, aggregateid, type)")
    outbox.create_slot()
    outbox.add()
    ended(outbox.relay(), 78, "public.outbox", "payload")
    assert outbox.records() == []


@pytest.mark.parametrize("column", ["aggregatetype", "aggregateid", "payload"])
def test_a_missing_column(outbox: Outbox, column: str) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.database.execute(f"ALTER TABLE outbox RENAME {column} TO renamed; INSERT INTO outbox DEFAULT VALUES")
    last = ended(outbox.relay(), 78, "public.outbox", f"no column {column}", "renamed")
    option = {"aggregatetype": "--topic", "aggregateid": "--key-column", "payload": "--payload-column"}
    assert option[column] in last["cure"]


def test_a_column_of_a_type_that_it_cannot_be(outbox: Outbox) -> None:
    outbox.create(payload="int")
    outbox.create_slot()
    outbox.add(payload=7)
    ended(outbox.relay(), 78, "payload", "json, jsonb, text", "--payload-column")


def test_a_slot_of_another_plugin(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("SELECT pg_create_logical_replication_slot('cdc_outbox', 'test_decoding')")
    ended(outbox.relay(), 78, "cdc_outbox", "test_decoding", "--slot")


def test_a_physical_slot(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("SELECT pg_create_physical_replication_slot('theirs')")
    try:
        ended(outbox.relay("--slot", "theirs"), 78, "theirs", "physical", "--slot")
    finally:
        outbox.database.execute("SELECT pg_drop_replication_slot('theirs')")


def test_a_slot_of_another_database(
    outbox: Outbox, postgres_server: PostgresServer, kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    other = Outbox(postgres_server.create_database(), kafka, relay)
    try:
        other.create_slot()
        outbox.create()
        ended(outbox.relay(), 78, other.database.name, outbox.database.name, "--slot")
    finally:
        other.database.drop()


def test_after_the_cure_the_same_command_works(outbox: Outbox) -> None:
    outbox.database.execute(TABLE.format(table="outbox", payload="json"))
    assert outbox.relay().wait() == 78
    outbox.publish("outbox")
    written = outbox.add()
    outbox.drain()
    assert ids(outbox.records()) == [written]
