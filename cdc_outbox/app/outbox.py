"""`emit`: one event, written by the emit function of an outbox table, in the transaction of the caller.

In: a connection, cursor or session of the caller's, and the event. Out: its id, made here.
Never: a commit, a statement outside a transaction, an INSERT. The function (`cdc-outbox sql install`) runs with the rights
of its owner, so the caller's role needs EXECUTE on it (the role `cdc_outbox_writer`) and no privilege on the table.
"""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping
from typing import Any, Final, overload
from uuid import UUID

from .calls import Call, explain, function_of
from .captures import Recorder, recorder_for
from .driver import AsyncDriver, AsyncTarget, Driver, Target
from .drivers import driver_for, is_async
from .event import Event, Payload, PayloadType, make_event

_CURE: Final = (
    "Run `cdc-outbox sql install --apply` (`cdc-outbox sql status` shows what there is), and say payload_type= if the"
    " payload column is not of type json."
)


@overload
def emit(
    connection: AsyncTarget,
    /,
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,
    payload: Payload,
    headers: Mapping[str, str | None] | None = None,
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
    headers: Mapping[str, str | None] | None = None,
    table: str = "public.outbox",
    payload_type: PayloadType = "json",
) -> UUID: ...


def emit(
    connection: Target | AsyncTarget,
    /,
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,  # noqa: A002 - the outbox's word for it
    payload: Payload,
    headers: Mapping[str, str | None] | None = None,
    table: str = "public.outbox",
    payload_type: PayloadType = "json",
) -> UUID | Coroutine[Any, Any, UUID]:
    """Write one event in the transaction that `connection` is in, and return its id, a UUID of version 7.

    `connection`: a connection or cursor of psycopg, a connection of asyncpg, a Session or Connection of SQLAlchemy, the
    alias or the connection of a Django database. With one for asyncio: `await emit(…)`.

    `aggregate_type` names the topic, `aggregate_id` is the key (records of one key keep commit order), `type` a header.
    `payload`: a dict or a list becomes JSON text without spaces; a str or bytes go out as they are; None is a tombstone.
    `headers`: each a header of the record. The current span of OpenTelemetry is added as `traceparent` and `tracestate`,
    unless a `traceparent` is given. `table` and `payload_type` are those of `cdc-outbox sql install`.

    Raises OutboxUsageError, with nothing written, for what is not an event, and outside a transaction: on a connection in
    autocommit, where the event would commit alone. What the database says comes as the driver's own error.
    """
    event = make_event(
        aggregate_type=aggregate_type,
        aggregate_id=aggregate_id,
        type=type,
        payload=payload,
        headers=headers,
        table=table,
        payload_type=payload_type,
    )
    call = _call(event, payload_type)
    recorder = recorder_for(connection)
    if not recorder.write:
        return _recorded(event, recorder) if is_async(connection) else recorder.record(event)
    driver = driver_for(connection)
    if isinstance(driver, AsyncDriver):
        return _emit_async(driver, call, event, recorder)
    return _emit(driver, call, event, recorder)


def _call(event: Event, payload_type: PayloadType) -> Call:
    headers = json.dumps(dict(event.headers), ensure_ascii=False) if event.headers else None
    return Call(
        function=function_of(event.table, "_emit"),
        types=("text", "text", "text", payload_type, "jsonb", "uuid"),
        arguments=(event.aggregate_type, event.aggregate_id, event.type, event.payload, headers, str(event.id)),
        cure=_CURE,
    )


def _emit(driver: Driver, call: Call, event: Event, recorder: Recorder) -> UUID:
    driver.require_transaction()
    try:
        driver.run(call)
    except Exception as error:
        explain(error, call)
        raise
    return recorder.record(event)


async def _emit_async(driver: AsyncDriver, call: Call, event: Event, recorder: Recorder) -> UUID:
    await driver.require_transaction()
    try:
        await driver.run(call)
    except Exception as error:
        explain(error, call)
        raise
    return recorder.record(event)


async def _recorded(event: Event, recorder: Recorder) -> UUID:
    return recorder.record(event)
