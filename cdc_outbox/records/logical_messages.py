"""Convert a logical message to an outbox event: the outbox without a table. Pure.

In: the content of `pg_logical_emit_message(true, prefix, content)`. Out: the event of a row with the same columns.
Never: a default for a member that an event needs. Unreadable content results in a PoisonEvent with the reason.

The content is a JSON object whose members are named like the columns of an outbox table. The bytes after a newline behind it
are the payload, unchanged. Without them, the payload is the member `payload`: a string as its text, null as a null value, any
other value as its exact JSON text. Debezium's SMT for logical messages reads such an object, too, without bytes behind it.
PostgreSQL manual: 9.28.6 Replication Management Functions (pg_logical_emit_message).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from cdc_outbox.config.settings import Columns
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.records.events import TRACE_COLUMNS, OutboxEvent, extra_headers
from cdc_outbox.records.json_members import SMALL_BYTES, read_object
from cdc_outbox.records.router import too_large

_SPACE: Final = " \t\r"
"""White space allowed between the object and the newline."""

Cells = Mapping[str, bytes | None]


class MessagePlan:
    """Converts messages of one prefix to events, as `OutboxPlan` does for the rows of one relation."""

    def __init__(
        self, prefix: str, columns: Columns, routing: Sequence[str], headers: Sequence[HeaderColumn], limit: int
    ) -> None:
        """`limit`: message.max.bytes. A longer object is not parsed, since its event would fit into no record."""
        self.table = f"message:{prefix}"
        """Used in place of a table's name in logs, metrics and dead letters."""
        extra = extra_headers(columns, headers, TRACE_COLUMNS)
        self.extra_names = tuple(header.name for header in extra)
        self._extra = [header.column for header in extra]
        self._columns = columns
        self._routing = tuple(routing)
        self._limit = limit
        self._needed = (columns.id, columns.key, columns.type, *((name,) for name in routing))

    def read(self, content: bytes) -> tuple[OutboxEvent, PoisonEvent | None]:
        """Return the event and None; or as much of the event as could be read, and the error."""
        nothing = OutboxEvent(None, None, None, content, None, None, None, (), ())
        try:
            cells, behind = _read_content(content, self._limit)
        except _TooLarge as error:
            return nothing, too_large(self, nothing, "content", error.size, self._limit)
        except ValueError as error:  # a UnicodeError is one
            return nothing, self._poison("bad-message", f"the content of a message is no JSON object: {error}")
        columns = self._columns
        payload = _first(cells, columns.payload)
        if behind is not None and not behind.strip() and not cells.keys().isdisjoint(columns.payload):
            behind = None  # the end of a line: white space is not a second payload beside the member
        event = OutboxEvent(
            id=_first(cells, columns.id),
            key=_first(cells, columns.key),
            type=_first(cells, columns.type),
            payload=payload if behind is None else behind,
            headers=_first(cells, columns.headers),
            timestamp=cells.get(columns.timestamp) if columns.timestamp else None,
            partition=cells.get(columns.partition) if columns.partition else None,
            routing=tuple([cells.get(name) for name in self._routing]),
            extra=tuple([cells.get(name) for name in self._extra]),
        )
        return event, self._missing(cells, behind)

    def _missing(self, cells: Cells, behind: bytes | None) -> PoisonEvent | None:
        for names in self._needed:
            if cells.keys().isdisjoint(names):
                return self._poison("missing-member", f"a message has no member {' or '.join(names)}")
        names = self._columns.payload
        if behind is None and cells.keys().isdisjoint(names):
            return self._poison(
                "missing-member",
                f"a message has no payload: neither text behind a newline, nor a member {' or '.join(names)}",
            )
        if behind is not None and not cells.keys().isdisjoint(names):
            return self._poison(
                "bad-message", f"a message has two payloads: the member {' or '.join(names)}, and text behind it"
            )
        return None

    def _poison(self, reason: str, message: str) -> PoisonEvent:
        return PoisonEvent(
            message,
            cure="correct what the application writes; this message itself has to be skipped or dead-lettered (--on-poison)",
            reason=reason,
            table=self.table,
        )


def _first(cells: Cells, names: tuple[str, ...]) -> bytes | None:
    for name in names:
        if name in cells:
            return cells[name]
    return None


class _TooLarge(Exception):
    """The object is larger than any record."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


def _read_content(content: bytes, limit: int) -> tuple[Cells, bytes | None]:
    """Split into the object's members and the bytes after the newline. Raises ValueError, and _TooLarge instead of parsing more
    than `limit` bytes.

    A JSON string cannot contain a newline, so an object that ends before the first newline is complete. Any other object is
    written over several lines.
    """
    newline = content.find(b"\n")
    head = content if newline < 0 else content[:newline]
    if len(head) > limit:
        raise _TooLarge(len(head))
    try:
        return _read_head(head), None if newline < 0 else content[newline + 1 :]
    except ValueError:
        if newline < 0:
            raise
    if len(content) > limit:
        raise _TooLarge(len(content))
    return _read_lines(content)


def _read_head(head: bytes) -> Cells:
    """Read `head`, which is one object. An object of strings and nulls is read without their exact text, in half the time."""
    try:
        members: object = orjson.loads(head) if len(head) <= SMALL_BYTES else None
    except orjson.JSONDecodeError:
        members = None
    if isinstance(members, dict) and all(value is None or isinstance(value, str) for value in members.values()):
        return {name: None if value is None else value.encode() for name, value in members.items()}
    text = head.decode()
    found, end = read_object(text)
    if text[end:].strip(_SPACE):
        raise ValueError("something else follows it")
    return {name: member.verbatim for name, member in found.items()}


def _read_lines(content: bytes) -> tuple[Cells, bytes | None]:
    text = content.decode("utf-8", "surrogateescape")  # the payload may be any bytes
    found, end = read_object(text)
    rest = text[end:].lstrip(_SPACE)
    if rest and rest[0] != "\n":
        raise ValueError("something else follows it")
    cells = {name: member.verbatim for name, member in found.items()}
    return cells, rest[1:].encode("utf-8", "surrogateescape") if rest else None
