"""Progress of a relay's long operations: a first start that sends rows, a stop that drains.

In: `Counters`. Out: on a terminal a bar below the log; elsewhere, for a drain, periodic lines (a first start has its own).
Never: a thread or a timer of its own; the owner of the process calls `tick` about once a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from cdc_outbox.counters import Counters, State
from cdc_outbox.observe import logs

LINE_SECONDS: Final = 5.0
"""Between two lines of a drain: it takes at most --shutdown-timeout, 25 s by default."""

BAR_CHARACTERS: Final = 30
"""Columns of the bar itself: with its text it fits into 80 columns, the narrowest usual terminal."""

SNAPSHOT_STATES: Final = (State.STARTING, State.RECONNECTING)
"""States in which rows of the table are sent: a first start, or the recovery of a lost slot (`--on-slot-lost recover`)."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Work:
    """A long operation: number of events done, and total number."""

    name: str
    done: int
    total: int


class Bar:
    """The progress bar of one relay."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._draining = 0
        """Events that were in flight when the drain was seen first."""
        self._line_at: float | None = None

    def tick(self, now: float) -> None:
        """Update the bar. `now` is the monotonic clock's, in seconds."""
        work = self._work()
        shown = logs.draw("" if work is None else drawn(work))
        if work is None or shown or work.name != "drain":
            self._line_at = None
        elif self._line_at is None:
            self._line_at = now + LINE_SECONDS
        elif now >= self._line_at:
            self._line_at = now + LINE_SECONDS
            log.info("drain.progress", in_flight=work.total - work.done, of=work.total)

    def _work(self) -> Work | None:
        counters = self._counters
        if counters.state is State.DRAINING and counters.in_flight_events:
            self._draining = max(self._draining, counters.in_flight_events)
            return Work("drain", self._draining - counters.in_flight_events, self._draining)
        if counters.state in SNAPSHOT_STATES and counters.snapshot_rows < counters.snapshot_expected:
            return Work("snapshot", max(0, counters.snapshot_rows), counters.snapshot_expected)
        return None


def drawn(work: Work) -> str:
    """The bar as text."""
    full = BAR_CHARACTERS * work.done // work.total
    return f"{work.name}  [{'#' * full}{'-' * (BAR_CHARACTERS - full)}]  {work.done:,} of {work.total:,}"
