"""One summary line per minute, for operators without metrics.

In: `Counters`, and the clocks as arguments. Out: `summary` lines. Never: a thread or a timer of its own; the owner of
the process calls `tick` about once a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_outbox.counters import Counters
from cdc_outbox.observe.health import OK, health, lag_seconds

INTERVAL_SECONDS: Final = 60.0
"""1,440 lines a day: enough to date the start of a problem, few enough to keep."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Summary:
    """Stores the figures of the last line, to compute rates. The second of two lines at the same instant has the rate 0."""

    def __init__(
        self,
        counters: Counters,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._monotonic = monotonic
        self._wall = wall
        self._due = monotonic() + INTERVAL_SECONDS
        self._logged_at = monotonic()
        self._logged_total = self._published()

    def tick(self, now: float) -> None:
        """Log a line if a minute is over. `now` is the monotonic clock's, in seconds."""
        if now >= self._due:
            self._due = now + INTERVAL_SECONDS
            self._log(now)

    def log_now(self) -> None:
        """Log a line on request (SIGUSR1). The schedule of the regular ones does not change."""
        self._log(self._monotonic())

    def _log(self, now: float) -> None:
        counters = self._counters
        total, elapsed = self._published(), now - self._logged_at
        wall = self._wall()
        found = health(counters, wall, now)
        log.info(
            "summary",
            state=counters.state,
            health=found.level,
            problem=None if found.level == OK else found.headline,
            events_per_second=round((total - self._logged_total) / elapsed, 1) if elapsed > 0 else 0.0,
            events_published=total,
            lag_seconds=round(lag_seconds(counters, wall), 3),
            in_flight_events=counters.in_flight_events,
            confirmed_lsn=counters.confirmed_lsn,
            received_lsn=counters.received_lsn,
        )
        self._logged_at, self._logged_total = now, total

    def _published(self) -> int:
        return sum(topic.delivered for topic in self._counters.topics.copy().values())
