"""A consumer's side of Kafka: the options of `consume`, and the client.

In: the options; a request to stop. Out: batches of events, committed offsets, dead letters.
Never: two calls of Kafka's client at the same time, an offset committed that the loop has not confirmed.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Required, TypedDict

from .calls import function_of
from .errors import OutboxUsageError
from .received import ReceivedEvent, received

log: Final = logging.getLogger("cdc_outbox.app.consumer")

POLL_SECONDS: Final = 0.5
"""One wait for the first event of a batch: without events, a stop waits this long at most."""

DEAD_LETTER_SECONDS: Final = 30.0
"""For Kafka to confirm a dead letter."""

_PROPERTIES: Final[dict[str, Any]] = {
    "auto.offset.reset": "earliest",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "session.timeout.ms": 10_000,  # how long the group waits for a member that was killed; 45 s by default
    "topic.metadata.refresh.interval.ms": 5_000,  # how soon a topic is found that was created after the start; 5 min
    "partition.assignment.strategy": "cooperative-sticky",  # a rebalance stops only the partitions that move
}


_FIXED: Final = ("enable.auto.commit", "enable.auto.offset.store", "group.id", "bootstrap.servers")
"""Properties that the loop depends on, or that have an argument of their own."""


class ConsumeOptions(TypedDict, total=False):
    """The arguments that `consume` and `consume_async` share; `Options` has their defaults and meaning."""

    brokers: Required[str]
    group: Required[str]
    topics: Required[Sequence[str]]
    consumer: str | None
    table: str
    batch_events: int
    attempts: int
    dead_letter_topic: str | None
    properties: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Options:
    """Arguments of `consume`. Raises OutboxUsageError for values that cannot be meant."""

    brokers: str
    """Bootstrap addresses of Kafka."""
    group: str
    topics: Sequence[str]
    """Names, or a pattern that begins with `^`; topics that do not exist yet are found once they do."""
    consumer: str | None = None
    """The name in the inbox; None: that of the group."""
    table: str = "public.inbox"
    batch_events: int = 500
    """Events in one transaction, at most: with more, the commit no longer dominates the cost."""
    attempts: int = 5
    """Attempts of one event before it is given up."""
    dead_letter_topic: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    """Further properties of librdkafka's consumer."""

    def __post_init__(self) -> None:
        """Check the values."""
        if not all(isinstance(name, str) for name in (self.brokers, self.group)):
            raise OutboxUsageError("brokers and group are texts: brokers='kafka-1:9092,kafka-2:9092', group='rewards'")
        if isinstance(self.topics, str) or not self.topics:
            raise OutboxUsageError("topics is a list of names, with one at least: topics=['outbox.event.order']")
        if self.batch_events < 1 or self.attempts < 1:
            raise OutboxUsageError("batch_events and attempts are 1 at least")
        taken = [name for name in self.properties if name in _FIXED]
        if taken:
            raise OutboxUsageError(f"the loop depends on {', '.join(taken)}: leave it out of properties")
        function_of(self.table, "_claim")

    @property
    def inbox_name(self) -> str:
        """The consumer's name in the inbox."""
        return self.consumer or self.group


class KafkaConsumer:
    """The consumer's side of Kafka. Blocking; only one thread at a time calls it."""

    def __init__(self, options: Options, stop: threading.Event) -> None:
        try:
            import confluent_kafka  # noqa: PLC0415 - applications that only emit do not have it
        except ImportError as error:
            error.add_note("cdc-outbox: the consumer needs confluent-kafka: pip install confluent-kafka")
            raise

        self._library = confluent_kafka
        self._options = options
        self._stop = stop
        self._arrived: list[Any] = []
        """Messages of partitions that were assigned during a pause."""
        self._producer: Any = None
        self._base = {"bootstrap.servers": options.brokers, **options.properties}
        self._consumer = confluent_kafka.Consumer({**_PROPERTIES, **self._base, "group.id": options.group}, logger=log)
        self._consumer.subscribe(list(options.topics))

    @property
    def stopped(self) -> bool:
        """Whether a stop was requested."""
        return self._stop.is_set()

    def read(self) -> list[ReceivedEvent]:
        """Available events, at most a batch; waits at most POLL_SECONDS for the first."""
        messages, self._arrived = self._arrived, []
        if not messages:
            first = self._consumer.poll(POLL_SECONDS)
            messages = [] if first is None else [first]
        room = self._options.batch_events - len(messages)
        if messages and room > 0:
            messages += self._consumer.consume(room, timeout=0)
        return [received(message) for message in messages if self._is_event(message)]

    def _is_event(self, message: Any) -> bool:
        error = message.error()
        if error is None:
            return True
        if error.fatal():
            raise self._library.KafkaException(error)
        log.warning(
            "kafka: %s", error.str()
        )  # among them a topic that does not exist yet; librdkafka goes on by itself
        return False

    def commit(self, events: list[ReceivedEvent]) -> None:
        """Commit the offsets behind these events. A refusal (a rebalance, a member that was given up) only repeats events."""
        ends: dict[tuple[str, int], int] = {}
        for event in events:
            ends[event.topic, event.partition] = event.offset + 1
        offsets = [self._library.TopicPartition(topic, number, end) for (topic, number), end in ends.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except self._library.KafkaException as error:
            log.warning("offsets are not committed, the events come again without effect: %s", error)

    def idle(self, seconds: float) -> None:
        """Wait without receiving events, and stay a member of the group. Ends early if a stop is requested."""
        until = time.monotonic() + seconds
        while not self._stop.is_set() and (left := until - time.monotonic()) > 0:
            self._consumer.pause(self._consumer.assignment())
            message = self._consumer.poll(min(POLL_SECONDS, left))
            if message is not None:
                self._arrived.append(message)
        self._consumer.resume(self._consumer.assignment())

    def dead_letter(self, event: ReceivedEvent, error: Exception) -> None:
        """Send the event to the dead-letter topic, and wait until Kafka has it. Raises KafkaException."""
        if self._producer is None:
            self._producer = self._library.Producer(
                {**self._base, "enable.idempotence": True, "acks": "all"}, logger=log
            )
        refused: list[Any] = []
        headers = [
            *event.headers.items(),
            ("outbox.error.reason", b"handler-failed"),
            ("outbox.error.message", repr(error)[:2000].encode(errors="replace")),
            ("outbox.original.topic", event.topic.encode()),
            ("outbox.consumer", self._options.inbox_name.encode()),
        ]
        self._producer.produce(
            self._options.dead_letter_topic,
            value=event.payload,
            key=None if event.key is None else event.key.encode(),
            headers=headers,
            on_delivery=lambda failure, _: refused.append(failure) if failure is not None else None,
        )
        if self._producer.flush(DEAD_LETTER_SECONDS) or refused:
            reason = refused[0] if refused else f"Kafka has not confirmed it within {DEAD_LETTER_SECONDS:.0f} s"
            raise self._library.KafkaException(reason)

    def close(self) -> None:
        """Leave the group."""
        self._consumer.close()
