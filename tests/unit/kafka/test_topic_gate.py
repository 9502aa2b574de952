"""The gate of topics, without a cluster: what a held record waits for, and what it does not."""

from __future__ import annotations

import time
from typing import cast

import pytest
from confluent_kafka import KafkaError

from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.kafka import topic_gate
from cdc_outbox.kafka.topic_gate import TopicGate
from cdc_outbox.kafka.topics import Inquiry, Topic, TopicCatalog

PAUSE_SECONDS = 5.0
"""Longer than a test that waits for nothing takes."""


class Answering:
    """A catalog whose answer is there at once."""

    def __init__(self, made: list[int] | None = None) -> None:
        if made is not None:
            made.append(1)

    def ask(self, name: str, _seconds: float) -> Inquiry:
        return cast("Inquiry", Answered(name))


class Answered:
    """An inquiry that is complete."""

    def __init__(self, name: str) -> None:
        self._name = name

    def wait(self, _seconds: float) -> bool:
        return True

    def answer(self) -> Topic:
        return Topic(self._name, 6, 1, 1, may_write=True, max_message_bytes=1_000_000, min_in_sync=1)


def gate(made: list[int] | None = None) -> TopicGate:
    return TopicGate(lambda: cast("TopicCatalog", Answering(made)), Counters(), unknown_seconds=30.0)


def admit(topics: TopicGate, topic: str) -> None:
    assert not topics.admits(topic)
    assert topics.look(lambda _topic: 6)
    assert not topics.admits(topic)
    assert topics.admits(topic)


def test_metadata_that_has_arrived_is_used_without_a_wait() -> None:
    topics = gate()
    assert not topics.admits("order")
    assert topics.look(lambda _topic: 6)
    began = time.monotonic()
    assert topics.pause(PAUSE_SECONDS), "the record can go on now: nothing is left to wait for"
    assert time.monotonic() - began < 1.0
    assert not topics.admits("order"), "limits and privileges are requested"
    assert topics.pause(PAUSE_SECONDS)
    assert topics.admits("order")


def test_one_admin_client_looks_up_the_topics_of_a_backlog_and_ends_with_it() -> None:
    made: list[int] = []
    topics = gate(made)
    admit(topics, "order")
    admit(topics, "invoice")
    assert sum(made) == 1
    topics.produced()
    admit(topics, "refund")
    assert sum(made) == 2, "its threads would wake once a second at rest"


def test_a_topic_is_given_up_after_an_answer_and_not_after_a_time_in_which_the_process_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr(topic_gate, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now)}))
    topics = gate()

    def answers(partitions: int | KafkaError) -> None:
        assert topics.look(lambda _topic: partitions)

    assert not topics.admits("order")
    answers(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    assert not topics.admits("order")
    now += 3600.0
    assert not topics.admits("order"), "it is asked again first: the topic may have been made meanwhile"
    answers(KafkaError(KafkaError._TRANSPORT))
    assert not topics.admits("order"), "no broker has answered"
    now += 1.0
    answers(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
    with pytest.raises(ConfigurationError, match="order"):
        topics.admits("order")
    now += 2.0
    answers(6)
    assert not topics.admits("order"), "limits and privileges are requested"
    assert topics.admits("order")
