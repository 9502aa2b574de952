"""Event ids: UUIDs that sort by the time of their creation (RFC 9562, section 5.7, UUID version 7).

48 bits of milliseconds, then 12 bits of fractions of one (section 6.2, method 3), then 62 random bits. Within a process
each id is greater than the one before it, also if the clock stops or goes back.
"""

from __future__ import annotations

import secrets
import threading
import time
from typing import Final
from uuid import UUID

_NANOSECONDS: Final = 1_000_000
"""Nanoseconds in a millisecond."""

_FRACTIONS: Final = 4096
"""Fractions of a millisecond in the 12 bits after the version: a quarter of a microsecond each."""

_lock: Final = threading.Lock()
_last = 0


def uuid7() -> UUID:
    """Make a new id."""
    global _last  # noqa: PLW0603 - the last id belongs to the process
    milliseconds, rest = divmod(time.time_ns(), _NANOSECONDS)
    now = milliseconds * _FRACTIONS + rest * _FRACTIONS // _NANOSECONDS
    with _lock:
        now = _last = max(now, _last + 1)
    milliseconds, fraction = divmod(now, _FRACTIONS)
    return UUID(int=milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | secrets.randbits(62))
