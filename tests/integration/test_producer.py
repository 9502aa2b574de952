"""The publisher against a real broker: what it delivers, counts and refuses, and what it does while it cannot deliver."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.demo.ports import free_port
from cdc_outbox.errors import PoisonEvent, Unreachable
from cdc_outbox.kafka import native
from cdc_outbox.kafka.native import NativePublisher
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.records.router import UNASSIGNED, KafkaRecord
from tests.plugins.absence import absent
from tests.plugins.waiting import PATIENCE

if TYPE_CHECKING:
    from cdc_outbox.kafka.transaction import LedgerEntry
    from tests.plugins.kafka import KafkaCluster


@pytest.fixture(params=[Publisher, NativePublisher], autouse=True)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding's producer and the native plane's: the same from outside."""
    if request.param is NativePublisher and (reason := native.why_not()) is not None:
        absent(f"{reason}: make native")
    monkeypatch.setattr(f"{__name__}.KIND", request.param)


KIND: type[Publisher] = Publisher


def record(topic: str, number: int = 1, *, size: int = 10, partition: int = UNASSIGNED) -> KafkaRecord:
    headers: list[tuple[str, str | bytes | None]] = [("id", str(number).encode()), ("none", None)]
    return KafkaRecord(topic, f"key-{number}".encode(), b"x" * size, headers, 1_700_000_000_000 + number, partition)


def publisher(brokers: str, counters: Counters | None = None, **settings: int | str) -> Publisher:
    user = {name: str(value) for name, value in settings.items() if "." in name}
    limits = {name: value for name, value in settings.items() if "." not in name}
    chosen = Settings(brokers=brokers, **limits)  # type: ignore[arg-type]
    return KIND(effective(user, chosen), counters or Counters())


def batch_of(one: Publisher, lsn: Lsn = UNSET) -> LedgerEntry:
    return one.new_transaction(1_700_000_000_000, lsn)


def handed_over(one: Publisher, handed: KafkaRecord, entry: LedgerEntry) -> bool:
    """Produce as the relay's loop does: again, until the topic is known and there is room, while reports are served."""
    deadline = time.monotonic() + PATIENCE
    while not one.produce(handed, entry):
        assert time.monotonic() < deadline, "the record was not taken"
        one.serve(0.02)
    return True


def warmed(one: Publisher, *topics: str) -> None:
    """Deliver one record to each topic, so that later ones are taken at once."""
    for topic in topics:
        assert handed_over(one, record(topic, -1), batch_of(one))
    assert drained(one)


def drained(one: Publisher, seconds: float = PATIENCE) -> bool:
    """Serve until nothing is in flight; False after `seconds`, or when Kafka has refused a record."""
    deadline = time.monotonic() + seconds
    while one.in_flight and not one.failures and time.monotonic() < deadline:
        one.serve(0.05)
    return not one.in_flight and not one.failures


def test_a_record_arrives_as_it_was_handed_over(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix(), partitions=3)
    one = publisher(kafka.brokers)
    batch = batch_of(one)
    one.reach()
    assert handed_over(one, record(topic, 1), batch)
    assert handed_over(one, record(topic, 2, partition=2), batch)
    assert handed_over(one, KafkaRecord(topic, None, None, [], 5, 1), batch)
    assert handed_over(one, KafkaRecord(topic, b"", b"", [("e", b"")], 6, 1), batch)
    assert drained(one)
    found = {read.timestamp: read for read in kafka.consume(topic, 4)}
    assert found[1_700_000_000_001].key == b"key-1"
    assert found[1_700_000_000_001].headers == [("id", b"1"), ("none", None)]
    assert found[1_700_000_000_002].partition == 2
    assert (found[5].key, found[5].value, found[5].headers) == (None, None, [])
    assert (found[6].key, found[6].value, found[6].headers) == (b"", b"", [("e", b"")])


def test_reports_count_deliveries_down_and_up(kafka: KafkaCluster) -> None:
    topic, other = (kafka.create_topic(kafka.unique_topic_prefix(), partitions=1) for _ in range(2))
    counters = Counters()
    # No report comes before the last record is handed over.
    one = publisher(kafka.brokers, counters, **{"linger.ms": 200})
    warmed(one, topic, other)
    first, second = batch_of(one), batch_of(one)
    for number in range(100):
        assert one.produce(record(topic if number % 2 else other, number), first if number < 70 else second)
    assert (first.events, second.events) == (70, 30)
    assert one.in_flight == 100
    assert 1000 + 100 * len("key-1") < one.in_flight_bytes < 200_000, "with what librdkafka keeps for each"
    assert drained(one)
    assert (first.outstanding, second.outstanding) == (0, 0)
    assert (one.in_flight, one.in_flight_bytes) == (0, 0)
    assert {name: topics.delivered for name, topics in counters.topics.items()} == {topic: 51, other: 51}
    assert not one.broken


def test_a_full_queue_is_reported_and_later_takes_what_it_refused(fragile_kafka: KafkaCluster) -> None:
    topic = fragile_kafka.create_topic(fragile_kafka.unique_topic_prefix(), partitions=1)
    one = publisher(fragile_kafka.brokers, max_in_flight_events=10)
    batch = batch_of(one)
    one.reach()
    warmed(one, topic)
    assert fragile_kafka.server is not None
    fragile_kafka.server.pause()
    taken = sum(one.produce(record(topic, number), batch) for number in range(20))
    assert taken == 10
    assert batch.outstanding == 10
    assert not drained(one, 0.3)
    fragile_kafka.server.resume()
    assert drained(one)
    assert handed_over(one, record(topic, 99), batch)
    assert drained(one)
    assert len(fragile_kafka.consume(topic, 12)) == 12


def test_until_each_partition_has_a_record_a_key_has_one_record_in_flight(fragile_kafka: KafkaCluster) -> None:
    """A broker without a record of this producer accepts a batch although it refused the one before it (KAFKA-15591)."""
    topic = fragile_kafka.create_topic(fragile_kafka.unique_topic_prefix(), partitions=2)
    one = publisher(fragile_kafka.brokers)
    batch = batch_of(one)
    one.reach()
    assert handed_over(one, record(topic, 1, partition=0), batch)
    assert drained(one)
    assert fragile_kafka.server is not None
    fragile_kafka.server.pause()
    assert [one.produce(record(topic, 2, partition=1), batch) for _ in range(3)] == [True, False, False]
    assert one.produce(record(topic, 3, partition=0), batch), "another key does not wait"
    assert one.produce(record(topic, 1, partition=0), batch), "nor does a key that has a record"
    fragile_kafka.server.resume()
    assert drained(one)
    assert handed_over(one, record(topic, 2, partition=1), batch)
    assert drained(one)
    fragile_kafka.server.pause()
    assert [one.produce(record(topic, 9, partition=1), batch) for _ in range(3)] == [True] * 3
    fragile_kafka.server.resume()
    assert drained(one)
    assert batch.outstanding == 0


def test_a_topic_whose_first_record_is_not_confirmed_is_named(fragile_kafka: KafkaCluster) -> None:
    topic = fragile_kafka.create_topic(fragile_kafka.unique_topic_prefix(), partitions=2)
    one = publisher(fragile_kafka.brokers)
    one.reach()
    assert handed_over(one, record(topic, 1), batch_of(one))
    deadline = time.monotonic() + PATIENCE
    while (found := one.diagnose()) is None:
        assert time.monotonic() < deadline, "no diagnosis"
        one.serve(0.05)
    assert topic in found.message
    assert drained(one)


def test_a_queue_is_bounded_by_bytes_as_well(fragile_kafka: KafkaCluster) -> None:
    topic = fragile_kafka.create_topic(fragile_kafka.unique_topic_prefix(), partitions=1)
    one = publisher(fragile_kafka.brokers, max_in_flight_bytes=4 * 1024 * 1024)
    batch = batch_of(one)
    one.reach()
    warmed(one, topic)
    assert fragile_kafka.server is not None
    fragile_kafka.server.pause()
    taken = sum(one.produce(record(topic, number, size=100_000), batch) for number in range(100))
    assert 30 <= taken <= 45
    one.abandon()


def test_a_record_larger_than_the_limit_is_refused_at_once_and_the_producer_goes_on(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix(), partitions=1)
    one = publisher(kafka.brokers)
    batch = batch_of(one)
    with pytest.raises(PoisonEvent) as refused:
        handed_over(one, record(topic, size=2_000_000), batch)
    assert refused.value.where["size"] == 2_000_000
    assert batch.outstanding == 0
    assert handed_over(one, record(topic), batch)
    assert drained(one)
    assert not one.broken


def test_a_record_that_the_broker_refuses_is_a_failure_with_its_place(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix(), partitions=1, config={"max.message.bytes": "10000"})
    one = publisher(kafka.brokers)
    batch = batch_of(one, Lsn(77))
    incompressible = random.Random(1).randbytes(50_000)
    assert handed_over(one, record(topic)._replace(value=incompressible), batch)
    assert not drained(one)
    (failure,) = one.failures
    assert (failure.topic, failure.key, failure.lsn) == (topic, b"key-1", Lsn(77))
    assert one.broken
    assert batch.outstanding == 1


def test_brokers_without_an_answer_are_unreachable(kafka: KafkaCluster) -> None:
    address = f"127.0.0.1:{free_port()}"
    one = publisher(address)
    with pytest.raises(Unreachable, match=address):
        one.reach()
    one.abandon()


def test_abandon_forgets_what_is_in_flight_and_does_not_wait(fragile_kafka: KafkaCluster) -> None:
    topic = fragile_kafka.create_topic(fragile_kafka.unique_topic_prefix(), partitions=1)
    one = publisher(fragile_kafka.brokers)
    batch = batch_of(one)
    warmed(one, topic)
    assert fragile_kafka.server is not None
    fragile_kafka.server.pause()
    assert one.produce(record(topic), batch)
    began = time.monotonic()
    one.abandon()
    del one
    assert time.monotonic() - began < 3
    assert batch.outstanding == 1, "nothing was delivered"
