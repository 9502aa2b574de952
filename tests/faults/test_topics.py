"""What is about the cluster and not about an event (a topic, a partition, a limit) is waited for, whatever the policy."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka.admin import NewPartitions

from tests.faults.acts import logged_at
from tests.plugins.metrics import metrics
from tests.plugins.oracle import judge
from tests.plugins.outbox import Outbox, ended, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database

POLICIES: Final = ("stop", "skip")


@pytest.fixture
def closed(database: Database, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox on a broker that creates no topic on demand, with one topic."""
    outbox = Outbox(database, fragile_kafka, relay)
    outbox.create()
    outbox.create_slot()
    outbox.kafka.create_topic(outbox.prefix + "order")
    return outbox


def add_partitions(kafka: KafkaCluster, topic: str, count: int) -> None:
    """Let the topic have `count` partitions."""
    kafka.admin.create_partitions([NewPartitions(topic, count)])[topic].result(timeout=30)


# -- a topic that is not there


def test_a_topic_that_is_missing_is_waited_for_and_no_event_is_skipped(closed: Outbox, witness: Witness) -> None:
    relay = closed.streaming("--on-poison", "skip", http=True)
    closed.confirm()
    written = [closed.add(aggregatetype="late", aggregateid=f"late {number % 3}") for number in range(30)]
    line = relay.wait_for_log("topic.unavailable", timeout=10)
    assert line["topic"] == closed.prefix + "late"
    assert "kafka-topics.sh --create" in line["cure"]
    counted = {name: count for name, count in metrics(relay).items() if name.startswith("delivery_errors_total")}
    assert [name for name in counted if "late" in name and "UNKNOWN_TOPIC_OR_PART" in name], counted
    relay.wait_for_log("topic.unavailable", nth=2, timeout=20)
    closed.kafka.create_topic(closed.prefix + "late")
    closed.confirm()
    assert judge(witness.committed(), closed.records()).duplicates == 0
    assert set(written) <= set(ids(closed.records()))
    assert not relay.log_lines("poison")
    over = relay.wait_for_log("topic.available")
    assert over["seconds"] >= 10


@pytest.mark.parametrize(
    ("properties", "within"),
    [
        (("-X", "topic.metadata.propagation.max.ms=4000"), 15),
        pytest.param((), 45, marks=pytest.mark.nightly, id="30 s, the default"),
    ],
)
def test_with_stop_an_unknown_topic_is_named_within_10_s_and_ends_the_relay_within_45(
    closed: Outbox, properties: tuple[str, ...], within: float
) -> None:
    relay = closed.streaming(*properties)
    closed.confirm()
    unknown = closed.add(aggregatetype="surprise")
    named = relay.wait_for_log("topic.unavailable", timeout=10)
    assert closed.prefix + "surprise" in named["error"]
    last = ended(relay, 78, closed.prefix + "surprise", "kafka-topics.sh", timeout=within)
    assert last["id"] == unknown


def test_a_topic_deleted_while_events_flow_is_waited_for(closed: Outbox, witness: Witness) -> None:
    closed.kafka.create_topic(closed.prefix + "brief")
    relay = closed.streaming("--on-poison", "skip", "-X", "topic.metadata.propagation.max.ms=1000")
    closed.add(aggregatetype="brief", aggregateid="brief")
    closed.confirm()
    closed.kafka.delete_topics([closed.prefix + "brief"])
    before = [event.id for event in witness.committed()]
    for number in range(10):
        closed.add(aggregatetype="brief", aggregateid=f"brief {number}")
    relay.wait_for_log("topic.unavailable", timeout=60)
    closed.kafka.create_topic(closed.prefix + "brief")
    closed.confirm()
    later = [event for event in witness.committed() if event.id not in before]
    records = [record for record in closed.records() if ids([record])[0] not in before]
    judge(later, records)
    assert not relay.log_lines("poison")


# -- a partition that was added


@pytest.mark.parametrize("policy", POLICIES)
def test_a_partition_that_was_added_a_moment_ago_is_found(policy: str, closed: Outbox, witness: Witness) -> None:
    topic = closed.prefix + "order"
    closed.database.execute("ALTER TABLE outbox ADD part int DEFAULT 0")
    relay = closed.streaming("--on-poison", policy, "--partition-column", "part")
    closed.confirm()
    for count in (7, 9):
        add_partitions(closed.kafka, topic, count)
        closed.add_all([{"part": part, "aggregateid": f"part {part}"} for part in (count - 1, 0, count - 2)])
        closed.confirm()
    assert judge(witness.committed(), closed.records()).duplicates == 0
    assert {record.partition for record in closed.records()} >= {6, 8}
    assert not relay.log_lines("poison")


def test_a_partition_that_is_added_while_its_event_waits_is_found(closed: Outbox, witness: Witness) -> None:
    closed.database.execute("ALTER TABLE outbox ADD part int DEFAULT 0")
    relay = closed.streaming("--on-poison", "skip", "--partition-column", "part")
    closed.confirm()
    closed.add(part=6, aggregateid="six")
    relay.wait_for_log("topic.unavailable")
    add_partitions(closed.kafka, closed.prefix + "order", 7)
    closed.confirm()
    assert judge(witness.committed(), closed.records()).duplicates == 0
    assert not relay.log_lines("poison")


def test_many_events_for_partitions_that_are_not_there_wait_once(closed: Outbox, witness: Witness) -> None:
    closed.database.execute("ALTER TABLE outbox ADD part int DEFAULT 0")
    relay = closed.streaming("--on-poison", "skip", "--partition-column", "part", http=True)
    closed.confirm()
    wrong = closed.add_all([{"part": 100 + number, "aggregateid": "wrong"} for number in range(50)])
    closed.add()
    began = logged_at(relay.wait_for_log("topic.unavailable", timeout=20))
    last = relay.wait_for_log("poison", nth=50, timeout=40)
    assert logged_at(last) - began < 20
    closed.confirm()
    judge([event for event in witness.committed() if event.id not in wrong], closed.records())


# -- a topic that takes smaller batches than the producer makes


@pytest.mark.parametrize("first_start", [False, True], ids=["stream", "first start"])
def test_a_topic_with_a_small_limit_refuses_no_batch(
    first_start: bool,
    database: Database,
    kafka: KafkaCluster,
    relay: Callable[..., Relay],
    witness: Witness,
) -> None:
    outbox = Outbox(database, kafka, relay)
    outbox.create()
    kafka.create_topic(outbox.prefix + "order", config={"max.message.bytes": "20000"})
    kafka.create_topic(outbox.prefix + "tiny", config={"max.message.bytes": "3000"})
    if not first_start:
        outbox.create_slot()
    noise = '"' + "".join(random.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=900)) + '"'
    topics = ["tiny" if number % 7 == 0 else "order" for number in range(600)]
    rows = [
        {"aggregatetype": topic, "aggregateid": f"{topic} {number % 50}", "payload": noise}
        for number, topic in enumerate(topics)
    ]
    for first in range(0, len(rows), 30):
        outbox.add_all(rows[first : first + 30])
    started = outbox.relay("-X", "linger.ms=100", http=True)
    started.wait_for_log("streaming", timeout=60)
    outbox.confirm()
    assert judge(witness.committed(), outbox.records()).duplicates == 0
    assert not started.log_lines("delivery.failed")


def test_topics_that_are_made_on_demand_need_no_wait_of_seconds(
    database: Database, kafka: KafkaCluster, relay: Callable[..., Relay], witness: Witness
) -> None:
    outbox = Outbox(database, kafka, relay)
    outbox.create()
    outbox.create_slot()
    started = outbox.streaming("--on-poison", "skip")
    for number in range(5):
        outbox.add(aggregatetype=f"new{number}", aggregateid=f"new {number}")
    outbox.confirm()
    assert judge(witness.committed(), outbox.records()).duplicates == 0
    eventually(lambda: not started.log_lines("topic.unavailable"), "nothing is warned of")
