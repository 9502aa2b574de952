"""`emit` and `emit_many`: events written into an outbox table, in the transaction of the caller.

In: a connection, cursor or session of the caller, and events. Out: their ids.
Never: a commit, or a statement outside a transaction.

Without columns of its own an event is written by the table's emit function (`cdc-outbox sql install`). It runs with the
rights of its owner: the caller's role needs EXECUTE on it (the role `cdc_outbox_writer`) and no privilege on the table.
Other column names, or values for further columns, are written by INSERT, for which the role needs INSERT on the table.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args, overload
from uuid import UUID

from .calls import Statement, column, explain, function_call, function_call_each, function_of, insert, table_of
from .captures import Recorder, recorder_for
from .driver import AsyncDriver, AsyncTarget, Driver, Target
from .drivers import driver_for, is_async, is_connection
from .encoding import Default, Encoder, PayloadType
from .errors import OutboxUsageError
from .event import Event, HeaderValue, Payload, make_event
from .mistakes import MISSING, connection_missing, require_parts, without_names
from .registry import Registry, described

Presets: TypeAlias = Literal["debezium", "snake"]

_PARTS: Final = ("aggregate_type", "aggregate_id", "type", "payload", "headers", "id")
"""Parts of an event, in the order of the emit function's parameters."""

_PRESETS: Final[dict[str, dict[str, str]]] = {
    "debezium": dict(zip(_PARTS, ("aggregatetype", "aggregateid", "type", "payload", "headers", "id"), strict=True)),
    "snake": dict(
        zip(_PARTS, ("aggregate_type", "aggregate_id", "event_type", "payload", "headers", "id"), strict=True)
    ),
}
"""Column names by part, as `cdc-outbox run --columns` has them."""

_PARAMETERS: Final = 30_000
"""Parameters of one INSERT; the protocol's limit is 65,535 (PostgreSQL manual, 55.7, Bind)."""

_CURE: Final = (
    "Run `cdc-outbox sql install --apply` (`cdc-outbox sql status` shows the installed objects), and give payload_type= if the"
    " payload column is not of type json."
)

_INSERT_CURE: Final = "Check table= and columns= against the table: \\d in psql shows both."


@dataclass(frozen=True, slots=True)
class _Row:
    """An event, and the values of further columns of its row."""

    event: Event
    columns: Mapping[str, Any]


class Outbox:
    """One outbox table: its name, the type of its payload, the names of its columns. Made once, used for every event.

        outbox = Outbox(table="app.events", columns="snake", payload_type="jsonb")
        outbox.emit(session, aggregate_type="order", aggregate_id=42, type="OrderPaid", payload={"total": 99.5})

    `columns`: a preset, or names by part (`aggregate_type`, `aggregate_id`, `type`, `payload`, `headers`, `id`); parts that
    are left out have Debezium's names. `default` and `encoder` apply to every payload that is not str or bytes.

    Raises OutboxUsageError for a table or a column that cannot be named so.
    """

    def __init__(
        self,
        *,
        table: str = "public.outbox",
        payload_type: PayloadType = "json",
        columns: Presets | Mapping[str, str] = "debezium",
        default: Default | None = None,
        encoder: Encoder | None = None,
    ) -> None:
        if payload_type not in get_args(PayloadType):
            raise OutboxUsageError(f"payload_type is one of {', '.join(get_args(PayloadType))}, not {payload_type!r}")
        for name, function in {"default": default, "encoder": encoder}.items():
            if function is not None and not callable(function):
                raise OutboxUsageError(f"{name} is a function of a value, not {function!r}")
        self.table = table
        self._payload_type: PayloadType = payload_type
        self._default = default
        self._encoder = encoder
        self._function = function_of(table, "_emit")
        self._columns = _names(columns)
        self._calls_function = self._columns == _PRESETS["debezium"]
        self._types = ("text", "text", "text", payload_type, "jsonb", "uuid")
        self._registry = Registry(self)
        self.event = self._registry.event
        self.events = self._registry.events

    @overload
    def emit(self, connection: AsyncTarget, event: object = ..., /, **parts: Any) -> Coroutine[Any, Any, UUID]: ...

    @overload
    def emit(self, connection: Target, event: object = ..., /, **parts: Any) -> UUID: ...

    def emit(
        self, connection: Target | AsyncTarget = MISSING, event: object = None, /, *further: object, **parts: Any
    ) -> UUID | Coroutine[Any, Any, UUID]:
        """Write one event: a registered one (`Outbox.event`), or its parts as keyword arguments of `cdc_outbox.app.emit`, or
        as a mapping of them.

        Returns its id; with a connection for asyncio, a coroutine of it. Raises OutboxUsageError, with nothing written.
        """
        if further or connection is MISSING:
            raise without_names() if further else connection_missing()
        written = self._write(connection, [self._one_row(event, parts)])
        if isinstance(written, list):
            return written[0]
        return _first(written)

    @overload
    def emit_many(self, connection: AsyncTarget, events: Iterable[object], /) -> Coroutine[Any, Any, list[UUID]]: ...

    @overload
    def emit_many(self, connection: Target, events: Iterable[object], /) -> list[UUID]: ...

    def emit_many(
        self, connection: Target | AsyncTarget, events: Iterable[object], /
    ) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
        """Write events in their order, in one round trip; each is a registered one, or a mapping of `emit`'s arguments.

        All are checked before the first is written. Returns their ids. Raises OutboxUsageError, which names the event's place.
        """
        return self._write(connection, list(self._rows(events)))

    def _rows(self, events: Iterable[object]) -> Iterator[_Row]:
        if isinstance(events, Mapping | str) or not isinstance(events, Iterable):
            raise OutboxUsageError("emit_many takes a list of events: emit_many(connection, [event, ...])")
        for place, event in enumerate(events):
            try:
                yield self._one_row(event, {})
            except OutboxUsageError as error:
                raise OutboxUsageError(f"event {place}: {error}") from error

    def _one_row(self, event: object, parts: Mapping[str, Any]) -> _Row:
        if event is None:
            return self._row(parts)
        if isinstance(event, Mapping):
            return self._row({**event, **parts})
        if is_connection(event) and not isinstance(event, str):
            raise connection_missing()
        return self._registered_row(event, parts)

    def _row(self, parts: Mapping[str, Any]) -> _Row:
        further = dict(parts)
        columns = further.pop("columns", None) or {}
        if not isinstance(columns, Mapping):
            raise OutboxUsageError("columns must be a dict of column names and values")
        arguments = {"headers": None, "default": self._default, "encoder": self._encoder} | further
        require_parts(arguments)
        return _Row(make_event(table=self.table, payload_type=self._payload_type, **arguments), columns)

    def _registered_row(self, event: object, parts: Mapping[str, Any]) -> _Row:
        found = described(event)
        headers = {**found["headers"], **(parts.get("headers") or {})}
        return self._row({**found, **parts, "headers": headers})

    def _write(
        self, connection: Target | AsyncTarget, rows: list[_Row]
    ) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
        recorder = recorder_for(connection, column(self._columns["id"]))
        events = [row.event for row in rows]
        if not recorder.write or not rows:
            return _recorded(events, recorder) if is_async(connection) else recorder.record(events)
        statements = list(self._statements(rows))
        driver = driver_for(connection)
        if isinstance(driver, AsyncDriver):
            return _run_async(driver, statements, events, recorder)
        return _run(driver, statements, events, recorder)

    def _statements(self, rows: list[_Row]) -> Iterator[Statement]:
        """The rows' statements: one, or several if the rows exceed the limit of parameters."""
        if self._calls_function and not any(row.columns for row in rows):
            arguments = [_arguments(row.event) for row in rows]
            if len(rows) == 1:
                yield function_call(self._function, self._types, arguments[0], _CURE)
            else:
                yield function_call_each(self._function, self._types, arguments, _CURE)
            return
        further = list(dict.fromkeys(name for row in rows for name in row.columns))
        columns = [column(self._columns[part]) for part in _PARTS] + [column(name) for name in further]
        types = (*self._types, *(None for _ in further))
        size = max(1, _PARAMETERS // len(columns))
        for start in range(0, len(rows), size):
            values = [
                (*_arguments(row.event), *(row.columns.get(name) for name in further))
                for row in rows[start : start + size]
            ]
            yield insert(table_of(self.table), columns, types, values, _INSERT_CURE)


@overload
def emit(connection: AsyncTarget, event: object, /, **parts: Any) -> Coroutine[Any, Any, UUID]: ...


@overload
def emit(connection: Target, event: object, /, **parts: Any) -> UUID: ...


@overload
def emit(
    connection: AsyncTarget,
    /,
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,
    payload: Payload,
    headers: Mapping[str, HeaderValue] | None = None,
    id: UUID | str | None = None,
    columns: Mapping[str, Any] | None = None,
    default: Default | None = None,
    encoder: Encoder | None = None,
    table: str = "public.outbox",
    payload_type: PayloadType = "json",
) -> Coroutine[Any, Any, UUID]: ...


@overload
def emit(
    connection: Target,
    /,
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,
    payload: Payload,
    headers: Mapping[str, HeaderValue] | None = None,
    id: UUID | str | None = None,
    columns: Mapping[str, Any] | None = None,
    default: Default | None = None,
    encoder: Encoder | None = None,
    table: str = "public.outbox",
    payload_type: PayloadType = "json",
) -> UUID: ...


def emit(
    connection: Target | AsyncTarget = MISSING,
    event: object = None,
    /,
    *further: object,
    table: str = "public.outbox",
    payload_type: PayloadType = "json",
    **parts: Any,
) -> UUID | Coroutine[Any, Any, UUID]:
    """Write one event in the transaction that `connection` is in, and return its id, a UUID of version 7.

    `connection`: a connection or cursor of psycopg, a connection of asyncpg, a Session or Connection of SQLAlchemy, the
    alias or the connection of a Django database. With one for asyncio: `await emit(…)`.

    `event`: an instance of a class that `Outbox.event` registered, then the parts come from it; or a mapping of the parts.
    Otherwise:

    `aggregate_type` names the topic, `aggregate_id` is the key (records of one key keep commit order), `type` a header.
    `payload`: a str or bytes go out as they are; a mapping, list, tuple, dataclass, attrs or pydantic object as its JSON
    text, with UUID, datetime, date, Decimal and Enum inside; None is a tombstone. `default`: a function for other values,
    as of `json.dumps`; `encoder`: a function from the payload to bytes, for another format. `headers`: each a header of the
    record; values that are not str become their text. The current span of OpenTelemetry is added as `traceparent` and
    `tracestate`, unless a `traceparent` is given. `id`: the event's id, if a retry must use the same one.
    `columns`: values of further columns of the table. `table` and `payload_type` are those of `cdc-outbox sql install`;
    `Outbox` names them once.

    Raises OutboxUsageError, with nothing written, for what is not an event, and outside a transaction: on a connection in
    autocommit, where the event would commit without the change. Errors of the database come as the driver's own.
    """
    outbox = _DEFAULT
    if (table, payload_type) != ("public.outbox", "json"):
        outbox = Outbox(table=table, payload_type=payload_type)
    if registered := Registry.find(event):
        assert isinstance(registered.outbox, Outbox)
        outbox = registered.outbox
    return outbox.emit(connection, event, *further, **parts)


@overload
def emit_many(connection: AsyncTarget, events: Iterable[object], /) -> Coroutine[Any, Any, list[UUID]]: ...


@overload
def emit_many(connection: Target, events: Iterable[object], /) -> list[UUID]: ...


def emit_many(
    connection: Target | AsyncTarget, events: Iterable[object], /
) -> list[UUID] | Coroutine[Any, Any, list[UUID]]:
    """Write many events into `public.outbox` in one round trip, as `Outbox.emit_many` does for any table."""
    return _DEFAULT.emit_many(connection, events)


def _names(columns: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(columns, str):
        if columns not in _PRESETS:
            raise OutboxUsageError(f"columns is one of {', '.join(_PRESETS)}, or a dict, not {columns!r}")
        return _PRESETS[columns]
    if not isinstance(columns, Mapping):
        raise OutboxUsageError("columns is a preset or a dict: columns={'aggregate_id': 'customer'}")
    unknown = set(columns) - set(_PARTS)
    if unknown:
        raise OutboxUsageError(
            f"columns names parts of an event ({', '.join(_PARTS)}), not {', '.join(map(str, sorted(unknown)))}. Values of "
            "further columns are given to emit"
        )
    for name in columns.values():
        column(name)
    return {**_PRESETS["debezium"], **columns}


def _arguments(event: Event) -> Sequence[str | bytes | None]:
    headers = json.dumps(dict(event.headers), ensure_ascii=False) if event.headers else None
    return event.aggregate_type, event.aggregate_id, event.type, event.payload, headers, str(event.id)


def _run(driver: Driver, statements: list[Statement], events: list[Event], recorder: Recorder) -> list[UUID]:
    driver.require_transaction()
    for statement in statements:
        try:
            driver.run(statement)
        except Exception as error:
            explain(error, statement)
            raise
    return recorder.record(events)


async def _run_async(
    driver: AsyncDriver, statements: list[Statement], events: list[Event], recorder: Recorder
) -> list[UUID]:
    await driver.require_transaction()
    for statement in statements:
        try:
            await driver.run(statement)
        except Exception as error:
            explain(error, statement)
            raise
    return recorder.record(events)


async def _recorded(events: list[Event], recorder: Recorder) -> list[UUID]:
    return recorder.record(events)


async def _first(written: Coroutine[Any, Any, list[UUID]]) -> UUID:
    return (await written)[0]


_DEFAULT: Final = Outbox()
