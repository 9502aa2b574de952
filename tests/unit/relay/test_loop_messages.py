"""Logical messages in the loop: events like any other, held like any other, and counted into their transaction."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import PoisonEvent, ProtocolError
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Rig, begin, commit, insert, nothing, transaction

BOTH = Settings(brokers="b", source="both")


def message(event: str, *, prefix: str = "outbox", transactional: bool = True, **members: Any) -> bytes:
    head = {"id": event, "aggregatetype": "order", "aggregateid": "k", "type": "T", **members}
    content = json.dumps(head).encode() + b"\n{}"
    return build.xlogdata(build.logical_message(prefix, content, transactional=transactional))


def test_rows_and_messages_keep_their_order_however_small_the_queue() -> None:
    events = [f"e{number}" for number in range(30)]
    mixed = [message(event) if number % 3 else insert(event) for number, event in enumerate(events)]
    rig = Rig([RELATION, begin(100), *mixed, commit(100), *transaction(200, "last")], capacity=1)
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run(rig.relay(settings=BOTH))
    assert rig.ids == [*events, "last"]
    assert rig.counters.received == {"public.outbox": 11, "message:outbox": 20}


def test_a_transaction_of_messages_is_confirmed_when_the_last_is_delivered() -> None:
    rig = Rig([begin(100), message("e1"), message("e2"), commit(100)])
    rig.kafka.choose = nothing
    rig.stream.on_empty = lambda: setattr(rig.kafka, "choose", range) if rig.clock.now > 1_000_005 else None
    rig.stream.on_status = lambda told: rig.stop.request() if told.flush == 108 else None
    rig.run(rig.relay(settings=BOTH))
    assert rig.ids == ["e1", "e2"]
    assert rig.clock.now > 1_000_005


def test_without_source_message_messages_are_ignored() -> None:
    rig = Rig([RELATION, begin(100), message("e1"), insert("e2"), commit(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e2"]
    assert rig.counters.skipped == {}


def test_what_is_no_event_may_stand_outside_a_transaction_and_is_named_once() -> None:
    others = [message("x", transactional=False), message("x", prefix="heartbeat")] * 5
    rig = Rig([*others, begin(100), message("x", prefix="heartbeat"), message("e1"), commit(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run(rig.relay(settings=BOTH))
    assert rig.ids == ["e1"]
    assert rig.counters.skipped == {"not-transactional": 5, "other-message": 6}
    assert [line["prefix"] for line in rig.logged if line["event"] == "message.ignored"] == ["outbox", "heartbeat"]


def test_prefixes_without_end_are_counted_and_not_all_named() -> None:
    rig = Rig([*(message("x", prefix=f"p{number}") for number in range(500)), *transaction(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run(rig.relay(settings=BOTH))
    assert rig.counters.skipped == {"other-message": 500}
    assert len([line for line in rig.logged if line["event"] == "message.ignored"]) == 100


def test_an_event_outside_a_transaction_is_refused() -> None:
    broken = build.xlogdata(build.logical_message("outbox", b"no JSON"))
    for found in (message("e1"), broken):
        rig = Rig([found])
        with pytest.raises(ProtocolError, match="an event outside a transaction"):
            rig.run(rig.relay(settings=BOTH))


@pytest.mark.parametrize("policy", ["stop", "skip", "dead-letter"])
def test_a_message_that_cannot_be_read_follows_the_policy(policy: str) -> None:
    broken = build.xlogdata(build.logical_message("outbox", b"no JSON"))
    rig = Rig([begin(100), message("e1"), broken, message("e2"), commit(100)], policy=policy, capacity=1)
    rig.stop_when(lambda: rig.flushed == 108)
    relay = rig.relay(settings=BOTH)
    if policy == "stop":
        with pytest.raises(PoisonEvent) as raised:
            rig.run(relay)
        assert raised.value.where == {"reason": "bad-message", "table": "message:outbox", "lsn": "0/64"}
        assert rig.ids == ["e1"]
        assert rig.flushed == 0
        return
    rig.run(relay)
    left = rig.counters.dead_lettered if policy == "dead-letter" else rig.counters.skipped
    assert left == {"bad-message": 1}
    assert [record.value for record in rig.kafka.log] == [
        b"{}",
        *([b"no JSON"] if policy == "dead-letter" else []),
        b"{}",
    ]


def test_a_message_that_kafka_refuses_is_found_among_its_neighbours() -> None:
    script = [begin(100), message("e1"), message("e2", aggregatetype="a b"), message("e3"), commit(100)]
    rig = Rig(script, policy="skip")
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run(rig.relay(settings=BOTH, isolated_lsns=[100]))
    assert rig.ids == ["e1", "e3"]
    assert rig.counters.skipped == {"bad-topic": 1}
