"""The servers that all other tests stand on: each does what its fixture says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database, PostgresServer


def test_a_database_is_fresh_and_its_server_decodes_logically(database: Database) -> None:
    assert database.execute("SHOW wal_level") == [("logical",)]
    assert database.execute("SELECT current_database()") == [(database.name,)]
    assert database.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]


def test_a_dropped_database_takes_its_slots_and_connections_along(postgres_server: PostgresServer) -> None:
    database = postgres_server.create_database()
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"slot_{database.name}"])
    database.connect()
    database.drop()
    with postgres_server.connect() as admin:
        left = admin.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [database.name])
        assert left.fetchall() == []


def test_kafka_gives_back_what_was_produced_on_topics_that_appear_meanwhile(kafka: KafkaCluster) -> None:
    prefix = kafka.unique_topic_prefix()
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for number in range(100):
        headers: list[tuple[str, str | bytes | None]] = [("id", str(number).encode()), ("none", None)]
        producer.produce(
            f"{prefix}{number % 2}", f"v{number}".encode(), b"k", headers=headers, timestamp=1_700_000_000_000
        )
    assert producer.flush(20) == 0
    records = kafka.consume(f"^{prefix}", until=100)
    assert len(records) == 100
    assert {record.timestamp for record in records} == {1_700_000_000_000}
    assert [r.value for r in records if r.topic == f"{prefix}1"] == [f"v{n}".encode() for n in range(1, 100, 2)]
    assert records[0].header("none") is None


def test_a_reader_says_what_came_when_too_little_did(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix() + "a", partitions=3)
    assert kafka.consume(topic, until=0) == []
    with pytest.raises(AssertionError, match="only 0 records"):
        kafka.consume(topic, until=1, timeout=0.3)


def test_a_killed_postgres_comes_back_with_its_data(own_postgres: Callable[..., PostgresServer]) -> None:
    server = own_postgres(durable=True)
    database = server.create_database()
    database.execute("CREATE TABLE t AS SELECT 1 AS n")
    assert server.embedded is not None
    server.embedded.kill()
    assert not server.embedded.running
    server.embedded.start()
    assert database.execute("SELECT n FROM t") == [(1,)]
