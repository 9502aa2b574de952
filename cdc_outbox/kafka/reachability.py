"""Errors of librdkafka's error callback, as one log event per cause: no broker can be reached, and one is reached again.

In: errors of librdkafka, confirmations. Out: log events, the counters of the Kafka connection, a refusal for `Publisher.reach`.
Never: a call of the producer (the binding aborts the process when one is made from a callback), or an exception.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable

import structlog
from confluent_kafka import KafkaError

from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError, Unreachable
from cdc_outbox.kafka.errors import CLOSED, GONE, NOT_READY, SILENT, describe, final, unreachable

log = structlog.get_logger(__name__)


class Reachability:
    """The state of the connection to one cluster."""

    def __init__(self, brokers: str, counters: Counters) -> None:
        self._brokers = brokers
        self._counters = counters
        self.refusal: CdcOutboxError | None = None
        """The last error that a retry does not cure."""
        self.login_refused = False
        """Whether a login was refused since this was last reset."""
        self.all_down = False
        """Whether every broker was found unreachable since the start or the last answer."""
        self._detail = ""
        """What librdkafka has reported about a broker since the last answer."""
        self._has_answered = False
        self._lost_at: float | None = None

    @property
    def lost(self) -> bool:
        """Whether no broker can be reached, and that was logged."""
        return self._lost_at is not None

    @property
    def error(self) -> Unreachable:
        """The error for brokers that cannot be reached."""
        return unreachable(self._brokers, self._detail or SILENT)

    def on_error(self, error: KafkaError) -> None:
        """Handle an error. librdkafka retries by itself."""
        now = time.time()
        refusal = final(error)
        if refusal is not None:
            self.refusal = refusal
            self.login_refused = self.login_refused or isinstance(refusal, AccessRefused)
            self._counters.kafka_fails(refusal.message, now, cure=refusal.cure)
            log.warning("kafka.error", error=error.str(), kafka_error=error.name(), cure=refusal.cure)
        elif error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_down = True
            if not self._detail:
                self._detail = GONE if self._has_answered else CLOSED
            self._counters.kafka_fails(self._detail, now, cure=self.error.cure)
            self._lose()
        elif error.code() in NOT_READY:
            self._detail = describe(error)
            cure = self.error.cure if self.lost else ""
            self._counters.kafka_fails(self._detail, now, cure=cure, connected=True)
            log.debug("kafka.error", error=error.str(), kafka_error=error.name())
        else:
            self._counters.kafka_fails(error.str(), now, connected=True)
            log.warning("kafka.error", error=error.str(), kafka_error=error.name())

    def answered(self) -> None:
        """Record that a broker has answered."""
        self._counters.kafka_answers(time.time())
        self._detail, self.all_down, self._has_answered = "", False, True
        lost_at, self._lost_at = self._lost_at, None
        if lost_at is not None:
            log.info("kafka.reachable", brokers=self._brokers, seconds=round(time.monotonic() - lost_at, 1))

    def _lose(self) -> None:
        """Log that no broker can be reached: once, until one answers."""
        if self._lost_at is None:
            self._lost_at = time.monotonic()
            log.warning("kafka.unreachable", error=self.error, brokers=self._brokers)


def weakly(method: Callable[[KafkaError], None]) -> Callable[[KafkaError], None]:
    """A callback with a weak reference to its object: a reference cycle would keep a producer and its owner alive."""
    reference = weakref.WeakMethod(method)

    def call(error: KafkaError) -> None:
        if (alive := reference()) is not None:
            alive(error)

    return call
