"""The first records of a producer in a partition: one per key at a time, until the partition has a record of the producer.

In: keys about to be produced, delivery reports. Out: whether a record may be sent while one of its key is in flight.
Never: more than a wait of one round trip per key, or any wait for a topic whose partitions all have a record of the producer.

A broker refuses a batch that follows a refused one, by its sequence number, so that no record overtakes an earlier one. But a
broker that has no record of a producer in a partition accepts any first number (KAFKA-15591): the second batch is then accepted
although the first was refused, and its records would come before those that are sent again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import KafkaError, Message

MOST_KEYS: Final = 10_000
"""Most keys remembered of one topic: by then, each of its partitions has a record of the producer."""


@dataclass(slots=True)
class FirstRecords:
    """One topic, with its number of `partitions`, for one producer."""

    partitions: int
    _in_flight: set[bytes] = field(default_factory=set)
    _delivered: set[bytes] = field(default_factory=set)
    _known: set[int] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Whether all partitions have a record of the producer."""
        return len(self._known) >= self.partitions or len(self._delivered) >= MOST_KEYS

    def blocks(self, key: bytes | None) -> bool:
        """Whether a record of this key has to wait for the delivery of the one before it."""
        return key in self._in_flight

    def sent(self, key: bytes | None) -> None:
        """Record that a record of this key is in flight, with the report of `watched`."""
        if key is not None and key not in self._delivered:
            self._in_flight.add(key)

    def reported(self, key: bytes | None, partition: int | None) -> None:
        """Record the delivery report of a record of this key. `partition`: where it is; None if it was not delivered."""
        if key is not None:
            self._in_flight.discard(key)
        if partition is not None:
            self._known.add(partition)
            if key is not None:
                self._delivered.add(key)

    def watched(
        self, key: bytes | None, report: Callable[[KafkaError | None, Message], None]
    ) -> Callable[[KafkaError | None, Message], None]:
        """The delivery report to use in place of `report` for a record of this key."""
        if key is None or key in self._delivered:
            return report

        def watching(error: KafkaError | None, message: Message) -> None:
            self.reported(key, message.partition() if error is None else None)
            report(error, message)

        return watching
