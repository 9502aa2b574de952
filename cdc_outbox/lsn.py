"""The log sequence number: a byte position in PostgreSQL's write-ahead log.

An LSN is an unsigned 64-bit integer, written as two hexadecimal halves: `16/B374D848`. `0/0` (`UNSET`) means
"none": as a start position, the slot's own; as a flush position, it confirms nothing.
PostgreSQL manual, 8.20 pg_lsn Type.
"""

from __future__ import annotations

import re
from collections import deque
from typing import Final, NamedTuple, NewType

Lsn = NewType("Lsn", int)

UNSET = Lsn(0)

_TEXT = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


def parse_lsn(text: str) -> Lsn:
    """Read PostgreSQL's text form, `16/B374D848`. Raises ValueError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text!r}")
    return Lsn(int(match[1], 16) << 32 | int(match[2], 16))


def format_lsn(lsn: int) -> str:
    """Write an LSN as PostgreSQL does, `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def bytes_between(earlier: int | None, later: int) -> int | None:
    """WAL from one position to another, at least 0; None without the earlier one."""
    return None if earlier is None else max(0, later - earlier)


class LsnRange(NamedTuple):
    """Commit LSNs of transactions that follow one another, both ends included."""

    first: Lsn
    last: Lsn


RATE_SECONDS: Final = 120.0
"""Period of the WAL rate: four looks at the catalog, so that the full pages of one checkpoint do not determine it."""


class WalRate:
    """The rate at which a server writes WAL, from its positions at different times."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, at: float, position: int) -> None:
        """Add the server's position `at` a time, in seconds of any clock. A lower position than the last resets the rate."""
        if self._seen and (position < self._seen[-1][1] or at < self._seen[-1][0]):
            self._seen.clear()
        self._seen.append((at, position))
        while len(self._seen) > 2 and self._seen[0][0] < at - RATE_SECONDS:
            self._seen.popleft()

    @property
    def bytes_per_second(self) -> float | None:
        """None before two positions are known."""
        if not self._seen or (elapsed := self._seen[-1][0] - self._seen[0][0]) <= 0:
            return None
        return (self._seen[-1][1] - self._seen[0][1]) / elapsed
