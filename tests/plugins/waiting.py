"""Waiting for a condition, with a deadline: the only way in which a test waits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

PATIENCE: Final = 20.0
"""Seconds for what has to happen: much more than it takes on a busy machine."""


def eventually(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE) -> T:
    """What `condition` gives as soon as it is true. AssertionError, which says `what` did not come, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)
    return found
