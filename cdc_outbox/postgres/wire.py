"""The three messages that travel inside CopyData of a replication stream. Pure: bytes to values and back.

PostgreSQL manual: 54.4 Streaming Replication Protocol. Integers are big-endian; times are microseconds since
2000-01-01 UTC.

    w  XLogData                server to client   25 bytes, then one pgoutput message
    k  primary keepalive       server to client   18 bytes
    r  standby status update   client to server   34 bytes
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from cdc_outbox.errors import ProtocolError
from cdc_outbox.lsn import Lsn

XLOGDATA: Final = ord("w")
KEEPALIVE: Final = ord("k")

XLOGDATA_HEADER_BYTES: Final = 25
"""Type byte, start LSN, end LSN, clock. The LSNs are 0/0 in some messages, so they are never used as a position."""

POSTGRES_EPOCH_SECONDS: Final = 946_684_800
"""2000-01-01 00:00:00 UTC as Unix time: the zero of every PostgreSQL timestamp."""

_KEEPALIVE: Final = struct.Struct(">cQqB")
_STATUS: Final = struct.Struct(">cQQQqB")


class PrimaryKeepalive(NamedTuple):
    """`wal_end`: everything committed below it was sent before this message."""

    wal_end: Lsn
    server_time: int
    reply_requested: bool


def parse_keepalive(message: bytes) -> PrimaryKeepalive:
    """Read a `k` message. Raises ProtocolError when its length is not 18."""
    if len(message) != _KEEPALIVE.size:
        raise ProtocolError(f"a primary keepalive has {len(message)} bytes instead of {_KEEPALIVE.size}")
    _, wal_end, server_time, reply = _KEEPALIVE.unpack(message)
    return PrimaryKeepalive(wal_end, server_time, reply != 0)


def encode_status(*, write: int, flush: int, unix_time: float, reply_requested: bool) -> bytes:
    """A standby status update. `write`: received; `flush`: delivered, also sent as apply. `unix_time` in seconds."""
    clock = int((unix_time - POSTGRES_EPOCH_SECONDS) * 1_000_000)
    return _STATUS.pack(b"r", write, flush, flush, clock, reply_requested)


def unix_milliseconds(postgres_microseconds: int) -> int:
    """Convert a PostgreSQL timestamp, microseconds since 2000, to Unix milliseconds."""
    return postgres_microseconds // 1000 + POSTGRES_EPOCH_SECONDS * 1000
