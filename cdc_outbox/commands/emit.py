"""One event, written through the emit function of an outbox table, and its confirmation by the relay's slot.

In: a DSN, the table, the event's parts. Out: the event's id, committed; the time until the slot has confirmed its commit.
Never: an INSERT. A writer has no other privilege than EXECUTE on the function, so emit tests exactly that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cdc_outbox.commands.install import emit_function
from cdc_outbox.errors import AccessRefused, ConfigurationError
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres import connect, server, slot
from cdc_outbox.postgres.errors import translated
from cdc_outbox.shutdown import Stop, Stopped

POLL_SECONDS: Final = 0.02
"""Between two reads of the slot: the resolution of the measured time. One read takes the server less than 1 ms."""

_FUNCTION: Final = """
SELECT array(SELECT format_type(t.oid, NULL) FROM unnest(p.proargtypes::oid[]) WITH ORDINALITY AS t (oid, n) ORDER BY n),
    current_user, has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
LEFT JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = %(table)s
WHERE n.nspname = %(schema)s AND p.proname = %(function)s AND p.pronargs IN (5, 6)
    AND p.proargtypes[1] = 'text'::regtype AND (p.prosecdef OR p.proowner = c.relowner)
ORDER BY p.proowner = c.relowner DESC NULLS LAST, p.pronargs DESC
"""
"""The function of the table's owner. A role that may create in the schema can add one with other parameters, which must not run
with the rights of the caller: the call names the type of each parameter, and only one function has that signature."""

_DATA_CLASSES: Final = ("22", "23")
"""SQLSTATE classes of values that a type or a constraint refuses: data exception, integrity constraint violation."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """The event's parts that the caller chooses; the database adds id and time."""

    aggregate_type: str
    aggregate_id: str | None
    type: str | None
    payload: bytes | None
    headers: str | None = None
    """A JSON object, as text."""


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The slot when the wait ended."""

    seconds: float | None
    """From the commit to the confirmation; None if it did not come in time."""
    lsn: Lsn
    """Position to confirm: at or after the end of the event's commit."""
    slot: slot.SlotInfo


def emit_event(dsn: str, table: TableName, event: NewEvent) -> str:
    """Write `event`, commit, return its id.

    Raises ConfigurationError: no function (`sql install` has not been run), or a value that the table does not accept;
    AccessRefused: no EXECUTE, with the GRANT; and the errors of a connection.
    """
    with connect.open_connection(dsn) as connection:
        return _emit(connection, table, event)


def emit_and_wait(
    dsn: str,
    table: TableName,
    event: NewEvent,
    slot_name: str,
    seconds: float,
    stop: Stop,
    on_emitted: Callable[[str], None],
) -> Confirmation:
    """Write `event`, pass its id to `on_emitted`, and wait until the slot has confirmed it, at most `seconds`.

    Raises the errors of `emit_event`; ConfigurationError if the slot does not exist or cannot be used (nothing is written if
    so before); Stopped.
    """
    with connect.open_connection(dsn, stop) as connection:
        _usable_slot(connection, slot_name)
        event_id = _emit(connection, table, event)
        committed = time.monotonic()
        lsn = server.current_lsn(connection)
        on_emitted(event_id)
        while True:
            found = _usable_slot(connection, slot_name)
            elapsed = time.monotonic() - committed
            if (found.confirmed_flush_lsn or UNSET) >= lsn:
                return Confirmation(elapsed, lsn, found)
            if elapsed >= seconds:
                return Confirmation(None, lsn, found)
            if stop.wait(POLL_SECONDS):
                raise Stopped


def _usable_slot(connection: connect.Connection, name: str) -> slot.SlotInfo:
    found = slot.inspect(connection, name)
    if found is None:
        raise ConfigurationError(
            f"slot {name} does not exist, so no relay can confirm the event",
            code="emit-unconfirmable",
            cure="cdc-outbox run creates the slot; or name the relay's slot with --slot",
            slot=name,
        )
    slot.require_usable(found)
    return found


def _emit(connection: connect.Connection, table: TableName, event: NewEvent) -> str:
    function = emit_function(table)
    types = _parameter_types(connection, table, function)
    payload = _payload(event.payload, types[3])
    arguments = [event.aggregate_type, event.aggregate_id, event.type, payload, event.headers, None]
    call = f"SELECT {function.quoted}({', '.join(f'%s::{name}' for name in types)})".encode()
    try:
        with translated(), connection.long_query():  # it may wait for a lock: given up, it might still commit
            row = connection.execute(call, arguments[: len(types)]).fetchone()
    except ConfigurationError as error:
        if str(error.where.get("sqlstate", ""))[:2] not in _DATA_CLASSES:
            raise
        raise ConfigurationError(
            error.message,
            code=error.code,
            cure="check payload and headers against the column types of the table",
            **error.where,
        ) from None
    assert row is not None, "SELECT of a function that returns no set gives one row"
    return str(row[0])


def _parameter_types(connection: connect.Connection, table: TableName, function: TableName) -> list[str]:
    """The types of the function's parameters, as SQL writes them."""
    names = {"schema": function.schema, "function": function.name, "table": table.name}
    row = connection.execute(_FUNCTION, names).fetchone()
    if row is None:
        raise ConfigurationError(
            f"there is no function {function}",
            code="function-missing",
            cure="cdc-outbox sql install --apply",
        )
    types, user, allowed = row
    assert isinstance(types, list)
    if not allowed:
        raise AccessRefused(
            f"role {user} may not execute {function}",
            code="execute-privilege",
            cure=f"as an administrator: GRANT cdc_outbox_writer TO {quote_identifier(str(user))}; or "
            f"GRANT USAGE ON SCHEMA {quote_identifier(function.schema)} TO {quote_identifier(str(user))}; "
            f"GRANT EXECUTE ON FUNCTION {function.quoted}({', '.join(map(str, types))}) TO {quote_identifier(str(user))};",
        )
    return [str(name) for name in types]


def _payload(payload: bytes | None, payload_type: str) -> bytes | str | None:
    """The payload for the driver: bytes for a bytea, else text that the server converts to the argument's type."""
    if payload is None or payload_type == "bytea":
        return payload
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        raise _not_text(payload_type) from None
    if "\0" in text:
        raise _not_text(payload_type)
    return text


def _not_text(payload_type: str) -> ConfigurationError:
    return ConfigurationError(
        f"the payload is not text, and the table's payload is {payload_type}",
        code="payload-type",
        cure="send UTF-8 without NUL characters, or use a table with a payload of type bytea",
    )
