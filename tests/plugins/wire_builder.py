"""Bytes of a replication stream, as a server would send them: what tests feed to the decoder and the relay.

Written from the tables of the manual with `int.to_bytes`, and with nothing of the package: what reads them must agree with
the manual, not with itself. PostgreSQL manual: 54.4 Streaming Replication Protocol, 54.9 Logical Replication Message Formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

Cell = bytes | None

EPOCH: Final = 946_684_800
"""2000-01-01 00:00 UTC, the zero of PostgreSQL's clocks, as Unix seconds."""

UUID: Final = 2950
TEXT: Final = 25
VARCHAR: Final = 1043
JSON: Final = 114
JSONB: Final = 3802
BYTEA: Final = 17
INT4: Final = 23
INT8: Final = 20
TIMESTAMP: Final = 1114
TIMESTAMPTZ: Final = 1184
"""Type OIDs (pg_type.dat)."""

OUTBOX_OID: Final = 16_400

OUTBOX: Final[tuple[tuple[str, int], ...]] = (
    ("seq", INT8),
    ("id", UUID),
    ("aggregatetype", TEXT),
    ("aggregateid", TEXT),
    ("type", TEXT),
    ("payload", JSON),
    ("headers", JSONB),
)
"""The table that `sql install` makes."""


def clock(unix_seconds: float) -> int:
    """A moment as the wire has it: microseconds since 2000."""
    return round((unix_seconds - EPOCH) * 1_000_000)


def u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def u64(value: int) -> bytes:
    return value.to_bytes(8, "big")


def i32(value: int) -> bytes:
    return value.to_bytes(4, "big", signed=True)


def i64(value: int) -> bytes:
    return value.to_bytes(8, "big", signed=True)


def text(value: str) -> bytes:
    return value.encode() + b"\0"


# Inside CopyData


def xlogdata(message: bytes, *, start: int = 0, end: int = 0, sent_at: int = 0) -> bytes:
    return b"w" + u64(start) + u64(end) + i64(sent_at) + message


def keepalive(wal_end: int, *, sent_at: int = 0, reply_requested: bool = False) -> bytes:
    return b"k" + u64(wal_end) + i64(sent_at) + bytes([reply_requested])


class Status(NamedTuple):
    """A standby status update, read back."""

    write: int
    flush: int
    apply: int
    clock: int
    reply_requested: bool


def read_status(message: bytes) -> Status:
    assert len(message) == 34
    assert message[:1] == b"r"
    write, flush, apply = (int.from_bytes(message[at : at + 8], "big") for at in (1, 9, 17))
    return Status(write, flush, apply, int.from_bytes(message[25:33], "big", signed=True), message[33] != 0)


# pgoutput


def begin(final_lsn: int, *, commit_time: int = 0, xid: int = 700) -> bytes:
    return b"B" + u64(final_lsn) + i64(commit_time) + u32(xid)


def commit(commit_lsn: int, end_lsn: int, *, commit_time: int = 0, flags: int = 0) -> bytes:
    return b"C" + bytes([flags]) + u64(commit_lsn) + u64(end_lsn) + i64(commit_time)


def relation(
    oid: int = OUTBOX_OID,
    columns: Sequence[tuple[str, int]] = OUTBOX,
    *,
    schema: str = "public",
    name: str = "outbox",
    identity: str = "d",
    keys: Sequence[str] = (),
    modifier: int = -1,
) -> bytes:
    cells = [bytes([column in keys]) + text(column) + u32(type_oid) + i32(modifier) for column, type_oid in columns]
    return b"R" + u32(oid) + text(schema) + text(name) + identity.encode() + u16(len(cells)) + b"".join(cells)


def tuple_data(cells: Sequence[Cell]) -> bytes:
    return u16(len(cells)) + b"".join(b"n" if cell is None else b"t" + u32(len(cell)) + cell for cell in cells)


def insert(oid: int, cells: Sequence[Cell]) -> bytes:
    return b"I" + u32(oid) + b"N" + tuple_data(cells)


def update(oid: int, cells: Sequence[Cell]) -> bytes:
    return b"U" + u32(oid) + b"N" + tuple_data(cells)


def delete(oid: int, cells: Sequence[Cell]) -> bytes:
    return b"D" + u32(oid) + b"K" + tuple_data(cells)


def truncate(*oids: int, options: int = 0) -> bytes:
    return b"T" + u32(len(oids)) + bytes([options]) + b"".join(map(u32, oids))


def user_type(oid: int, schema: str, name: str) -> bytes:
    return b"Y" + u32(oid) + text(schema) + text(name)


def origin(commit_lsn: int, name: str) -> bytes:
    return b"O" + u64(commit_lsn) + text(name)


def logical_message(prefix: str, content: bytes, *, lsn: int = 0, transactional: bool = True) -> bytes:
    return b"M" + bytes([transactional]) + u64(lsn) + text(prefix) + u32(len(content)) + content


def outbox_row(
    event_id: bytes,
    *,
    key: Cell = b"customer-1",
    topic: Cell = b"order",
    event_type: Cell = b"OrderPlaced",
    payload: Cell = b"{}",
    headers: Cell = None,
) -> list[Cell]:
    """Cells in the order of `OUTBOX`."""
    return [b"1", event_id, topic, key, event_type, payload, headers]
