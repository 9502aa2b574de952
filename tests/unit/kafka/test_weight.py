"""What a record in flight occupies is counted in full, and text that would crash librdkafka's binding never reaches it."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.counters import Counters
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.kafka.weight import RECORD_BYTES, extra_bytes
from cdc_outbox.records.router import Headers, KafkaRecord
from tests.plugins.scripted import Clock, ScriptedKafka, ScriptedPublisher, nothing

LIMIT = 64 * 1024

HUGE = 20_000


def record(**parts: object) -> KafkaRecord:
    plain = KafkaRecord("orders", b"k", b"v", [("id", b"1"), ("type", b"T")], 1_700_000_000_000, -1)
    return plain._replace(**parts)  # type: ignore[arg-type]


def transaction() -> Transaction:
    return Transaction(0)


@pytest.fixture
def kafka() -> ScriptedKafka:
    return ScriptedKafka(Clock())


@pytest.fixture
def publisher(kafka: ScriptedKafka) -> ScriptedPublisher:
    return ScriptedPublisher(kafka, Counters(), limit=LIMIT)


LARGE = {
    "a key": {"key": b"k" * HUGE},
    "a value": {"value": b"v" * HUGE},
    "a header": {"headers": [("id", b"1"), ("h", b"h" * HUGE)]},
    "a header's text": {"headers": [("id", b"1"), ("h", "ü" * (HUGE // 2))]},
    "a header's name": {"headers": [("id", b"1"), ("h" * HUGE, b"")]},
    "many headers": {"headers": [(f"h{number}", None) for number in range(HUGE // 64)]},
    "many empty headers of one name": {"headers": [("h", b"")] * (HUGE // 64)},
}


@pytest.mark.parametrize("parts", LARGE.values(), ids=LARGE)
def test_every_part_of_a_record_is_counted_and_bounded(
    parts: dict[str, object], kafka: ScriptedKafka, publisher: ScriptedPublisher
) -> None:
    kafka.choose = nothing
    taken = sum(publisher.produce(record(**parts), transaction()) for _ in range(10))
    assert 2 <= taken <= 3
    assert 2 * HUGE < publisher.in_flight_bytes <= LIMIT
    assert not publisher.produce(record(**parts), transaction())
    kafka.choose = range
    publisher.serve()
    assert publisher.in_flight_bytes == 0
    assert publisher.produce(record(**parts), transaction())


def test_small_records_are_counted_with_what_librdkafka_keeps_for_each(
    kafka: ScriptedKafka, publisher: ScriptedPublisher
) -> None:
    kafka.choose = nothing
    taken = sum(publisher.produce(record(), transaction()) for _ in range(1000))
    assert 20 < taken < LIMIT // RECORD_BYTES
    assert publisher.in_flight_bytes <= LIMIT


def test_a_record_larger_than_all_the_room_goes_alone(kafka: ScriptedKafka, publisher: ScriptedPublisher) -> None:
    kafka.choose = nothing
    assert publisher.produce(record(), transaction())
    assert not publisher.produce(record(key=b"k" * 2 * LIMIT), transaction())
    kafka.choose = range
    publisher.serve()
    assert publisher.produce(record(key=b"k" * 2 * LIMIT), transaction())
    assert not publisher.produce(record(), transaction())
    publisher.serve()
    assert publisher.in_flight_bytes == 0


def test_failed_deliveries_give_their_room_back(kafka: ScriptedKafka, publisher: ScriptedPublisher) -> None:
    kafka.refuse = lambda _record: KafkaError.MSG_SIZE_TOO_LARGE
    for parts in LARGE.values():
        assert publisher.produce(record(**parts), transaction())
        publisher.serve()
        publisher.failures.clear()
    assert publisher.in_flight_bytes == 0


def test_confirmed_bytes_grow_with_each_confirmation_of_an_empty_record(
    kafka: ScriptedKafka, publisher: ScriptedPublisher
) -> None:
    assert publisher.produce(record(key=None, value=None, headers=[]), transaction())
    publisher.serve()
    assert publisher.delivered_bytes > 0


UNFIT: dict[str, dict[str, object]] = {
    "a surrogate in a header's name": {"headers": [("id", b"1"), ("a\ud800", b"x")]},
    "a surrogate in a header's text": {"headers": [("id", b"1"), ("a", "x\udfff")]},
    "a surrogate in the first of many": {"headers": [("\ud800", b"x")] * 3000},
    "a NUL in a header's name": {"headers": [("a\0b", b"x")]},
    "a number for a header": {"headers": [("a", 5)]},
    "no name": {"headers": [(None, b"x")]},
    "a surrogate in the topic": {"topic": "t\ud800"},
    "a NUL in the topic": {"topic": "t\0x"},
    "a partition beyond 32 bits": {"partition": 2**31},
    "a timestamp beyond 64 bits": {"timestamp": 2**63},
}


class Unasked(Publisher):
    """One that asks no broker for a topic."""

    def _admits(self, topic: str) -> bool:  # noqa: ARG002
        return True


@pytest.fixture(scope="module")
def real() -> Publisher:
    """A producer that reaches no broker: whether librdkafka takes a record is decided before that."""
    return Unasked({"bootstrap.servers": "127.0.0.1:1", "log_level": "0"}, Counters())


@pytest.mark.parametrize("parts", UNFIT.values(), ids=UNFIT)
def test_a_record_that_the_binding_cannot_take_is_a_poison_event(parts: dict[str, object], real: Publisher) -> None:
    before = real.in_flight_bytes
    with pytest.raises(PoisonEvent) as raised:
        real.produce(record(**parts), transaction())
    assert raised.value.where["reason"] == ("bad-headers" if "headers" in parts else "bad-record")
    assert str(raised.value).encode()
    assert real.in_flight_bytes == before
    assert real.produce(record(), transaction()), "the next one goes"


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)


@given(
    st.lists(st.tuples(texts, st.none() | st.binary(max_size=40) | texts), max_size=6),
    st.none() | st.binary(max_size=300),
    st.integers(-(2**33), 2**33),
    st.integers(-(2**65), 2**65),
)
def test_whatever_a_record_holds_it_is_taken_or_a_poison_event(
    real: Publisher, headers: Headers, key: bytes | None, partition: int, timestamp: int
) -> None:
    made = record(headers=headers, key=key, partition=partition, timestamp=timestamp)
    try:
        taken = real.produce(made, transaction())
    except PoisonEvent as error:
        reason = error.where["reason"]
    else:
        reason = None
        assert taken
        assert extra_bytes(made) >= sum(len(name.encode()) for name, _ in headers)
    assert reason in {None, "bad-headers", "bad-record", "unknown-partition"}
