"""When the loop reads: at once if the stream was quiet, after a short wait at a steady rate or in a backlog.

In: reads, how many messages each returned and whether it left some.
Out: seconds to sleep before the next read.
Never: a sleep in a quiet stream: a single event is read at once.

Each read costs a turn of the loop, and its events a request for each partition, so events that are read together share both.
In a backlog, each send of the walsender wakes a sleeping reader, which slows the walsender down.
"""

from __future__ import annotations

from typing import Final

BACKLOG_MESSAGES: Final = 300
"""A read that returns at least this many messages indicates a backlog: more than 10,000 transactions a second."""

BACKLOG_SECONDS: Final = 0.003
"""From read to read in a backlog: 2,000 messages at the rate of a walsender, which fit into the buffers of its socket."""


class Pacing:
    """The waits of one connection. `max_delay`: seconds that an event may wait for others; 0 for none."""

    def __init__(self, max_delay: float) -> None:
        self._max_delay = max_delay
        self._read_at = 0.0
        self._backlog = False
        self._steady = False
        self._paused = False

    def read(self, now: float, messages: int, *, empty: bool) -> bool:
        """Record a read of `messages` messages that began at `now`, as of time.monotonic(). `empty`: no more had arrived.

        True in a quiet stream: no more events are about to come that these could share a request with.
        """
        if messages:
            self._steady = self._paused or now - self._read_at <= self._max_delay
            self._backlog = empty and messages >= BACKLOG_MESSAGES
            self._read_at = now
        elif self._paused:
            self._steady = self._backlog = False
        self._paused = False
        return empty and not self._steady and not self._backlog

    def pause(self, now: float) -> float:
        """Seconds from `now` to the next read, during which messages may arrive unnoticed; 0: read when the first one is there.

        A sleep that no message ends costs one wake-up, however many arrive.
        """
        seconds = self._max_delay if self._steady else 0.0
        if self._backlog:
            seconds = BACKLOG_SECONDS
        pause = max(0.0, self._read_at + seconds - now)
        self._paused = pause > 0
        return pause
