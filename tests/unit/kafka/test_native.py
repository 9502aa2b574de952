"""The native plane's producer by itself: bounds, failures, and memory, on the librdkafka that confluent_kafka brings."""

from __future__ import annotations

import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.demo.ports import free_port
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.kafka import native
from tests.plugins.absence import absent

if find_spec("cdc_outbox_native") is None:
    absent("cdc_outbox_native is not installed: make native")
import cdc_outbox_native
from cdc_outbox_native import KafkaFailure, Producer

QUEUE_FULL = -184
PURGED = -152
DESTROYED = -197
OVERHEAD, HEADER = 512, 64
"""RECORD_OVERHEAD and HEADER_OVERHEAD of native/src/producer.h."""


@pytest.fixture(autouse=True)
def _loaded() -> None:
    assert native.why_not() is None


def producer(records: int = 100, size: int = 1_000_000) -> Producer:
    """One whose broker never answers: what is produced stays in flight."""
    properties = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "queue.buffering.max.messages": str(records)}
    return Producer(properties, records, size)


def produce(one: Producer, transaction: cdc_outbox_native.Transaction, *, value: bytes = b"value") -> int:
    return one.produce("orders", b"key", value, [("id", b"1"), ("none", None)], 0, -1, transaction)


def test_as_many_records_are_in_flight_as_the_limit_says() -> None:
    one = producer(records=3)
    transaction = one.transaction(0, 100)
    assert [produce(one, transaction) for _ in range(5)] == [0, 0, 0, QUEUE_FULL, QUEUE_FULL]
    assert (len(one), transaction.events, transaction.outstanding) == (3, 3, 3)


def test_key_value_headers_and_overhead_count_as_bytes_in_flight() -> None:
    one = producer(size=2 * (OVERHEAD + 3 + 100 + 3 + 4 + 128) + 1)
    transaction = one.transaction(0)
    assert [produce(one, transaction, value=b"x" * 100) for _ in range(3)] == [0, 0, QUEUE_FULL]
    assert one.size == 2 * (OVERHEAD + len(b"key") + 100 + 2 * HEADER + len(b"id1") + len(b"none"))


def test_a_record_larger_than_the_bound_finds_room_in_an_empty_queue() -> None:
    one = producer(size=1000)
    assert produce(one, one.transaction(0), value=b"x" * 5000) == 0


def test_a_failure_names_its_record_and_its_transaction() -> None:
    one = producer()
    transaction = one.transaction(0, 100)
    produce(one, transaction)
    one.purge()
    one.poll(1)
    ((topic, key, size, code, text, lsn, last_lsn, _),) = one.reports()
    assert (topic, key, size, code, lsn, last_lsn) == ("orders", b"key", 5, PURGED, 100, 100)
    assert "Purged" in text
    assert (len(one), one.size, transaction.outstanding) == (0, 0, 1)
    assert one.reports() == []


def test_a_report_that_comes_after_its_transaction_is_gone_moves_nothing() -> None:
    one = producer()
    for _ in range(10):
        produce(one, one.transaction(0, 100))
    one.purge()
    one.poll(1)
    assert len(one.reports()) == 10
    assert len(one) == 0


def test_a_producer_that_ends_with_records_in_flight_leaves_their_transaction_as_it_is() -> None:
    one = producer()
    transaction = one.transaction(0, 100)
    produce(one, transaction)
    del one
    assert transaction.outstanding == 1


def test_a_transaction_of_another_producer_is_refused() -> None:
    one, other = producer(), producer()
    with pytest.raises(ValueError, match="another producer"):
        produce(one, other.transaction(0))


def test_a_property_that_librdkafka_does_not_know_is_named() -> None:
    with pytest.raises(KafkaFailure, match="nonsense"):
        Producer({"nonsense": "1"}, 10, 1000)


def test_a_broker_that_does_not_answer_is_noticed() -> None:
    one = producer()
    produce(one, one.transaction(0))
    found: list[tuple[int, str, bool, int]] = []
    for _ in range(100):
        one.poll(0.1)
        found += one.notices()
        if any(level == -1 for *_, level in found):
            break
    assert next(fatal for _, _, fatal, level in found if level == -1) is False


def test_other_properties_are_taken_while_nothing_is_in_flight() -> None:
    one = producer()
    transaction = one.transaction(0, 100)
    produce(one, transaction)
    with pytest.raises(ValueError, match="1 records are in flight"):
        one.open({"batch.size": "1000"})
    one.purge()
    one.poll(1)
    with pytest.raises(KafkaFailure, match="nonsense"):
        one.open({"nonsense": "1"})
    one.open({"bootstrap.servers": f"127.0.0.1:{free_port()}", "batch.size": "1000"})
    assert produce(one, transaction) == 0, "its transactions and limits are the same"


def test_a_closed_producer_has_no_threads_and_refuses_whatever_points_to_it() -> None:
    before = len(list(Path("/proc/self/task").iterdir()))
    one = producer()
    transaction = one.transaction(0, 100)
    produce(one, transaction)
    assert len(list(Path("/proc/self/task").iterdir())) > before
    one.close()
    assert len(list(Path("/proc/self/task").iterdir())) == before
    assert produce(one, transaction) == DESTROYED
    one.poll(0)
    one.flush(0)
    one.purge()
    with pytest.raises(KafkaFailure):
        one.metadata(None, 0.1)
    assert transaction.outstanding == 1


def test_any_number_of_topics_is_produced_to_but_a_thousand_at_a_time() -> None:
    one = producer(records=3000, size=10_000_000)
    transaction = one.transaction(0, 100)

    def topics(first: int) -> list[int]:
        numbers = range(first, first + 1100)
        return [one.produce(f"topic-{number}", None, None, [], 0, -1, transaction) for number in numbers]

    assert topics(0) == [0] * 1000 + [QUEUE_FULL] * 100
    one.purge()
    one.poll(1)
    assert {topic for topic, *_ in one.reports()} == {f"topic-{number}" for number in range(1000)}
    assert topics(5000)[:1000] == [0] * 1000


@pytest.mark.nightly
def test_memory_is_flat_through_a_million_failures() -> None:
    one = producer(records=10_000, size=100_000_000)

    def fail(rounds: int) -> int:
        seen = 0
        for _ in range(rounds):
            transaction = one.transaction(0, 100)
            for _ in range(10_000):
                assert produce(one, transaction) == 0
            one.purge()
            while len(one):
                one.poll(1)
            seen += len(one.reports())
            one.notices()
        return seen

    fail(20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert fail(100) == 1_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4_000, "kilobytes"


def test_the_choice_names_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.choose(Settings(brokers="b")).name == "native"
    assert native.choose(Settings(brokers="b", native="off")) == ("python", "--native off")
    cloudevents = Settings(brokers="b", native="auto", format="cloudevents", ce_source="/shop")
    assert native.choose(cloudevents) == ("python", "records of --format cloudevents are made in Python")
    monkeypatch.setattr(native, "why_not", lambda: "there is no librdkafka")
    assert native.choose(Settings(brokers="b", native="auto")) == ("python", "there is no librdkafka")
    with pytest.raises(ConfigurationError, match="there is no librdkafka"):
        native.choose(Settings(brokers="b", native="on"))


def test_a_library_that_is_not_loaded_is_the_reason() -> None:
    code = (
        "import cdc_outbox_native as native\n"
        "try: native.Producer({}, 1, 1)\n"
        "except native.Unavailable as error: print(error)\n"
        "try: native.load('/nowhere/cimpl.so', '/nowhere/pq.so')\n"
        "except native.Unavailable as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "load() comes first\n/nowhere/cimpl.so is not loaded as a shared library\n"
