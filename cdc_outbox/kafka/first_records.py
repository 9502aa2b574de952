"""The first records of a producer in each partition: one of a key at a time, until the partition knows the producer.

In: keys about to be produced, delivery reports. Out: whether a record may follow the one of its key that is in flight.
Never: more than a wait of one round trip for a key, or anything for a topic whose partitions all know the producer.

A broker refuses a batch that follows a refused one by its sequence number, so that no record overtakes those before it. But a
broker that has nothing of a producer in a partition accepts any first number (KAFKA-15591): the second batch is then accepted
although the first was refused, and its records would come before those that are sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, Message

MOST_KEYS: Final = 10_000
"""Keys remembered of one topic: with so many, each of its partitions has long had a record."""


@dataclass(slots=True)
class FirstRecords:
    """One topic of one producer, which has `partitions`."""

    partitions: int
    _in_flight: set[bytes] = field(default_factory=set)
    _delivered: set[bytes] = field(default_factory=set)
    _known: set[int] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Whether all partitions know the producer."""
        return len(self._known) >= self.partitions or len(self._delivered) >= MOST_KEYS

    def blocks(self, key: bytes | None) -> bool:
        """Whether a record of this key has to wait for the delivery of the one before it."""
        return key in self._in_flight

    def sent(self, key: bytes | None) -> None:
        """Note that a record of this key is in flight, with the report of `watched`."""
        if key is not None and key not in self._delivered:
            self._in_flight.add(key)

    def watched(
        self, key: bytes | None, report: Callable[[KafkaError | None, Message], None]
    ) -> Callable[[KafkaError | None, Message], None]:
        """The report to give in place of `report` for a record of this key."""
        if key is None or key in self._delivered:
            return report

        def watching(error: KafkaError | None, message: Message) -> None:
            self._in_flight.discard(key)
            partition = message.partition()
            if error is None and partition is not None:
                self._delivered.add(key)
                self._known.add(partition)
            report(error, message)

        return watching
