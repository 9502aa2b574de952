"""Delivery reports of one producer: each counts its record down on its transaction, or keeps the failure.

In: librdkafka's reports, on the thread that serves them. Out: counts, memory that is free again, `failures`.
Never: an exception, a log line, a call of the producer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from confluent_kafka import KafkaError, Message

from cdc_outbox.counters import MAX_TOPICS, Counters
from cdc_outbox.kafka.errors import DeliveryFailure, reported_failure
from cdc_outbox.kafka.weight import USUAL_RECORD
from cdc_outbox.records.router import InFlight

Report: TypeAlias = "Callable[[KafkaError | None, Message], None]"

TopicReport: TypeAlias = "Callable[[InFlight, KafkaError | None, Message], None]"


class Reports:
    """Makes the reports, and has what they count."""

    __slots__ = ("_counters", "by_topic", "delivered_bytes", "failures", "free")

    def __init__(self, counters: Counters, free: int) -> None:
        """`free`: bytes that may be in flight."""
        self._counters = counters
        self.failures: list[DeliveryFailure] = []
        """Deliveries that failed for good, in the order of their reports."""
        self.free = free
        """Bytes that may still be put in flight."""
        self.delivered_bytes = 0
        """Memory that the records confirmed by Kafka occupied."""
        self.by_topic: dict[str, TopicReport] = {}
        """The report of each topic. Bound to a transaction it is that of its records: for a transaction of one row, a bound
        method costs less than a closure, and it costs the garbage collector nothing.
        """

    def with_surplus(self, report: Report, surplus: int) -> Report:
        """The same report for a record that occupies `surplus` bytes more than usual."""

        def counted(error: KafkaError | None, message: Message) -> None:
            self.free += surplus
            report(error, message)

        return counted

    def close(self) -> None:
        """Drop the reports, which refer to this object."""
        self.by_topic.clear()

    def new_topic(self, topic: str) -> TopicReport:
        """Make the report of a topic."""
        counts = self._counters.topic(topic)

        def delivered(transaction: InFlight, error: KafkaError | None, message: Message) -> None:
            if error is None and message.offset() is not None:
                transaction.outstanding -= 1
                size = len(message)
                counts.delivered += 1
                counts.delivered_bytes += size
                size += USUAL_RECORD
                self.delivered_bytes += size
                self.free += size
            else:
                self.free += len(message) + USUAL_RECORD
                self.failures.append(reported_failure(error, message, transaction.lsn))

        if len(self.by_topic) < MAX_TOPICS:
            self.by_topic[topic] = delivered
        return delivered
