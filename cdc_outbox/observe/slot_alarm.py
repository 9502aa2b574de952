"""Log events when the slot becomes endangered, and when it is safe again.

In: `Counters`, judged once a second. Out: `slot.endangered` with the SQL that buys time, and `slot.safe`.
Never: a judgement of its own (`health` has it), a thread or a timer of its own; the owner of the process calls `tick`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters
from cdc_outbox.observe.health import status

REASONS: Final = ("slot-lost", "slot-unreserved", "slot-endangered")

AGAIN_SECONDS: Final = 5.0
"""Between two evaluations of the same look at the slot, which costs as much as everything else that happens at rest."""

CALM_SECONDS: Final = 60.0
"""Time without danger before the slot counts as safe: the rate of WAL varies between reads."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class SlotAlarm:
    """Stores the last logged danger, and the time since which there is none."""

    def __init__(self, counters: Counters, settings: Settings, wall: Callable[[], float] = time.time) -> None:
        self._counters = counters
        self._settings = settings
        self._wall = wall
        self._code: str | None = None
        self._since = 0.0
        self._calm_since: float | None = None
        self._seen: SlotCounters | None = None
        self._due = 0.0

    def tick(self, now: float) -> None:
        """Log a change. `now` is the monotonic clock's, in seconds."""
        seen = self._counters.slot
        if seen is None:  # before the first look at it, or on a standby
            return
        if seen is self._seen and self._code is None and now < self._due:
            return
        self._seen, self._due = seen, now + AGAIN_SECONDS
        found = status(self._counters, self._settings, self._wall(), now).reasons
        reason = next((each for each in found if each.code in REASONS), None)
        if reason is None:
            self._calm(now)
            return
        self._calm_since = None
        if reason.code == self._code:
            return
        if self._code is None:
            self._since = now
        self._code = reason.code
        log.error("slot.endangered", slot=self._settings.slot, code=reason.code, error=reason.text, cure=reason.cure)

    def _calm(self, now: float) -> None:
        if self._code is None:
            return
        if self._calm_since is None:
            self._calm_since = now
        elif now - self._calm_since >= CALM_SECONDS:
            log.info("slot.safe", slot=self._settings.slot, seconds=round(self._calm_since - self._since))
            self._code = self._calm_since = None
