"""What Kafka refuses: nothing past it is confirmed, the rejected record is found alone, the policy decides."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError

from cdc_outbox.counters import State
from cdc_outbox.errors import AccessRefused, ConfigurationError, ConnectionLost, PoisonEvent, ProtocolError, Unreachable
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.relay.session import BatchRejected
from tests.plugins import wire_builder as build
from tests.plugins.scripted import COMMITTED, RELATION, Rig, begin, commit, event_id, insert, transaction


def headers_of(record: KafkaRecord) -> dict[str, str | bytes | None]:
    return dict(record.headers)


def only(event: str, code: int) -> Callable[[KafkaRecord], int | None]:
    return lambda record: code if event_id(record) == event and record.topic != "dead-letters" else None


def test_a_poison_event_stops_with_all_before_it_confirmed_and_nothing_after_it() -> None:
    poison = insert("e2", headers=b"[1]")
    rig = Rig([RELATION, *transaction(100, "e1"), begin(200), poison, insert("e3"), commit(200), build.keepalive(900)])
    with pytest.raises(PoisonEvent) as raised:
        rig.run()
    assert raised.value.where["id"] == "e2"
    assert raised.value.where["lsn"] == "0/C8"
    assert (rig.ids, rig.flushed) == (["e1"], 108)


@pytest.mark.parametrize(("policy", "letters"), [("skip", []), ("dead-letter", ["e2"])])
def test_a_poison_event_is_left_out_by_policy_counted_and_the_rest_goes_on(policy: str, letters: list[str]) -> None:
    rows = [insert("e1"), insert("e2", headers=b"[1]"), insert("e3")]
    rig = Rig([RELATION, begin(100), *rows, commit(100)], policy=policy)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert [event_id(record) for record in rig.kafka.log if record.topic == "dead-letters"] == letters
    assert [event_id(record) for record in rig.kafka.log if record.topic != "dead-letters"] == ["e1", "e3"]
    counted = rig.counters.skipped if policy == "skip" else rig.counters.dead_lettered
    assert counted == {"bad-headers": 1}
    assert [line["event"] for line in rig.logged if line["event"] == "poison"] == ["poison"]


def test_a_failed_delivery_names_its_transaction_and_confirms_nothing_past_it() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")])
    rig.kafka.refuse = lambda record: KafkaError.MSG_SIZE_TOO_LARGE if event_id(record) == "e2" else None
    with pytest.raises(BatchRejected) as raised:
        rig.run()
    assert raised.value.lsns == {(200, 200)}
    assert (rig.flushed, rig.stream.ended) == (108, "closed")
    assert rig.counters.delivery_errors == {("outbox.event.order", "MSG_SIZE_TOO_LARGE"): 1}


def test_the_transaction_of_a_refused_batch_is_sent_record_by_record_until_the_rejected_one_is_found() -> None:
    events = [*transaction(100, "e0"), *transaction(200, "e1", "e2", "e3"), *transaction(300, "e4")]
    rig = Rig([RELATION, *events], policy="skip")
    rig.kafka.refuse = only("e2", KafkaError.MSG_SIZE_TOO_LARGE)
    beside: dict[str, int] = {}

    def look(record: KafkaRecord) -> None:
        beside[event_id(record)] = rig.publisher.in_flight

    rig.kafka.refuse_at_once = look
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_001 else 0)
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run(rig.relay(isolated_lsns=[200]))
    assert rig.ids == ["e0", "e1", "e3", "e4"]
    assert [beside[event] for event in ("e1", "e2", "e3")] == [0, 0, 0]
    assert rig.counters.skipped == {"msg-size-too-large": 1}
    [told] = [line for line in rig.logged if line["event"] == "poison"]
    assert (told["id"], told["lsn"]) == ("e2", "0/C8")


def test_a_failure_that_no_record_causes_is_tried_again_and_counted_once() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.kafka.refuse = lambda record: KafkaError.INVALID_PRODUCER_EPOCH if event_id(record) == "e2" else None
    with pytest.raises(Unreachable):
        rig.run()
    assert rig.publisher.broken
    assert rig.flushed == 108
    assert sum(rig.counters.delivery_errors.values()) == 1
    assert [line["event"] for line in rig.logged].count("delivery.failed") == 1


def test_a_record_that_librdkafka_itself_refuses_stops_with_its_size_and_limit() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2", "e3")])
    rig.kafka.refuse_at_once = only("e2", KafkaError.MSG_SIZE_TOO_LARGE)
    with pytest.raises(PoisonEvent) as raised:
        rig.run()
    assert raised.value.where["reason"] == "msg-size-too-large"
    assert (raised.value.where["size"], raised.value.where["limit"]) == (2, 1_000_000)
    assert (raised.value.where["id"], raised.value.where["lsn"]) == ("e2", "0/C8")
    assert (rig.ids, rig.flushed) == (["e1"], 108)


@pytest.mark.parametrize("capacity", [1, 2, 100])
@pytest.mark.parametrize("isolated_lsns", [[], [100]])
@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
def test_a_record_that_librdkafka_itself_refuses_is_left_out_by_policy(
    policy: str, isolated_lsns: list[int], capacity: int
) -> None:
    """Also when it was held before, since the queue was full."""
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], policy=policy, capacity=capacity)
    rig.kafka.refuse_at_once = only("e2", KafkaError.MSG_SIZE_TOO_LARGE)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run(rig.relay(isolated_lsns=isolated_lsns))
    assert [event_id(record) for record in rig.kafka.log if record.topic != "dead-letters"] == ["e1", "e3"]
    assert [event_id(record) for record in rig.kafka.log if record.topic == "dead-letters"] == (
        ["e2"] if policy == "dead-letter" else []
    )
    assert rig.counters.skipped | rig.counters.dead_lettered == {"msg-size-too-large": 1}


def test_a_dead_letter_has_the_reason_and_carries_the_payload() -> None:
    rig = Rig([RELATION, *transaction(200, "e1", "e2", "e3")], policy="dead-letter")
    rig.kafka.refuse = only("e2", KafkaError.MSG_SIZE_TOO_LARGE)
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run(rig.relay(isolated_lsns=[200]))
    assert rig.ids == ["e1", "e2", "e3"]
    letter = rig.kafka.log[1]
    assert (letter.topic, letter.key, letter.value, letter.partition) == ("dead-letters", b"k", b"{}", -1)
    assert letter.timestamp == round(COMMITTED * 1000)
    headers = headers_of(letter)
    assert headers["outbox.error.reason"] == b"msg-size-too-large"
    assert headers["outbox.original.topic"] == b"outbox.event.order"
    assert headers["outbox.source.table"] == b"public.outbox"
    assert headers["outbox.source.lsn"] == b"0/C8"
    assert headers["type"] == b"OrderPlaced"
    assert rig.counters.dead_lettered == {"msg-size-too-large": 1}


def test_a_dead_letter_that_is_refused_goes_without_its_payload() -> None:
    rig = Rig([RELATION, *transaction(200, "e1", "e2", "e3")], policy="dead-letter")
    rig.kafka.refuse = lambda record: (
        KafkaError.MSG_SIZE_TOO_LARGE if event_id(record) == "e2" and record.value is not None else None
    )
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run(rig.relay(isolated_lsns=[200]))
    assert rig.ids == ["e1", "e2", "e3"]
    letter = rig.kafka.log[1]
    assert (letter.topic, letter.key, letter.value) == ("dead-letters", b"k", None)
    assert headers_of(letter)["outbox.payload.bytes"] == b"2"
    assert rig.counters.dead_lettered == {"msg-size-too-large": 1}


def test_a_dead_letter_that_is_refused_for_good_stops_the_relay() -> None:
    rows = [begin(200), insert("e2", headers=b"[1]"), commit(200)]
    rig = Rig([RELATION, *transaction(100, "e1"), *rows], policy="dead-letter")
    rig.kafka.refuse = lambda record: KafkaError.TOPIC_AUTHORIZATION_FAILED if record.topic == "dead-letters" else None
    with pytest.raises(AccessRefused) as raised:
        rig.run(rig.relay(isolated_lsns=[200]))
    assert (raised.value.where["id"], raised.value.where["topic"]) == ("e2", "dead-letters")
    assert (rig.ids, rig.flushed) == (["e1"], 108)


def test_a_topic_that_does_not_exist_stops_with_the_event_that_wanted_it() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.kafka.refuse = only("e2", KafkaError._UNKNOWN_TOPIC)
    with pytest.raises(ConfigurationError, match=r"topic outbox\.event\.order does not exist") as raised:
        rig.run(rig.relay(isolated_lsns=[200]))
    assert (raised.value.where["id"], raised.value.where["lsn"]) == ("e2", "0/C8")
    assert rig.flushed == 108


def test_records_refused_with_the_first_are_isolated_together() -> None:
    """librdkafka reports the records of a refused batch one after the other."""
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")])
    rig.kafka.refuse = lambda record: KafkaError.INVALID_RECORD if event_id(record) != "e3" else None
    rig.kafka.choose = lambda count: range(min(1, count))
    with pytest.raises(BatchRejected) as raised:
        rig.run()
    assert raised.value.lsns == {(100, 100), (200, 200)}
    assert (rig.ids, rig.flushed) == (["e3"], 0)


@pytest.mark.parametrize("headers", [None, b"[1]"])
@pytest.mark.parametrize("policy", ["stop", "skip", "dead-letter"])
def test_a_row_outside_a_transaction_is_a_protocol_error_whatever_came_before(
    policy: str, headers: bytes | None
) -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), insert("e2", headers=headers)], policy=policy)
    with pytest.raises(ProtocolError, match="an event outside a transaction"):
        rig.run(rig.relay(isolated_lsns=[100]))
    assert (rig.ids, rig.flushed) == (["e1"], 108)


def test_an_isolation_that_fails_for_another_reason_rejects_no_record() -> None:
    """Kafka itself is in trouble: no record is rejected, and nothing is confirmed."""
    rig = Rig([RELATION, *transaction(100, "e1", "e2")], policy="skip")
    rig.kafka.refuse = only("e1", KafkaError.NOT_ENOUGH_REPLICAS)
    with pytest.raises(Unreachable):
        rig.run(rig.relay(isolated_lsns=[100]))
    assert rig.counters.skipped == {}
    assert rig.flushed == 0


def test_a_refusal_met_while_draining_is_not_taken_for_an_end() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.kafka.refuse = only("e2", KafkaError.INVALID_RECORD)
    rig.kafka.choose = lambda count: range(count if rig.counters.state is State.DRAINING else 0)
    rig.stop_when(lambda: True)
    with pytest.raises(BatchRejected) as raised:
        rig.run()
    assert raised.value.lsns == {(200, 200)}
    assert (rig.flushed, rig.stream.ended) == (108, "closed")


def test_a_producer_that_can_do_no_more_is_found_out_and_nothing_is_confirmed() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.fatal = KafkaError(KafkaError._FATAL, "sequence lost")
    with pytest.raises(Unreachable, match="sequence lost"):
        rig.run()
    assert rig.publisher.broken
    assert (rig.flushed, rig.stream.ended) == (0, "closed")


def test_records_that_are_purged_with_their_producer_confirm_nothing_in_the_next_session() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), ConnectionLost("cut")])
    rig.kafka.choose = lambda _count: ()
    with pytest.raises(ConnectionLost):
        rig.run()
    rig.publisher.abandon()
    assert rig.publisher.in_flight == 0
    assert [failure.error.code() for failure in rig.publisher.failures] == [KafkaError._PURGE_QUEUE]
    assert rig.flushed == 0


@pytest.mark.parametrize("late", range(8))
def test_a_refusal_that_comes_late_is_never_taken_for_that_of_a_dead_letter(late: int) -> None:
    """A letter goes alone: it waits for the record before it, whose refusal may come in any of these moments."""
    rig = Rig([RELATION, begin(100), insert("e1"), insert("e2", headers=b"[1]"), commit(100)], policy="dead-letter")
    rig.kafka.refuse = only("e1", KafkaError.MSG_SIZE_TOO_LARGE)
    polls = itertools.count()
    rig.kafka.choose = lambda count: range(count if next(polls) >= late else 0)
    with pytest.raises(BatchRejected) as raised:
        rig.run()
    assert raised.value.lsns == {(100, 100)}
    assert [event_id(record) for record in rig.kafka.accepted] == ["e1"]
    assert rig.flushed == 0


def test_only_records_that_kafka_rejects_are_isolated() -> None:
    """A broker may say which records of a batch it does not take; librdkafka fails the others with a code of its own."""
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")])
    innocent = KafkaError._INVALID_DIFFERENT_RECORD
    rig.kafka.refuse = lambda record: KafkaError.INVALID_RECORD if event_id(record) == "e2" else innocent
    with pytest.raises(BatchRejected) as raised:
        rig.run()
    assert raised.value.lsns == {(200, 200)}


@pytest.mark.parametrize("policy", ["stop", "skip", "dead-letter"])
def test_a_user_who_may_write_to_no_topic_is_refused_and_no_event_is_rejected(policy: str) -> None:
    for isolated_lsns in ([], [100]):
        rig = Rig([RELATION, *transaction(100, "e1", "e2")], policy=policy)
        rig.kafka.refuse = lambda _record: KafkaError.CLUSTER_AUTHORIZATION_FAILED
        with pytest.raises(AccessRefused):
            rig.run(rig.relay(isolated_lsns=isolated_lsns))
        assert rig.counters.skipped | rig.counters.dead_lettered == {}
        assert rig.flushed == 0


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.POLICY_VIOLATION,
    ],
)
@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "by its report"])
@pytest.mark.parametrize("policy", ["skip", "dead-letter"])
def test_what_is_about_the_cluster_is_waited_for_whatever_the_policy(policy: str, at_once: bool, code: int) -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], policy=policy)
    tries = iter(range(100))
    refuse = lambda record: code if event_id(record) == "e2" and next(tries) < 5 else None  # noqa: E731
    setattr(rig.kafka, "refuse_at_once" if at_once else "refuse", refuse)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run(rig.relay(isolated_lsns=[100]))
    assert rig.ids == ["e1", "e2", "e3"]
    assert rig.counters.skipped | rig.counters.dead_lettered == {}
    assert [line for line in rig.logged if line["event"] == "poison"] == []


def test_a_delivery_that_is_only_inferred_is_none() -> None:
    """librdkafka says yes, and names no offset: Kafka may never have had the record. A new producer sends it again."""
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")], policy="skip")
    rig.kafka.infer = lambda record: event_id(record) == "e2"
    with pytest.raises(Unreachable, match="is not known"):
        rig.run()
    assert rig.publisher.broken
    assert (rig.ids, rig.flushed) == (["e1", "e3"], 108)
    assert rig.counters.topics["outbox.event.order"].delivered == 2
