"""The log sequence number: a byte position in PostgreSQL's write-ahead log.

An LSN is an unsigned 64-bit integer, written as two hexadecimal halves: `16/B374D848`. `0/0` (`UNSET`) means "no
statement": as a start position it lets the slot decide, as a flush position it confirms nothing.
PostgreSQL manual, 8.20 pg_lsn Type.
"""

from __future__ import annotations

import re
from typing import NewType

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
