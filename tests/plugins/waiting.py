"""Waiting for a condition, with a deadline: the only way in which a test waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE: Final = 20.0
"""Seconds for what has to happen: much more than it takes on a busy machine."""

PAUSES: Final = (0.02, 0.1)
"""Seconds between two looks, the first and the longest: a look is often a connection to PostgreSQL, 8 ms of CPU."""


def eventually(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """Return the first true result of `condition`. Raise AssertionError, with `what` did not come, after `seconds`."""
    deadline = time.monotonic() + seconds
    pause, longest = PAUSES
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(pause)
        pause = min(1.5 * pause, longest)
    return found
