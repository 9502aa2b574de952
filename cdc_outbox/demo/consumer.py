"""The consumer: every record of every outbox topic, from its beginning, noted as it arrives.

In: brokers. Out: a `Tally` of arrivals, and the records themselves, for the view.
Never: a record passed over. Every partition is read from its first offset, and an offset that is not there any more is an
error, not a reason to go elsewhere. No consumer group, so no wait for a rebalance.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from cdc_outbox.demo.tally import Event, Tally, digest_of

TOPICS: Final = "outbox.event."

DISCOVERY_SECONDS: Final = 0.25
"""How often to look for new topics: the first event of an aggregate type creates its topic."""

POLL_SECONDS: Final = 0.05

ANSWER_SECONDS: Final = 10.0
"""Time-out of a request to the broker."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A record as it is displayed."""

    topic: str
    partition: int
    offset: int
    key: str
    type: str
    id: str
    value: str

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset} key {self.key} {self.type} {self.value}"

    def in_full(self) -> str:
        """With its headers."""
        return f"topic {self.topic}, key {self.key}, headers id={self.id} type={self.type}, value {self.value}"


class Reader(threading.Thread):
    """Reads until `stop()`. `watch` is called with each record, in this thread."""

    def __init__(self, brokers: str, tally: Tally, watch: Callable[[Arrival], None]) -> None:
        super().__init__(name="consumer", daemon=True)
        self.error: Exception | None = None
        """The error that ended the thread early."""
        self._tally = tally
        self._watch = watch
        self._stopping = threading.Event()
        self._end_wanted = threading.Event()
        self._end_reached = threading.Event()
        self._positions: dict[tuple[str, int], int] = {}
        self._next_discovery = 0.0
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": "cdc-outbox-demo",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.wait.max.ms": 50,
                "log_level": 0,
            }
        )

    def run(self) -> None:
        """Read."""
        try:
            while not self._stopping.is_set():
                self._discover()
                for message in self._consumer.consume(500, POLL_SECONDS):
                    self._take(message)
                if self._end_wanted.is_set() and not self._end_reached.is_set() and self._at_end():
                    self._end_reached.set()
        except KafkaException as error:
            self.error = error
        finally:
            self._consumer.close()

    def read_to_end(self, seconds: float) -> bool:
        """Wait until all that the broker has at this moment is read; False after `seconds`."""
        self._end_reached.clear()
        self._end_wanted.set()
        return self._end_reached.wait(seconds)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        if self.is_alive():
            self.join()

    def _discover(self) -> None:
        if time.monotonic() < self._next_discovery:
            return
        self._next_discovery = time.monotonic() + DISCOVERY_SECONDS
        found = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics.values()
        fresh = [
            TopicPartition(topic.topic, partition, OFFSET_BEGINNING)
            for topic in found
            if topic.topic.startswith(TOPICS)
            for partition in topic.partitions
            if (topic.topic, partition) not in self._positions
        ]
        if fresh:
            self._positions |= {(each.topic, each.partition): 0 for each in fresh}
            self._consumer.incremental_assign(fresh)

    def _at_end(self) -> bool:
        self._next_discovery = 0.0
        self._discover()
        for (topic, partition), position in self._positions.items():
            _, end = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=ANSWER_SECONDS)
            if position < end:
                return False
        return True

    def _take(self, message: Message) -> None:
        if message.error() is not None:
            raise KafkaException(message.error())
        arrival, value = _read(message)
        self._positions[arrival.topic, arrival.partition] = arrival.offset + 1
        self._tally.note_arrival(Event(arrival.id, arrival.topic, arrival.key, arrival.type, digest_of(value)))
        self._watch(arrival)


def _read(message: Message) -> tuple[Arrival, bytes]:
    """Split a record into its parts. A missing part is empty, and counts as altered in the verdict."""
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    headers = dict(message.headers() or [])
    value = message.value() or b""
    arrival = Arrival(
        topic,
        partition,
        offset,
        _text(message.key()),
        _text(headers.get("type")),
        _text(headers.get("id")),
        _text(value),
    )
    return arrival, value


def _text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode(errors="replace")
