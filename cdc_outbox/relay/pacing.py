"""When the loop reads: at once if the stream was quiet, after a short wait at a steady rate or in a backlog.

In: reads, how many messages each returned and whether it left some, the moments at which the socket was readable.
Out: seconds to wait before a read.
Never: a wait in a quiet stream: a single event is read at once.

Each read costs a turn of the loop, and its events a request for each partition, so events that are read together share both.
In a backlog, each send of the walsender wakes a sleeping reader, which slows the walsender down.
"""

from __future__ import annotations

from typing import Final

BACKLOG_MESSAGES: Final = 300
"""A read that returns at least this many messages indicates a backlog: more than 10,000 transactions a second."""

BACKLOG_SECONDS: Final = 0.003
"""Between two reads in a backlog: 1,000 messages at the rate of a walsender, which fit into the buffers of a socket."""


class Pacing:
    """The waits of one connection. `max_delay`: seconds that an event may wait for others; 0 for none."""

    def __init__(self, max_delay: float) -> None:
        self._max_delay = max_delay
        self._read_at = 0.0
        self._backlog = False
        self.delayed = False
        """Whether the last read came after a delay: the stream is not quiet."""

    def read(self, now: float, messages: int, *, empty: bool) -> None:
        """Record a read of `messages` messages at `now`, as of time.monotonic(). `empty`: no more had arrived."""
        self._read_at = now
        self._backlog = empty and messages >= BACKLOG_MESSAGES

    def delay(self, now: float) -> float:
        """Seconds to wait when the socket is readable at `now`, so that more messages arrive."""
        steady = now - self._read_at <= self._max_delay
        self.delayed = self._backlog or steady
        if self._backlog:
            return BACKLOG_SECONDS
        return self._max_delay if steady else 0.0
