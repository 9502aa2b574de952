"""What came out of Kafka: every id once, each key's records in order, and when the broker took them.

In: a topic whose timestamps are the broker's (LogAppendTime). Out: `Arrival`; AssertionError when something is missing or out
of order: a rate of something wrong is no rate.
Never: a look while something is measured, but for `count`, which asks the broker for end offsets only.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import dataclass
from typing import Final

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.cimpl import NewTopic

PARTITIONS: Final = 6

READ_SECONDS: Final = 120.0
"""For reading a topic again: some 200,000 records a second."""

METADATA_SECONDS: Final = 30.0
"""For a new topic's partitions to have their leaders, and for a broker that was started to know its own."""

LEADER_SECONDS: Final = 0.05
"""Between two looks for the leaders: they are there within a few tenths of a second, before anything is measured."""

CREATE_SECONDS: Final = 60.0
"""For a broker to make, or to remove, some hundred topics."""

RETRY_SECONDS: Final = 0.1
"""Between two tries of `count` while a broker comes back: that takes seconds, and a try is a request to it."""

_SILENT: Final = logging.getLogger("benchmarks.silent")
"""A broker that is taken away is part of a scenario, no news."""
_SILENT.disabled = True

_NUMBER: Final = re.compile(rb'"n": (\d+)')


@dataclass(frozen=True, slots=True)
class Arrival:
    """All records of a topic. `first`, `last`: Unix seconds, to the millisecond, at the broker."""

    records: int
    ids: int
    first: float
    last: float
    with_first: int
    """Records that carry the first timestamp: they took no part of the time between."""

    @property
    def per_second(self) -> float:
        """Records a second between the first and the last."""
        return (self.records - self.with_first) / max(self.last - self.first, 0.001)


def topic_names(name: str, count: int) -> list[str]:
    """The topics of rows over `count` topics: see `Rig.fill`."""
    return [name] if count == 1 else [f"{name}{number}" for number in range(count)]


class Topic:
    """The topic of one turn, or `count` topics of one partition each; made anew and deleted at the end."""

    def __init__(self, brokers: str, name: str, count: int = 1) -> None:
        """Raises TimeoutError when its partitions get no leaders."""
        self.name = name
        self._names = topic_names(name, count)
        self._partitions = PARTITIONS if count == 1 else 1
        self._brokers = brokers
        self._admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0}, logger=_SILENT)
        stamps = {"message.timestamp.type": "LogAppendTime"}
        made = [NewTopic(each, self._partitions, 1, config=stamps) for each in self._names]
        for future in self._admin.create_topics(made).values():
            future.result(CREATE_SECONDS)
        deadline, wanted = time.monotonic() + METADATA_SECONDS, count * self._partitions
        while (led := self._with_leader()) < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name}: {led} of {wanted} partitions have a leader after {METADATA_SECONDS:g} s")
            time.sleep(LEADER_SECONDS)

    def _with_leader(self) -> int:
        topics = self._admin.list_topics(self.name if len(self._names) == 1 else None, timeout=10).topics
        names = [each for each in self._names if each in topics]
        return sum(part.leader >= 0 for each in names for part in topics[each].partitions.values())

    def count(self) -> int:
        """How many records it has."""
        end: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        wanted = {TopicPartition(each, number): end for each in self._names for number in range(self._partitions)}
        deadline = time.monotonic() + METADATA_SECONDS
        while True:
            try:
                return sum(future.result(10).offset for future in self._admin.list_offsets(wanted).values())
            except KafkaException:  # a partition without its leader yet, a broker that comes back
                if time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)

    def delete(self) -> None:
        """Remove it."""
        for future in self._admin.delete_topics(self._names).values():
            future.result(CREATE_SECONDS)

    def read(self, rows: int) -> Arrival:
        """Read all of it. Raises AssertionError unless it holds `rows` ids, each key's in the order of their numbers."""
        consumer = consume(self._brokers, *self._names)
        records, wanted, deadline = 0, self.count(), time.monotonic() + READ_SECONDS
        ids: set[bytes] = set()
        newest: dict[tuple[object, object], int] = {}
        stamps: dict[int, int] = {}
        while records < wanted and time.monotonic() < deadline:
            for message in consumer.consume(10_000, 1.0):
                records += 1
                stamp = message.timestamp()[1]
                stamps[stamp] = stamps.get(stamp, 0) + 1
                event_id = dict(message.headers() or [])["id"]
                assert isinstance(event_id, bytes)
                if event_id in ids:
                    continue  # sent twice: the first of an id counts
                ids.add(event_id)
                key, number = (message.topic(), message.key()), number_of(message.value() or b"")
                assert number > newest.get(key, -1), f"key {key!r}: {number} came after {newest[key]}"
                newest[key] = number
        consumer.close()
        assert len(ids) == rows, f"{self.name}: {len(ids)} ids of {rows}"
        first = min(stamps)
        return Arrival(records, len(ids), first / 1000, max(stamps) / 1000, stamps[first])


class Topics:
    """The topics of one turn of a steady rate: one with `PARTITIONS` partitions, or many with one each."""

    def __init__(self, brokers: str, prefix: str, count: int) -> None:
        self.names = topic_names(f"{prefix}.order", count)
        self._admin = AdminClient({"bootstrap.servers": brokers, "log_level": 0}, logger=_SILENT)
        partitions = PARTITIONS if count == 1 else 1
        for future in self._admin.create_topics([NewTopic(name, partitions, 1) for name in self.names]).values():
            future.result(CREATE_SECONDS)

    def delete(self) -> None:
        """Remove them."""
        for future in self._admin.delete_topics(self.names).values():
            future.result(CREATE_SECONDS)


def consume(brokers: str, *topics: str) -> Consumer:
    """A consumer of all partitions of these topics, from their beginning."""
    properties = {"bootstrap.servers": brokers, "group.id": "benchmark", "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer(properties, logger=_SILENT)
    partitions = PARTITIONS if len(topics) == 1 else 1
    consumer.assign([TopicPartition(topic, number, 0) for topic in topics for number in range(partitions)])
    return consumer


def number_of(payload: bytes) -> int:
    """The number that the row was written with."""
    found = _NUMBER.search(payload)
    assert found is not None, payload[:80]
    return int(found[1])
