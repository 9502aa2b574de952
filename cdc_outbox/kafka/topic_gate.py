"""Whether a topic can be written to: looked up at its first use, and again until it can.

In: names of topics. Out: whether records may be produced to it now, and the largest batch that it takes.
Never: a record. Obstacles in the cluster (an unknown topic or partition, an ACL) are waited for here, logged with their cure,
and raised for the caller to decide: the event is not their cause.

The gate waits for one topic at a time, since its record is held. Metadata comes from the producer, which makes the topic known
to it as well (and a broker that creates topics on demand creates it); limits and privileges come from the admin API. `admits`
never waits; the request of metadata, which does, is made by `look`, while the record is held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from confluent_kafka import KafkaError

from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError, Unreachable
from cdc_outbox.kafka.errors import DeliveryFailure, failed_delivery
from cdc_outbox.kafka.topics import Inquiry, Topic, TopicCatalog
from cdc_outbox.lsn import UNSET

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 1.0
"""For limits and privileges. A cluster that does not answer within this time is not asked again for QUIET_SECONDS."""

QUIET_SECONDS: Final = 60.0

ASK_SECONDS: Final = (0.1, 2.0)
"""Between two requests for one topic: the first pause, and the last, up to which it is doubled."""

WARN_SECONDS: Final = 2.0
"""Before the first warning: a topic that is created on demand, or with the event's deployment, exists by then."""

REPEAT_SECONDS: Final = 10.0
"""Between two warnings of one topic."""

PARTITION_SECONDS: Final = 5.0
"""Brokers know a new partition within a second or two. A partition unknown after this time is an error of the event."""

REMEMBERED_TOPICS: Final = 10_000
"""Most topics remembered as admitted; beyond it, all are looked up again."""


@dataclass(slots=True)
class _Wait:
    """A topic that cannot be written to yet."""

    topic: str
    since: float
    next_ask: float = 0.0
    pause: float = ASK_SECONDS[0]
    found: int | KafkaError | None = None
    """The last answer to a request of metadata, until it is used."""
    inquiry: Inquiry | None = None
    inquired_at: float = 0.0
    partition: int = -1
    """The partition that the held record names, if it is not known."""
    partitions: int = 0
    error: CdcOutboxError | None = None
    seen_at: float = 0.0
    """When a broker last gave this error: the process may have stood still since, or have no connection."""
    code: str = ""
    warned_at: float | None = None
    admitted_at: float | None = None


@dataclass(slots=True)
class TopicGate:
    """The topics of one producer."""

    catalog: Callable[[], TopicCatalog]
    counters: Counters
    unknown_seconds: float
    """After this time an unknown topic is raised as an error: a new topic may take as long to be known by all brokers."""
    limits: dict[str, int | None] = field(default_factory=dict)
    """Topics that may be written to, each with its max.message.bytes if that is known."""
    partitions: dict[str, int] = field(default_factory=dict)
    """The numbers of their partitions."""
    _wait: _Wait | None = None
    _catalog: TopicCatalog | None = None
    _quiet_until: float = 0.0
    _waited_for: dict[str, int] = field(default_factory=dict)
    """Topics whose missing partition did not appear, with their number of partitions: the next event does not wait again."""

    @property
    def waits(self) -> bool:
        """Whether a record waits for its topic."""
        return self._wait is not None and self._wait.admitted_at is None

    @property
    def over(self) -> bool:
        """Whether the topic of a held record is admitted, and none of its records is known to be delivered yet."""
        return self._wait is not None and self._wait.admitted_at is not None

    def pause(self, seconds: float) -> bool:
        """Wait at most `seconds` for an answer that was requested; False when there is none to wait for or to use."""
        wait = self._wait
        if wait is None:
            return False
        if wait.inquiry is not None:
            wait.inquiry.wait(seconds)
        return wait.inquiry is not None or wait.found is not None

    def look(self, metadata: Callable[[str], int | KafkaError]) -> bool:
        """Request the metadata that `admits` needs; False when no request is due. `metadata` asks the producer's brokers for a
        topic, and returns the number of its partitions, or an error.
        """
        wait = self._wait
        if wait is None or wait.admitted_at is not None or wait.inquiry is not None or wait.found is not None:
            return False
        if time.monotonic() < wait.next_ask:
            return False
        wait.found = metadata(wait.topic)
        return True

    def admits(self, topic: str) -> bool:
        """Whether records may be produced to `topic` now; False: call `look`, and ask again.

        Raises the obstacle at each call: AccessRefused; ConfigurationError once a topic has been unknown for `unknown_seconds`;
        PoisonEvent for a partition that the topic does not have.
        """
        if topic in self.limits:
            return True
        now = time.monotonic()
        wait = self._wait
        if wait is None or wait.topic != topic:
            wait = self._wait = _Wait(topic, now)
        wait.admitted_at = None
        if wait.inquiry is not None:
            return self._answered(wait, wait.inquiry, now)
        found, wait.found = wait.found, None
        return self._keeps(wait, now) if found is None else self._found(wait, found, now)

    def refused(self, topic: str, error: KafkaError, partition: int) -> None:
        """Handle a refusal that the cluster caused, not the record: look the topic up again, after a pause."""
        self.limits.pop(topic, None)
        now = time.monotonic()
        wait = self._wait
        if wait is None or wait.topic != topic:
            wait = self._wait = _Wait(topic, now)
        wait.admitted_at = wait.found = None
        wait.partition = partition if error.code() == KafkaError._UNKNOWN_PARTITION else -1
        self._put_off(wait, error, now)

    def ask(self, topic: str) -> Inquiry | None:
        """Begin to look a topic up, for a diagnosis; None if the admin API does not answer."""
        if time.monotonic() < self._quiet_until:
            return None
        self._catalog = self._catalog or self.catalog()
        return self._catalog.ask(topic, ANSWER_SECONDS)

    def close(self) -> None:
        """Drop the admin client, and stop waiting."""
        self._catalog = self._wait = None

    def produced(self) -> None:
        """End the wait: all records of the topic are delivered. The admin client ends too, since its threads wake at rest."""
        wait, self._wait, self._catalog = self._wait, None, None
        if wait is not None and wait.warned_at is not None:
            self.counters.clear_error(str(wait.error))
            log.info("topic.available", topic=wait.topic, seconds=round(time.monotonic() - wait.since, 1))

    def _found(self, wait: _Wait, partitions: int | KafkaError, now: float) -> bool:
        """Take the metadata, then request limits and privileges from the admin API."""
        if isinstance(partitions, KafkaError) and partitions.code() in _NO_ANSWER and wait.error is None:
            return self._admit(
                wait, None, now
            )  # no error of the topic is known, and librdkafka itself waits for brokers
        if isinstance(partitions, KafkaError):
            self._put_off(wait, partitions, now)
            return self._keeps(wait, now)
        if len(self.partitions) >= REMEMBERED_TOPICS:
            self.partitions.clear()
        self.partitions[wait.topic] = partitions
        if wait.partition >= partitions:
            return self._lacks_partition(wait, partitions, now)
        if now < self._quiet_until:
            return self._admit(wait, None, now)
        self._catalog = self._catalog or self.catalog()
        wait.inquiry, wait.inquired_at = self._catalog.ask(wait.topic, ANSWER_SECONDS), now
        return False

    def _answered(self, wait: _Wait, inquiry: Inquiry, now: float) -> bool:
        if not inquiry.wait(0.0) and now - wait.inquired_at < ANSWER_SECONDS:
            return False
        wait.inquiry = found = None
        try:
            found = inquiry.answer()
        except Unreachable:
            self._quiet_until, self._catalog = now + QUIET_SECONDS, None
        except CdcOutboxError as error:  # a privilege for the admin API is missing, but the producer got its metadata
            log.debug("topic.limit.unknown", topic=wait.topic, error=str(error))
        if found is not None and found.may_write is False:
            self._put_off(wait, KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), now)
            return self._keeps(wait, now)
        return self._admit(wait, found, now)

    def _admit(self, wait: _Wait, found: Topic | None, now: float) -> bool:
        if len(self.limits) >= REMEMBERED_TOPICS:
            self.limits.clear()
        self.limits[wait.topic] = None if found is None else found.max_message_bytes
        wait.admitted_at = now
        return True

    def _put_off(self, wait: _Wait, error: KafkaError, now: float) -> None:
        """Record why the topic cannot be written to, and when to look it up again."""
        if error.code() in _NO_ANSWER:
            wait.next_ask = now + ASK_SECONDS[0]
            return
        wait.code, wait.seen_at = error.name(), now
        wait.error = failed_delivery(DeliveryFailure(wait.topic, None, 0, error, UNSET, UNSET))
        wait.next_ask, wait.pause = now + wait.pause, min(2 * wait.pause, ASK_SECONDS[1])

    def _lacks_partition(self, wait: _Wait, partitions: int, now: float) -> bool:
        if self._waited_for.get(wait.topic) == partitions:
            wait.since = now - PARTITION_SECONDS
        wait.partitions = partitions
        self._put_off(wait, KafkaError(KafkaError._UNKNOWN_PARTITION), now)
        return self._keeps(wait, now)

    def _keeps(self, wait: _Wait, now: float) -> bool:
        """Log and raise the obstacle; False while it is too early for that."""
        error = wait.error
        if error is None:
            return False
        refused = isinstance(error, AccessRefused)
        if now - (wait.warned_at or wait.since) >= (
            REPEAT_SECONDS if wait.warned_at else 0.0 if refused else WARN_SECONDS
        ):
            wait.warned_at = now
            self.counters.count_delivery_error(wait.topic, wait.code)
            self.counters.note_error(str(error), error.code, error.cure)
            log.warning("topic.unavailable", error=error, seconds=round(now - wait.since, 1))
        patience = 0.0 if refused else PARTITION_SECONDS if wait.partition >= 0 else self.unknown_seconds
        if wait.seen_at - wait.since < patience:
            return False
        if wait.partition >= 0:
            self._waited_for[wait.topic] = wait.partitions
            self._wait = None
        raise error


_NO_ANSWER: Final = frozenset(
    {KafkaError._TRANSPORT, KafkaError._TIMED_OUT, KafkaError._ALL_BROKERS_DOWN, KafkaError.LEADER_NOT_AVAILABLE}
)
"""Errors that are not the topic's: no broker answers, or the topic has no leader at the moment."""
