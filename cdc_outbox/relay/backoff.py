"""Pauses between attempts to connect.

In: failed attempts. Out: seconds to pause.
Never: a wait. The caller waits, so that a stop ends it.
"""

from __future__ import annotations

import random
from typing import Final

RETRY_SECONDS: Final = (0.2, 15.0)
"""The first pause and the longest: a server restarts within seconds, and an outage must not cause a storm of connections."""

JITTER_SECONDS: Final = 0.5
"""Upper bound of the random addition to each pause, so that the relays of one server do not reconnect simultaneously."""


class Backoff:
    """Pauses between attempts: each twice as long as the one before, within RETRY_SECONDS, and jitter."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again with the shortest pause."""
        self._seconds = RETRY_SECONDS[0]

    def next(self) -> float:
        """Seconds to pause before the next attempt."""
        pause = self._seconds
        self._seconds = min(2 * pause, RETRY_SECONDS[1])
        return pause + random.uniform(0, JITTER_SECONDS)  # noqa: S311 - no secret
