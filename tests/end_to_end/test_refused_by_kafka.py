"""What Kafka, or a setting for it, does not allow: exit code and cure."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.ports import free_port
from tests.plugins.outbox import Outbox, ended, ids, no_slot_left

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

REFUSED = {
    "acks=1": "acks=1 is refused: an event would count as delivered before every in-sync replica has it",
    "delivery.timeout.ms=30000": "message.timeout.ms=30000 is refused",
    "queue.buffering.max.messages=5": "--max-in-flight-events",
}


@pytest.mark.parametrize("given", REFUSED)
def test_a_property_that_would_break_a_promise_before_any_server_is_asked(
    relay: Callable[..., Relay], given: str
) -> None:
    nowhere = {"dsn": "host=127.0.0.1 port=1", "brokers": "127.0.0.1:1"}
    ended(relay("-X", given, **nowhere), 78, REFUSED[given])


def test_a_property_that_does_not_exist(outbox: Outbox) -> None:
    outbox.create()
    ended(outbox.relay("-X", "acknowledgements=all"), 78, "acknowledgements", "CONFIGURATION.md")
    assert outbox.slots() == []


def test_a_value_that_librdkafka_does_not_know_does_not_show_a_secret(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.relay("-X", "sasl.password=very-secret-indeed", "-X", "compression.type=brotli")
    ended(relay, 78, "compression")
    assert "very-secret-indeed" not in relay.stderr_text


def test_brokers_that_do_not_answer_within_the_startup_timeout(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    port = free_port()
    began = time.monotonic()
    ended(outbox.relay("--startup-timeout", "3s", brokers=f"127.0.0.1:{port}"), 69, f"127.0.0.1:{port}", "advertised")
    assert 3 <= time.monotonic() - began < 20
    assert outbox.slots() == []


def test_brokers_that_come_later_are_waited_for(outbox: Outbox, fragile_kafka: KafkaCluster) -> None:
    outbox.kafka = fragile_kafka
    topic = fragile_kafka.create_topic(f"{outbox.prefix}order")
    assert fragile_kafka.proxy is not None
    fragile_kafka.proxy.refuse()
    outbox.create()
    written = outbox.add()
    relay = outbox.relay("--until", "caught-up")
    relay.wait_for_log("waiting")
    fragile_kafka.proxy.accept()
    assert relay.wait() == 0
    assert ids(fragile_kafka.consume(topic, 1)) == [written]


def test_a_topic_that_does_not_exist_and_may_not_be_made(
    outbox: Outbox, fragile_kafka: KafkaCluster, database: Database
) -> None:
    outbox.kafka = fragile_kafka
    outbox.create()
    outbox.create_slot()
    reached = outbox.current_lsn()
    written = outbox.add(aggregatetype="unheard-of")
    relay = outbox.relay("-X", "topic.metadata.propagation.max.ms=1000")
    ended(relay, 78, f"{outbox.prefix}unheard-of", "kafka-topics.sh --create", timeout=60)
    fragile_kafka.create_topic(f"{outbox.prefix}unheard-of")
    outbox.drain()
    assert ids(outbox.records()) == [written]
    assert outbox.confirmed_past(reached)


def test_a_port_that_is_taken(outbox: Outbox) -> None:
    outbox.create()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended(outbox.relay("--http", address), 78, address, "--http")
    assert outbox.slots() == []


def test_a_first_start_that_kafka_refuses_leaves_no_slot(outbox: Outbox) -> None:
    outbox.create()
    outbox.add(aggregatetype="no such/topic")
    assert outbox.relay().wait() == 65
    no_slot_left(outbox)
