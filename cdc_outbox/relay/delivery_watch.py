"""Events that wait for Kafka: one warning with a cure when they wait too long, and one log line when they are delivered.

In: once a turn, the time since which no record has been confirmed. Out: two log events, the last error.
Never: a decision. librdkafka retries by itself, and no event is lost meanwhile.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from cdc_outbox.counters import Counters
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.kafka.producer import Publisher

log = structlog.get_logger(__name__)

WAITING_SECONDS: Final = 5.0
"""Wait before the warning: a broker's restart or the election of a leader takes less."""


class DeliveryWatch:
    """Watches the deliveries of one session."""

    def __init__(self, counters: Counters, publisher: Publisher) -> None:
        self._counters = counters
        self._publisher = publisher
        self._since: float | None = None
        """Time since which the events of the warning have waited."""
        self._error: CdcOutboxError | None = None
        self._logged = False

    def check(self, now: float, waiting_since: float | None = None) -> None:
        """Warn of events that have waited too long. `now` and `waiting_since` as of `time.monotonic()`; `waiting_since`:
        the same for one transaction that waits although others are confirmed.
        """
        known = [since for since in (self._counters.unconfirmed_since_monotonic, waiting_since) if since is not None]
        since = min(known, default=now)
        if now - since > WAITING_SECONDS:
            if self._error is None:
                self._warn(now, since)
        elif self._error is not None:
            self._end(now)

    def _warn(self, now: float, since: float) -> None:
        error = self._publisher.diagnose()
        if error is None:
            return
        self._error, self._since = error, since
        self._counters.note_error(str(error), error.code, error.cure)
        self._logged = not self._publisher.lost  # that is one cause, and logged already
        if self._logged:
            self._counters.kafka_fails(error.message, time.time(), cure=error.cure, connected=True)
            log.warning(
                "delivery.waiting", error=error, seconds=round(now - since, 1), in_flight=self._publisher.in_flight
            )

    def _end(self, now: float) -> None:
        self._counters.clear_error(str(self._error))
        if self._logged:
            log.info("delivery.resumed", seconds=round(now - (self._since or now), 1))
        self._error = None
