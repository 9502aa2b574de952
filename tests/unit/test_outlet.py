"""What Kafka refuses: nothing past it is confirmed, the culprit is found alone, the policy decides."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from confluent_kafka import KafkaError

from cdc_outbox.errors import PoisonEvent, Unreachable
from cdc_outbox.relay import Suspected
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Rig, begin, commit, event_id, insert, transaction


def test_a_poison_event_stops_with_all_before_it_confirmed_and_nothing_after_it() -> None:
    poison = insert("e2", headers=b"[]")
    rig = Rig([RELATION, *transaction(100, "e1"), begin(200), poison, insert("e3"), commit(200), build.keepalive(900)])
    with pytest.raises(PoisonEvent) as raised:
        rig.run()
    assert raised.value.where["id"] == "e2"
    assert raised.value.where["lsn"] == "0/C8"
    assert (rig.ids, rig.flushed) == (["e1"], 108)


@pytest.mark.parametrize(("policy", "letters"), [("skip", []), ("dead-letter", ["e2"])])
def test_a_poison_event_is_left_out_by_policy_counted_and_the_rest_goes_on(policy: str, letters: list[str]) -> None:
    rows = [insert("e1"), insert("e2", headers=b"[]"), insert("e3")]
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
    with pytest.raises(Suspected) as raised:
        rig.run()
    assert raised.value.lsns == {200}
    assert (rig.flushed, rig.stream.ended) == (108, "closed")
    assert rig.counters.delivery_errors == {("outbox.event.order", "MSG_SIZE_TOO_LARGE"): 1}


def test_a_suspected_transaction_goes_record_by_record_and_the_culprit_is_found() -> None:
    rig = Rig([RELATION, *transaction(200, "e1", "e2", "e3"), *transaction(300, "e4")], policy="skip")
    rig.kafka.refuse = lambda record: KafkaError.MSG_SIZE_TOO_LARGE if event_id(record) == "e2" else None
    in_flight: list[int] = []

    def deliver(count: int) -> Sequence[int]:
        in_flight.append(count)
        return range(count)

    rig.kafka.choose = deliver
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run(rig.relay(suspects=[200]))
    assert rig.ids == ["e1", "e3", "e4"]
    assert max(in_flight) == 1
    assert rig.counters.skipped == {"msg-size-too-large": 1}
    [told] = [line for line in rig.logged if line["event"] == "poison"]
    assert (told["id"], told["lsn"]) == ("e2", "0/C8")


def test_a_kafka_that_fails_without_a_culprit_is_tried_again_and_counted_once() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.kafka.refuse = lambda record: KafkaError.INVALID_PRODUCER_EPOCH if event_id(record) == "e2" else None
    with pytest.raises(Unreachable):
        rig.run()
    assert rig.publisher.broken
    assert rig.flushed == 108
    assert sum(rig.counters.delivery_errors.values()) == 1
    assert [line["event"] for line in rig.logged].count("delivery.failed") == 1
