"""Errors that a producer meets, given by a mock cluster on demand: ridden out, started afresh, or the end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import KafkaError

from tests.plugins.kafka import KafkaCluster
from tests.plugins.metrics import metrics
from tests.plugins.nightly import others_nightly
from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import Outbox, ended, ids
from tests.plugins.waiting import eventually
from tests.servers.mock_kafka import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.postgres import Database
    from tests.servers.mock_kafka import MockKafka

QUICK: Final = ("-X", "reconnect.backoff.max.ms=200", "-X", "retry.backoff.max.ms=200")
"""librdkafka's pauses between its own tries, made short."""

RIDDEN_OUT: Final = (
    "NOT_ENOUGH_REPLICAS",
    "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
    "KAFKA_STORAGE_ERROR",
    "REQUEST_TIMED_OUT",
    "NOT_LEADER_FOR_PARTITION",
    "LEADER_NOT_AVAILABLE",
    "UNKNOWN_TOPIC_OR_PART",
    "COORDINATOR_NOT_AVAILABLE",
    "INVALID_MSG",
    "_TRANSPORT",
)
"""What librdkafka itself tries again. INVALID_MSG is a checksum that does not match; _TRANSPORT: the broker hangs up."""

STARTED_AFRESH: Final = (
    "INVALID_PRODUCER_EPOCH",
    "OUT_OF_ORDER_SEQUENCE_NUMBER",
    "INVALID_PRODUCER_ID_MAPPING",
    "NETWORK_EXCEPTION",
    "UNKNOWN",
)
"""Only a new producer goes on: OUT_OF_ORDER_SEQUENCE_NUMBER is fatal to the old one, the others leave a gap in it."""

INNOCENT: Final = ("INVALID_RECORD", "POLICY_VIOLATION", "MSG_SIZE_TOO_LARGE", "INVALID_TIMESTAMP")
"""Refusals of a batch, whose records are then sent one by one."""


@pytest.fixture
def outbox(database: Database, mock_kafka: MockKafka, relay: Callable[..., Relay]) -> Outbox:
    """An outbox whose Kafka is the mock cluster."""
    outbox = Outbox(database, KafkaCluster(mock_kafka.brokers), relay)
    outbox.create()
    mock_kafka.create_topic(outbox.prefix + "order", partitions=3)
    return outbox


@pytest.fixture
def streaming(outbox: Outbox, witness: Witness) -> Relay:
    """A relay that has delivered an event already; the witness has seen it."""
    outbox.create_slot()
    started = outbox.streaming(*QUICK, http=True)
    outbox.confirm()
    return started


def test_errors_that_pass_are_ridden_out_by_the_same_producer_without_loss_or_duplicates(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness, streaming: Relay
) -> None:
    """One event at a time: a mock broker does not look at sequence numbers, so a batch behind the refused one would be taken
    out of turn, and an answer that is lost with its connection would mean a record twice. test_broker_restarts.py has both.
    """
    for name in RIDDEN_OUT:
        code = getattr(KafkaError, name)
        mock_kafka.fail(Request.PRODUCE, code, code)
        outbox.confirm()
    verdict = judge(witness.committed(), outbox.records())
    assert verdict.duplicates == 0
    assert verdict.events == len(RIDDEN_OUT) + 1
    assert not streaming.log_lines("delivery.failed")
    assert metrics(streaming).get('reconnects_total{component="kafka"}', 0) == 0


@pytest.mark.parametrize("name", others_nightly(STARTED_AFRESH))
def test_an_error_that_only_a_new_producer_survives_costs_no_event(
    name: str,
    outbox: Outbox,
    mock_kafka: MockKafka,
    witness: Witness,
    streaming: Relay,
    writers: Callable[..., Writers],
) -> None:
    with writers(threads=2, rate=100) as load:
        eventually(lambda: load.committed > 100, "writers write")
        mock_kafka.fail(Request.PRODUCE, getattr(KafkaError, name))
        streaming.wait_for_log("streaming", nth=2)
        enough = load.committed + 100
        eventually(lambda: load.committed > enough, "writers write on")
    outbox.confirm()
    judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back, last_counts=True)
    figures = metrics(streaming)
    assert figures['reconnects_total{component="kafka"}'] == 1
    assert figures['state{state="streaming"}'] == 1
    assert not streaming.log_lines("poison")


@pytest.mark.parametrize("name", others_nightly(INNOCENT))
def test_a_batch_refused_though_no_record_of_it_is_refused_alone_rejects_no_record(
    name: str, outbox: Outbox, mock_kafka: MockKafka, witness: Witness, streaming: Relay
) -> None:
    mock_kafka.fail(Request.PRODUCE, getattr(KafkaError, name))
    outbox.add_all([{"aggregateid": str(number)} for number in range(30)])
    outbox.confirm()
    judge(witness.committed(), outbox.records(), last_counts=True)
    assert streaming.log_lines("delivery.isolating")
    assert not streaming.log_lines("poison")


@pytest.mark.parametrize("count", [10, pytest.param(30, marks=pytest.mark.nightly)])
def test_producers_given_up_one_after_the_other_leave_nothing_behind(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness, streaming: Relay, count: int
) -> None:
    def give_up() -> None:
        mock_kafka.fail(Request.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE)
        outbox.add()
        outbox.confirm()

    for _ in range(5):
        give_up()
    before, threads = streaming.rss_bytes(), _threads(streaming)
    for _ in range(count - 5):
        give_up()
    assert metrics(streaming)['reconnects_total{component="kafka"}'] == count
    assert _threads(streaming) <= threads + 4
    assert streaming.rss_bytes() - before < 8 * 1024 * 1024
    judge(witness.committed(), outbox.records(), last_counts=True)


def _threads(relay: Relay) -> int:
    return sum(1 for _ in Path(f"/proc/{relay.pid}/task").iterdir())


# -- the first start


@pytest.mark.parametrize("name", others_nightly(["OUT_OF_ORDER_SEQUENCE_NUMBER", "INVALID_PRODUCER_EPOCH"]))
def test_a_producer_lost_in_the_middle_of_a_first_start_is_replaced_and_all_rows_arrive(
    name: str, outbox: Outbox, mock_kafka: MockKafka
) -> None:
    written = outbox.add_all([{"aggregateid": str(number % 5)} for number in range(3000)])
    mock_kafka.fail(Request.PRODUCE, 0, getattr(KafkaError, name))
    outbox.drain(*QUICK)
    expected = [Event(id_, str(number % 5)) for number, id_ in enumerate(written)]
    judge(expected, outbox.records(), last_counts=True)
    assert outbox.slots() == ["cdc_outbox"]


# -- refused


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_user_who_may_write_to_no_topic_ends_with_77_whatever_the_policy(
    policy: str, outbox: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    outbox.create_slot()
    outbox.add_all([{} for _ in range(5)])
    mock_kafka.fail(Request.PRODUCE, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
    last = ended(outbox.relay("--on-poison", policy, *QUICK), 77, "kafka-acls")
    assert "id" not in last, "no event is to blame"
    assert outbox.records() == []
    outbox.drain()
    judge(witness.committed(), outbox.records())


def test_a_topic_without_write_permission_stops_with_77_and_the_acl(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    outbox.create_slot()
    written = outbox.add_all([{} for _ in range(5)])
    mock_kafka.fail(Request.PRODUCE, *[KafkaError.TOPIC_AUTHORIZATION_FAILED] * 2)
    last = ended(outbox.relay(*QUICK), 77, "kafka-acls", "--on-poison skip")
    assert (last["id"], last["topic"]) == (written[0], outbox.prefix + "order")
    outbox.drain()
    judge(witness.committed(), outbox.records())


@pytest.mark.parametrize(
    "name", others_nightly(["TOPIC_AUTHORIZATION_FAILED", "POLICY_VIOLATION", "UNKNOWN_TOPIC_OR_PART"])
)
def test_events_for_a_topic_that_may_not_be_written_for_a_while_are_not_skipped(
    name: str, outbox: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    outbox.create_slot()
    outbox.add_all([{} for _ in range(5)])
    mock_kafka.fail(Request.PRODUCE, *[getattr(KafkaError, name)] * 4)
    relay = outbox.streaming("--on-poison", "skip", *QUICK)
    outbox.confirm()
    judge(witness.committed(), outbox.records())
    assert not relay.log_lines("poison")


def test_a_producer_id_that_is_refused_ends_with_77(outbox: Outbox, mock_kafka: MockKafka) -> None:
    outbox.create_slot()
    outbox.add()
    mock_kafka.fail(Request.INIT_PRODUCER_ID, *[KafkaError.CLUSTER_AUTHORIZATION_FAILED] * 5)
    ended(outbox.relay(*QUICK), 77, "kafka-acls")


def test_a_coordinator_that_is_not_ready_for_producers_yet_is_waited_for(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    outbox.create_slot()
    outbox.add()
    mock_kafka.fail(Request.INIT_PRODUCER_ID, *[KafkaError.COORDINATOR_NOT_AVAILABLE] * 3)
    outbox.drain(*QUICK)
    assert judge(witness.committed(), outbox.records()).duplicates == 0


def test_a_dead_letter_topic_without_write_permission_stops_the_relay(outbox: Outbox, mock_kafka: MockKafka) -> None:
    outbox.create_slot()
    rejected = outbox.add(headers="[1]")
    mock_kafka.create_topic(f"dead-{outbox.prefix}")
    mock_kafka.fail(Request.PRODUCE, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    policy = ("--on-poison", "dead-letter", "--dead-letter-topic", f"dead-{outbox.prefix}")
    last = ended(outbox.relay(*policy, *QUICK), 77, f"dead-{outbox.prefix}", "kafka-acls")
    assert last["id"] == rejected
    assert not outbox.confirmed_past(last["lsn"])
    outbox.drain(*policy)
    assert ids(outbox.kafka.consume(f"dead-{outbox.prefix}", 0)) == [rejected]


# -- a slow cluster


def test_a_refusal_that_comes_late_is_never_taken_for_that_of_a_dead_letter(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness
) -> None:
    """A record is refused while a dead letter waits for its turn: the record is innocent, and so is the letter."""
    outbox.create_slot()
    dead = mock_kafka.create_topic(f"dead-{outbox.prefix}", partitions=1)
    relay = outbox.streaming("--on-poison", "dead-letter", "--dead-letter-topic", dead, "-X", "linger.ms=0", *QUICK)
    outbox.confirm()
    caused = []
    for _ in range(8):
        mock_kafka.fail(Request.PRODUCE, KafkaError.MSG_SIZE_TOO_LARGE, late=0.15)
        caused.append(outbox.add_all([{}, {"headers": "[1]"}, {}])[1])
        outbox.confirm()
    committed = [event for event in witness.committed() if event.id not in caused]
    judge(committed, outbox.records(), last_counts=True)
    letters = outbox.kafka.consume(dead, 0)
    assert set(ids(letters)) == set(caused)
    assert all(letter.value for letter in letters), "a letter lost its payload"
    assert {line["reason"] for line in relay.log_lines("poison")} == {"bad-headers"}


def test_brokers_that_come_and_go_lose_nothing_and_repeat_nothing(
    outbox: Outbox, mock_kafka: MockKafka, witness: Witness, streaming: Relay, writers: Callable[..., Writers]
) -> None:
    """They go while nothing is under way to them: a mock broker would take again what it has, see above."""
    rolled_back: set[str] = set()
    for _ in range(3):
        mock_kafka.down()
        with writers(threads=2, rate=100) as load:
            eventually(lambda: load.committed > 60, "writers write on")
        rolled_back.update(load.rolled_back)
        mock_kafka.up()
        outbox.confirm()
    assert judge(witness.committed(), outbox.records(), rolled_back=rolled_back).duplicates == 0
    assert not streaming.log_lines("delivery.failed")
    assert len(streaming.log_lines("streaming")) == 1
