"""Messages of the pgoutput plugin, protocol version 1. Pure: bytes to values.

In: a CopyData message and the offset at which its pgoutput message begins. Out: one of the tuples below.
Never: a guess. A truncated, padded or unknown message is a ProtocolError that names the message.

Messages of each row or transaction have readers of their own: `begin_reader`, `commit_reader`, and for one relation's Inserts
`compile_reader`, which extracts only the requested columns; `decode` does not look at columns.

PostgreSQL manual: 54.9 Logical Replication Message Formats; 54.5.3 for the order in which they come.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

from cdc_outbox.errors import ProtocolError
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import wire

BEGIN: Final = ord("B")
COMMIT: Final = ord("C")
INSERT: Final = ord("I")
RELATION: Final = ord("R")
MESSAGE: Final = ord("M")

_U32: Final = struct.Struct(">I")
_U16: Final = struct.Struct(">H")
_BEGIN: Final = struct.Struct(">xQqI")
_COMMIT: Final = struct.Struct(">xxQQq")
_INSERT: Final = struct.Struct(">cIc")
_LOGICAL: Final = struct.Struct(">cBQ")
_COLUMN: Final = struct.Struct(">Ii")
_CELL_HEAD: Final = struct.Struct(">BI")

INSERT_TUPLE_OFFSET: Final = 5
"""From the start of an Insert to its new tuple, which begins with 'N': type byte, relation OID."""

PGOUTPUT_AT: Final = wire.XLOGDATA_HEADER_BYTES
"""Offset of the pgoutput message in an XLogData message."""

ROW_OID: Final = slice(PGOUTPUT_AT + 1, PGOUTPUT_AT + 5)
"""The OID of the relation, in an Insert that came in XLogData."""

ROW_AT: Final = PGOUTPUT_AT + INSERT_TUPLE_OFFSET
"""Offset of the tuple of such an Insert."""


class Begin(NamedTuple):
    """A committed transaction begins. `commit_time`: microseconds since 2000-01-01 UTC."""

    final_lsn: Lsn
    commit_time: int
    xid: int


class Commit(NamedTuple):
    """The transaction ends. Only `end_lsn`, unchanged, may be confirmed to the server."""

    commit_lsn: Lsn
    end_lsn: Lsn
    commit_time: int


class Column(NamedTuple):
    """A column in a Relation message, which describes it as it was when the row was written."""

    name: str
    type_oid: int
    is_key: bool = False
    type_modifier: int = -1
    type_name: str = ""
    """For error messages. Empty: not known, or the built-in type of that OID."""


class Relation(NamedTuple):
    """A table, described before its first row and again after each change. An empty `schema` is pg_catalog."""

    oid: int
    schema: str
    name: str
    replica_identity: str
    columns: tuple[Column, ...]


class Insert(NamedTuple):
    """A row. `tuple_offset`: where its tuple, 'N' and the cells, begins in the same bytes, for the relation's reader."""

    relation_oid: int
    tuple_offset: int


class Type(NamedTuple):
    """A user-defined type, described before the relation that uses it. A domain has the schema and name of its base type.

    An empty `schema` is pg_catalog.
    """

    oid: int
    schema: str
    name: str


class Origin(NamedTuple):
    """The transaction was first committed on another server."""

    commit_lsn: Lsn
    name: str


class Truncate(NamedTuple):
    """Tables were truncated, which has no meaning for an outbox."""

    relation_oids: tuple[int, ...]


class Change(NamedTuple):
    """An Update or Delete. A publication with publish='insert' never sends one."""

    kind: str
    relation_oid: int


class LogicalMessage(NamedTuple):
    """pg_logical_emit_message: a message without a table."""

    transactional: bool
    lsn: Lsn
    prefix: str
    content: bytes


Message = Begin | Commit | Relation | Insert | Type | Origin | Truncate | Change | LogicalMessage

T = TypeVar("T")


def decode(data: bytes, at: int = 0) -> Message:
    """Decode the message that begins at `at` and ends with `data`. Raises ProtocolError."""
    if at >= len(data):
        raise ProtocolError("an empty pgoutput message")
    name, read = _READERS.get(data[at], ("", None))
    if read is None:
        raise ProtocolError(f"pgoutput message of an unknown type {bytes(data[at : at + 1])!r}")
    try:
        return read(data, at)
    except (struct.error, IndexError, ValueError) as error:
        raise ProtocolError(f"malformed pgoutput {name}: {error}") from error


def begin_reader(at: int) -> Callable[[bytes], tuple[Lsn, int, int]]:
    """Make the function that reads a Begin at offset `at` of a message, once per transaction. It returns Begin's fields.

    It raises ProtocolError when the message has another length.
    """
    return _exact_reader("Begin", _BEGIN, at)


def commit_reader(at: int) -> Callable[[bytes], tuple[Lsn, Lsn, int]]:
    """Make the function that reads a Commit at offset `at` of a message, once per transaction. It returns Commit's fields.

    It raises ProtocolError when the message has another length.
    """
    return _exact_reader("Commit", _COMMIT, at)


def _exact_reader(name: str, layout: struct.Struct, at: int) -> Callable[[bytes], tuple[Any, ...]]:
    """A reader without a named tuple, and without a length check besides that of struct: half the cost of `decode`."""
    unpack = struct.Struct(f">{at}x{layout.format[1:]}").unpack

    def read(message: bytes) -> tuple[Any, ...]:
        try:
            return unpack(message)
        except struct.error as error:
            raise ProtocolError(
                f"malformed pgoutput {name}: {len(message) - at} bytes instead of {layout.size}"
            ) from error

    return read


def _read_begin(data: bytes, at: int) -> Begin:
    return Begin(*_BEGIN.unpack(data[at:]))


def _read_commit(data: bytes, at: int) -> Commit:
    return Commit(*_COMMIT.unpack(data[at:]))


def _read_insert(data: bytes, at: int) -> Insert:
    _, relation_oid, kind = _INSERT.unpack_from(data, at)
    if kind != b"N":
        raise ValueError(f"tuple kind {kind!r} instead of b'N'")
    return Insert(relation_oid, at + INSERT_TUPLE_OFFSET)


def _read_relation(data: bytes, at: int) -> Relation:
    (oid,) = _U32.unpack_from(data, at + 1)
    schema, at = _text(data, at + 5)
    name, at = _text(data, at)
    identity = chr(data[at])
    (count,) = _U16.unpack_from(data, at + 1)
    at += 3
    columns: list[Column] = []
    for _ in range(count):
        flags = data[at]
        column, at = _text(data, at + 1)
        type_oid, modifier = _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(Column(column, type_oid, bool(flags & 1), modifier))
    return _complete(data, at, Relation(oid, schema, name, identity, tuple(columns)))


def _read_type(data: bytes, at: int) -> Type:
    (oid,) = _U32.unpack_from(data, at + 1)
    schema, at = _text(data, at + 5)
    name, at = _text(data, at)
    return _complete(data, at, Type(oid, schema, name))


def _read_origin(data: bytes, at: int) -> Origin:
    (lsn,) = struct.unpack_from(">Q", data, at + 1)
    name, at = _text(data, at + 9)
    return _complete(data, at, Origin(lsn, name))


def _read_truncate(data: bytes, at: int) -> Truncate:
    (count,) = _U32.unpack_from(data, at + 1)
    if len(data) - at != 6 + 4 * count:  # before anything of that size is allocated
        raise ValueError(f"{count} relations do not fit {len(data) - at} bytes")
    return Truncate(struct.unpack_from(f">{count}I", data, at + 6))


def _read_change(data: bytes, at: int) -> Change:
    (oid,) = _U32.unpack_from(data, at + 1)
    return Change({ord("U"): "Update", ord("D"): "Delete"}[data[at]], oid)


def _read_logical_message(data: bytes, at: int) -> LogicalMessage:
    _, flags, lsn = _LOGICAL.unpack_from(data, at)
    prefix, at = _text(data, at + _LOGICAL.size)
    (length,) = _U32.unpack_from(data, at)
    content = data[at + 4 : at + 4 + length]
    return _complete(data, at + 4 + length, LogicalMessage(bool(flags & 1), lsn, prefix, content))


def _text(data: bytes, at: int) -> tuple[str, int]:
    """Read a NUL-terminated string. Returns it and the offset after it."""
    end = data.index(b"\0", at)
    return data[at:end].decode("utf-8", "surrogateescape"), end + 1


def _complete(data: bytes, at: int, message: T) -> T:
    if at != len(data):
        raise ValueError(f"ends at byte {at} of {len(data)}")
    return message


_READERS: Final[Mapping[int, tuple[str, Callable[[bytes, int], Message]]]] = {
    BEGIN: ("Begin", _read_begin),
    COMMIT: ("Commit", _read_commit),
    INSERT: ("Insert", _read_insert),
    RELATION: ("Relation", _read_relation),
    ord("Y"): ("Type", _read_type),
    ord("O"): ("Origin", _read_origin),
    ord("T"): ("Truncate", _read_truncate),
    ord("U"): ("Update", _read_change),
    ord("D"): ("Delete", _read_change),
    MESSAGE: ("Message", _read_logical_message),
}


def compile_reader(
    relation: Relation,
    expression: str,
    wanted: Sequence[int],
    scope: Mapping[str, object],
    tuple_at: int = 0,
    arguments: str = "",
) -> Callable[..., object]:
    """Make the function that reads one relation's tuples: `reader(data, at=tuple_at) -> value of expression`.

    `expression` is source text in which `c0`, `c1`, … stand for the columns (bytes, or None for NULL) whose positions are
    in `wanted`, and the names of `scope` for their values. `arguments`: source text of more parameters after `data`, each
    followed by a comma, for the expression. Positions and counts are written into the source, so a
    row costs a few comparisons and a slice per wanted column: measured, a quarter of the time of a loop over cells.
    Only positions enter the source, never a value or a name. The reader raises ProtocolError for a tuple that is
    truncated, too long, of another number of columns, or has a cell that is neither text nor NULL.
    """
    count = len(relation.columns)
    lines = [
        f"def reader(data, {arguments}at={tuple_at}):",
        " try:",
        f"  if data[at] != 78 or data[at + 1] != {count >> 8} or data[at + 2] != {count & 0xFF}: raise malformed(data, at)",
        "  at += 3",
        "  end = len(data) - 4",
    ]
    for position in range(count):
        lines += _cell_source(position, keep=position in wanted, near_end=count - position < _CELL_HEAD.size)
    lines += [
        "  if at != end + 4: raise malformed(data, at)",
        " except (IndexError, error) as problem: raise malformed(data, at) from problem",
        f" return {expression}",
    ]

    def malformed(data: bytes, at: int) -> ProtocolError:
        return ProtocolError(
            f"malformed pgoutput Insert: tuple of {relation.schema}.{relation.name} with {count} columns "
            f"breaks off or goes on at byte {at} of {len(data)}"
        )

    names = {**scope, "head_at": _CELL_HEAD.unpack_from, "malformed": malformed, "error": struct.error}
    exec("\n".join(lines), names)  # noqa: S102 - positions only, see above
    reader = names["reader"]
    assert callable(reader)
    return reader


def _cell_source(position: int, *, keep: bool, near_end: bool) -> list[str]:
    """Source that steps over one cell; `keep`: and keeps its text.

    Kind and length are read in one step. A NULL has no length, so that step reads bytes of the next cells. It could run over
    the end only in the last cells, since each following cell has at least one byte.
    """
    return [
        f"  kind, length = head_at(data, at){' if at < end else (data[at], 0)' if near_end else ''}",
        "  if kind == 116:",  # 't', text
        "   start = at + 5",
        "   at = start + length",
        *([f"   c{position} = data[start:at]"] if keep else []),
        "  elif kind == 110:",  # 'n', NULL
        "   at += 1",
        *([f"   c{position} = None"] if keep else []),
        "  else: raise malformed(data, at)",
    ]
