"""Why records wait for Kafka without a known error: librdkafka retries by itself, and reports no code meanwhile.

In: the cluster's description of a topic that records wait for. Out: an error with a cure, as commands to run.
Never: a decision of the relay. The error is for the log and the status only.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from cdc_outbox.errors import CdcOutboxError, Unreachable
from cdc_outbox.kafka.topic_gate import ANSWER_SECONDS
from cdc_outbox.kafka.topics import Inquiry, Topic


class Diagnosis:
    """Finds out why records of a topic are not confirmed, by a query of the cluster that takes about a second."""

    def __init__(self, brokers: str, ask: Callable[[str], Inquiry | None]) -> None:
        """`ask` starts the lookup of a topic; it returns None if the admin API does not answer."""
        self._brokers = brokers
        self._ask = ask
        self._inquiry: Inquiry | None = None
        self._asked_at: float | None = None

    def close(self) -> None:
        """End the query."""
        self._inquiry = self._asked_at = None

    def of(self, topic: str, answers: Callable[[str], bool]) -> Unreachable | None:
        """The error; None while the query runs: call again. `answers`: whether the producer gets metadata of the topic."""
        if self._asked_at is None:
            self._asked_at, self._inquiry = time.monotonic(), self._ask(topic)
        inquiry = self._inquiry
        if inquiry is not None and not inquiry.wait(0.0) and time.monotonic() - self._asked_at < ANSWER_SECONDS:
            return None
        self.close()
        try:
            return not_taken(self._brokers, topic, None if inquiry is None else inquiry.answer())
        except CdcOutboxError:
            return not_taken(self._brokers, topic, None) if answers(topic) else silent(self._brokers)


def silent(brokers: str) -> Unreachable:
    """The error for brokers that do not answer on an open connection."""
    return Unreachable(
        "Kafka does not answer, though connections to it are open: brokers are frozen, overloaded, or behind a broken network",
        cure=f"see whether they answer others: kafka-broker-api-versions.sh --bootstrap-server {brokers}",
        code="kafka-silent",
    )


def not_taken(brokers: str, name: str, topic: Topic | None) -> Unreachable:
    """The error for a cluster that answers but confirms no record of a topic. `topic`: its description, if there is one."""
    describe = f"kafka-topics.sh --bootstrap-server {brokers} --describe --topic {name}"
    if topic is not None and topic.min_in_sync is not None and topic.in_sync < topic.min_in_sync:
        return Unreachable(
            f"topic {name} has {topic.in_sync} replicas in sync, and min.insync.replicas is {topic.min_in_sync}: Kafka "
            "takes no record of it",
            cure=f"bring back the brokers that are missing: {describe}",
            topic=name,
            code="topic-replicas",
        )
    return Unreachable(
        f"Kafka answers, and confirms no record of topic {name}",
        code="kafka-unconfirmed",
        cure=f"{describe} shows its leaders and the replicas in sync: fewer than min.insync.replicas (NOT_ENOUGH_REPLICAS)? "
        f"kafka-log-dirs.sh --bootstrap-server {brokers} --describe shows a failed disk (KAFKA_STORAGE_ERROR)",
        topic=name,
    )
