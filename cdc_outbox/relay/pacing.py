"""When the loop reads: at once if the stream was quiet, after a short wait at a steady rate or in a backlog.

In: reads, how many messages each returned and whether it left some.
Out: seconds to sleep before the next read.
Never: a sleep in a quiet stream: a single event is read at once.

Each read costs a turn of the loop, and its events a request for each partition, so events that are read together share both.
In a backlog the walsender is the slower side. A send costs it more while the reader is awake than while it sleeps. So the
pauses grow while a backlog lasts, until one nearly fills the socket's buffers.
"""

from __future__ import annotations

from typing import Final

BACKLOG_MESSAGES: Final = 300
"""Fewer messages than this are no backlog, however fast they come: they may be one transaction."""

BACKLOG_MESSAGES_PER_SECOND: Final = 100_000
"""A rate that indicates a backlog: 30,000 transactions a second. A steady rate below it keeps the latency of `max_delay`."""

BACKLOG_SECONDS: Final = (0.003, 0.024)
"""From read to read in a backlog: at first, and at most; each pause is twice the one before. At the rate of a walsender these
are 2,000 and 16,000 messages, or 0.3 and 2 MB. Longer pauses bring nothing (docs/benchmarks.md).
"""


class Pacing:
    """The waits of one connection. `max_delay`: seconds that an event may wait for others; 0 for none."""

    def __init__(self, max_delay: float) -> None:
        self._max_delay = max_delay
        self._read_at = 0.0
        self._emptied_at = 0.0
        """When the socket was last found empty."""
        self._arrived = 0
        """Messages since then."""
        self._backlog = 0.0
        """Seconds from read to read in the present backlog; 0 without one."""
        self._steady = False
        self._paused = False

    def read(self, now: float, messages: int, *, empty: bool) -> bool:
        """Record a read of `messages` messages that began at `now`, as of time.monotonic(). `empty`: no more had arrived.

        True in a quiet stream: no more events are about to come that those read last could share a request with.
        """
        if messages:
            self._steady = self._paused or now - self._read_at <= self._max_delay
            self._read_at = now
        elif self._paused or now - self._read_at > self._max_delay:
            self._steady = False
        self._paused = False
        self._arrived += messages
        if empty:
            self._emptied(now)
        return empty and not self._steady and not self._backlog

    def pause(self, now: float) -> float:
        """Seconds from `now` to the next read, during which messages may arrive unnoticed; 0: read when the first one is there.

        A sleep that no message ends costs one wake-up, however many arrive.
        """
        seconds = self._backlog or (self._max_delay if self._steady else 0.0)
        pause = max(0.0, self._read_at + seconds - now)
        self._paused = pause > 0
        return pause

    def _emptied(self, now: float) -> None:
        """Choose the pause by what arrived since the socket was last found empty."""
        first, longest = BACKLOG_SECONDS
        seconds = now - self._emptied_at
        if self._arrived >= max(BACKLOG_MESSAGES, BACKLOG_MESSAGES_PER_SECOND * seconds):
            self._backlog = min(2 * self._backlog, longest) or first
        else:
            self._backlog = 0.0
        self._emptied_at, self._arrived = now, 0
