"""Compile a relation's columns to a plan, once; convert a row to an outbox event by its plan. Pure.

In: a Relation, from the stream or, for rows of a snapshot, from the catalog; the names of the columns.
Out: an `OutboxPlan` whose `read` takes a row of the stream and whose `pick` takes a row of a query: the same event from both.
Never: a default for a missing column, or a value that is not the row's. Columns are found by name; others are ignored.

A row is described as the catalog was when the row was written: rows written under a column's new name keep that name.
"""

from __future__ import annotations

import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from cdc_outbox.config.settings import Columns
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, ProtocolError, StreamGap
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres import builtin_types
from cdc_outbox.postgres.pgoutput import ROW_AT, Column, Relation, compile_reader

BYTEA: Final = 17

_JSON: Final = {114: "json", 3802: "jsonb"}
_TEXT: Final = {25: "text", 1043: "varchar", 1042: "char"}
_KINDS: Final = {
    "payload": {**_JSON, **_TEXT, BYTEA: "bytea"},
    "headers": {**_JSON, **_TEXT},
    "timestamp": {1184: "timestamptz", 1114: "timestamp"},
    "partition": {21: "smallint", 23: "integer", 20: "bigint"},
}
"""Type OIDs (pg_type.dat; they never change) that a column may have, by its part in an event. Other parts: any type."""

TRACE_COLUMNS: Final = ("traceparent", "tracestate")
"""W3C Trace Context: columns of these names become headers without an option."""

SPAN_CONTEXT: Final = "\0span-context"
"""Marks, in place of a header's name, the column with a trace context of several headers. It is no valid name."""


def extra_headers(columns: Columns, headers: Sequence[HeaderColumn], traces: Sequence[str]) -> list[HeaderColumn]:
    """The columns that become headers, in order."""
    spans = [HeaderColumn(columns.span_context, SPAN_CONTEXT)] if columns.span_context else []
    return [*headers, *(HeaderColumn(name, name) for name in traces), *spans]


class OutboxEvent(NamedTuple):
    """One row of an outbox, as bytes of its text form (bytea: its bytes); None for NULL or a column that is not used."""

    id: bytes | None
    key: bytes | None
    type: bytes | None
    payload: bytes | None
    headers: bytes | None
    timestamp: bytes | None
    partition: bytes | None
    routing: tuple[bytes | None, ...]
    """The columns that the topic template names, in its order."""
    extra: tuple[bytes | None, ...]
    """The columns that become headers, in the order of the plan's `extra_names`."""


class Plan(Protocol):
    """The properties of a source of events that its route needs."""

    @property
    def table(self) -> TableName | str:
        """The name of the source, in logs and dead letters."""

    @property
    def extra_names(self) -> tuple[str, ...]:
        """Header names for `OutboxEvent.extra`."""


class Positions(NamedTuple):
    """Positions of an event's parts among a relation's columns; None for a part without a column."""

    id: int
    key: int
    type: int
    payload: int
    headers: int | None
    timestamp: int | None
    partition: int | None
    routing: tuple[int, ...]
    extra: tuple[int, ...]


Made = TypeVar("Made")
Unit = TypeVar("Unit")
"""A transaction, or a batch."""


class PartsReader(Protocol):
    """Compiles a function of a row and its transaction."""

    def __call__(self, make: Callable[..., Made]) -> Callable[[bytes, Unit], Made]:
        """Compile the call of `make(transaction, *parts)`. The compiled function raises ProtocolError, and as `make` does."""


@dataclass(frozen=True, slots=True)
class OutboxPlan:
    """Converts rows of one relation to events."""

    relation: Relation
    positions: Positions
    read: Callable[[bytes], OutboxEvent]
    """An Insert in an XLogData message -> its event. Raises ProtocolError."""
    pick: Callable[[Sequence[bytes | None]], OutboxEvent]
    """A row's columns in the relation's order -> event."""
    extra_names: tuple[str, ...]
    """Header names for `OutboxEvent.extra`."""
    compile: PartsReader
    """Makes a function of an Insert and a transaction from one of a transaction and the parts of an event, in their order. No
    event is made in between: that saves a twentieth of a row's time."""

    @property
    def table(self) -> TableName:
        """The name of the table, in logs and dead letters."""
        return _name_of(self.relation)


def compile_plan(
    relation: Relation, columns: Columns, routing: Sequence[str], headers: Sequence[HeaderColumn]
) -> OutboxPlan:
    """Find the columns and compile the readers. Raises ConfigurationError for a missing column or one of a wrong type."""
    finder = _Finder(relation)
    extra = extra_headers(columns, headers, [name for name in TRACE_COLUMNS if name in finder.positions])
    positions = _positions(finder, columns, routing, extra)
    *parts, routed, extras = positions
    wanted = sorted({position for position in (*parts, *routed, *extras) if position is not None})

    def event_parts(form: str) -> str:
        """Source text of an event's parts, in terms of a row's columns: `form` with a column's position in it."""

        def cell(position: int | None) -> str:
            if position is None:
                return "None"
            text = form.format(position)
            return f"unhex({text})" if relation.columns[position].type_oid == BYTEA else text

        groups = ["(" + "".join(f"{cell(position)}," for position in group) + ")" for group in (routed, extras)]
        return ", ".join([*map(cell, parts), *groups])

    def compile_for(make: Callable[..., Made]) -> Callable[[bytes, Unit], Made]:
        expression = f"make(transaction, {event_parts('c{}')})"
        made: object = compile_reader(relation, expression, wanted, {**_SCOPE, "make": make}, ROW_AT, "transaction, ")
        return made  # type: ignore[return-value]  # the source text returns what `make` does

    read: object = compile_reader(relation, f"new(event, ({event_parts('c{}')}))", wanted, _SCOPE, ROW_AT)
    return OutboxPlan(
        relation=relation,
        positions=positions,
        read=read,  # type: ignore[arg-type]  # the source text makes an event
        pick=eval(f"lambda cells: new(event, ({event_parts('cells[{}]')}))", dict(_SCOPE)),  # noqa: S307 - positions only
        extra_names=tuple(header.name for header in extra),
        compile=compile_for,
    )


def _positions(finder: _Finder, columns: Columns, routing: Sequence[str], extra: Sequence[HeaderColumn]) -> Positions:
    """Where the columns are. Raises ConfigurationError for a missing column or one of a wrong type."""
    return Positions(
        id=finder.required("id", columns.id),
        key=finder.required("key", columns.key),
        type=finder.required("type", columns.type),
        payload=finder.required("payload", columns.payload),
        headers=finder.optional("headers", columns.headers),
        timestamp=finder.required("timestamp", (columns.timestamp,)) if columns.timestamp else None,
        partition=finder.required("partition", (columns.partition,)) if columns.partition else None,
        routing=tuple(finder.required("topic", (name,)) for name in routing),
        extra=tuple(finder.required("header", (header.column,)) for header in extra),
    )


class _Finder:
    """Finds columns of one relation by name. Its errors have the cure."""

    def __init__(self, relation: Relation) -> None:
        self._relation = relation
        self.table = _name_of(relation)
        self.positions = {column.name: position for position, column in enumerate(relation.columns)}

    def required(self, part: str, names: tuple[str, ...]) -> int:
        """The position of the first of `names` that is a column. Raises ConfigurationError if none is."""
        position = self.optional(part, names)
        if position is None:
            raise ConfigurationError(
                f"table {self.table} has no column {' or '.join(names)}, needed as the event's {part}",
                code="column-missing",
                cure=f"name the column that has it: {_OPTIONS.get(part, f'--{part}-column')}; the table has "
                f"{', '.join(self.positions)}. Rows written under a new name come under it even after it is renamed "
                "back: name both, separated by a comma",
                table=str(self.table),
            )
        return position

    def optional(self, part: str, names: tuple[str, ...]) -> int | None:
        """The position of the first of `names` that is a column, else None. Raises StreamGap for a column of a wrong type: rows
        written with that type can only be read from the table.
        """
        for name in names:
            position = self.positions.get(name)
            if position is not None:
                self._check_kind(part, self._relation.columns[position])
                return position
        return None

    def _check_kind(self, part: str, column: Column) -> None:
        kinds = _KINDS.get(part)
        if kinds is not None and column.type_oid not in kinds:
            type_name = column.type_name or builtin_types.name_of(column.type_oid) or f"OID {column.type_oid}"
            raise StreamGap(
                f"column {column.name} of {self.table} cannot be the event's {part}: its type {type_name} is none of "
                f"{', '.join(kinds.values())}",
                code="column-type",
                cure=f"name another column: {_OPTIONS.get(part, f'--{part}-column')}; or change its type, and have rows "
                "written before that sent from the table: cdc-outbox slot recover",
                table=str(self.table),
            )


_OPTIONS: Final = {"topic": "--topic", "header": "--header", "headers": "rename the column"}
"""Parts whose option is not called --PART-column."""


def _name_of(relation: Relation) -> TableName:
    return TableName(relation.schema or "pg_catalog", relation.name)


def _unhex(cell: bytes | None) -> bytes | None:
    """Decode a bytea cell in hex format, which the session pins."""
    if cell is None:
        return None
    if cell[:2] != b"\\x":
        raise ProtocolError("a bytea value is not in hex format")
    try:
        return binascii.unhexlify(cell[2:])
    except binascii.Error as error:
        raise ProtocolError(f"a bytea value is not in hex format: {error}") from error


_SCOPE: Final = {"new": tuple.__new__, "event": OutboxEvent, "unhex": _unhex}
"""Names in the source text of an event. `tuple.__new__` bypasses the constructor of a NamedTuple: half the time."""
