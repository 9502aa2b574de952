"""Events that wait for Kafka: one warning with a cure for each cause within 10 s, and one line when it is over."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import KafkaError

from tests.faults.acts import QUICK_RECONNECT, down, up, warmed_up
from tests.plugins.kafka import KafkaCluster
from tests.plugins.nightly import others_nightly
from tests.plugins.oracle import judge
from tests.plugins.outbox import Outbox
from tests.plugins.waiting import eventually
from tests.servers.mock_kafka import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import LogLine, Relay
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database
    from tests.servers.mock_kafka import MockKafka

WITHIN: Final = 10.0
"""Seconds until an operator must know."""


@pytest.fixture
def mocked(database: Database, mock_kafka: MockKafka, relay: Callable[..., Relay]) -> Outbox:
    """An outbox whose Kafka is the mock cluster, with a slot."""
    outbox = Outbox(database, KafkaCluster(mock_kafka.brokers), relay)
    outbox.create()
    outbox.create_slot()
    mock_kafka.create_topic(outbox.prefix + "order", partitions=1)
    return outbox


@pytest.fixture
def ready(fragile: Outbox) -> Outbox:
    """An outbox with a slot on a broker that may be broken."""
    fragile.create()
    fragile.create_slot()
    return fragile


def last_error(relay: Relay) -> str:
    """What /status has as the last error; empty for none."""
    with urllib.request.urlopen(f"{relay.http_url}/status", timeout=10) as answer:
        return str(json.loads(answer.read())["last_error"] or "")


def warnings(relay: Relay) -> list[LogLine]:
    """All warnings that name a cure."""
    return [line for line in relay.logs if line["level"] == "warning" and line.get("cure")]


def is_plain(relay: Relay) -> bool:
    """Whether nothing is logged that an operator has to unlearn."""
    return not [text for text in ("brokers are down", "0.10", "Disconnected") if text in relay.stderr_text]


@pytest.mark.parametrize("name", others_nightly(["NOT_ENOUGH_REPLICAS", "KAFKA_STORAGE_ERROR"]))
def test_a_refusal_that_librdkafka_tries_again_in_silence_is_warned_of(
    name: str, mocked: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    relay = mocked.streaming(http=True)
    mocked.confirm()
    mock_kafka.fail(Request.PRODUCE, *[getattr(KafkaError, name)] * 12)
    mocked.add()
    line = relay.wait_for_log("delivery.waiting", timeout=WITHIN)
    assert mocked.prefix + "order" in line["error"]
    assert f"--topic {mocked.prefix}order" in line["cure"]
    assert line["error"] in last_error(relay)
    mocked.confirm()
    relay.wait_for_log("delivery.resumed")
    eventually(lambda: not last_error(relay), "the last error is over")
    assert judge(witness.committed(), mocked.records()).duplicates == 0
    assert len(warnings(relay)) == 1


def test_a_cluster_that_takes_no_compressed_records_is_waited_for_with_the_property_to_set(
    mocked: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    relay = mocked.streaming()
    mocked.confirm()
    mock_kafka.fail(Request.PRODUCE, *[KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT] * 3)
    mocked.add()
    line = relay.wait_for_log("producer.failed", timeout=WITHIN)
    assert "-X compression.type=none" in line["cure"]
    mocked.confirm()
    judge(witness.committed(), mocked.records())


def test_a_frozen_broker_is_one_warning_and_one_line_when_it_is_over(ready: Outbox, witness: Witness) -> None:
    relay = ready.streaming(*QUICK_RECONNECT, http=True)
    warmed_up(ready)
    assert ready.kafka.proxy is not None
    ready.kafka.proxy.freeze()
    ready.add()
    line = relay.wait_for_log("delivery.waiting", timeout=WITHIN)
    assert "does not answer" in line["error"]
    assert "kafka-broker-api-versions.sh" in line["cure"]
    assert "does not answer" in last_error(relay)
    ready.kafka.proxy.thaw()
    ready.confirm()
    relay.wait_for_log("delivery.resumed")
    assert judge(witness.committed(), ready.records()).duplicates == 0
    assert [each["event"] for each in warnings(relay)] == ["delivery.waiting"]
    assert is_plain(relay), relay.stderr_text


@pytest.mark.parametrize("load", [True, False], ids=["events wait", "idle"])
def test_a_dead_broker_is_one_warning_and_one_line_when_it_is_back(load: bool, ready: Outbox, witness: Witness) -> None:
    relay = ready.streaming(*QUICK_RECONNECT, http=True)
    warmed_up(ready)
    down(ready.kafka)
    line = relay.wait_for_log("kafka.unreachable", timeout=WITHIN)
    assert "advertised.listeners" in line["cure"]
    if load:
        ready.add()
        eventually(lambda: "cannot be reached" in last_error(relay), "the last error has it")
    up(ready.kafka)
    over = relay.wait_for_log("kafka.reachable", timeout=20)
    assert over["seconds"] > 0
    ready.confirm()
    assert judge(witness.committed(), ready.records()).duplicates == 0
    assert [each["event"] for each in warnings(relay)] == ["kafka.unreachable"]
    assert is_plain(relay), relay.stderr_text
