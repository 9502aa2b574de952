"""One event, written through the emit function of an outbox table.

In: a DSN, the table, the event's parts. Out: the event's id, committed.
Never: an INSERT. The function is all that a writer may use, so this proves what an application can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc_outbox.commands.install import emit_function
from cdc_outbox.errors import AccessRefused, ConfigurationError
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.postgres import connect

_FUNCTION: Final = """
SELECT format_type(p.proargtypes[3], NULL), current_user,
    has_schema_privilege(n.oid, 'USAGE') AND has_function_privilege(p.oid, 'EXECUTE')
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = %s AND p.proname = %s AND p.pronargs IN (5, 6)
"""

_DATA_CLASSES: Final = ("22", "23")
"""SQLSTATE classes: a value that its type does not take, a check that it does not pass."""


@dataclass(frozen=True, slots=True)
class NewEvent:
    """What the caller decides of an event; the database adds id and time."""

    aggregate_type: str
    aggregate_id: str | None
    type: str | None
    payload: bytes | None
    headers: str | None = None
    """A JSON object, as text."""


def emit_event(dsn: str, table: TableName, event: NewEvent) -> str:
    """Write `event`, commit, return its id.

    Raises ConfigurationError: no function (`sql install` has not been run), or a value that the table does not take;
    AccessRefused: no EXECUTE, with the GRANT; and what a connection can raise.
    """
    try:
        with connect.open_connection(dsn) as connection:
            return _emit(connection, emit_function(table), event)
    except ConfigurationError as error:
        if str(error.where.get("sqlstate", ""))[:2] not in _DATA_CLASSES:
            raise
        raise ConfigurationError(
            error.what, cure="check payload and headers against the column types of the table", **error.where
        ) from None


def _emit(connection: connect.Connection, function: TableName, event: NewEvent) -> str:
    payload = _payload(event.payload, _payload_type(connection, function))
    call = f"SELECT {function.quoted}(%s, %s, %s, %s, %s)".encode()
    row = connection.execute(
        call, [event.aggregate_type, event.aggregate_id, event.type, payload, event.headers]
    ).fetchone()
    assert row is not None, "SELECT of a function that returns no set gives one row"
    return str(row[0])


def _payload_type(connection: connect.Connection, function: TableName) -> str:
    row = connection.execute(_FUNCTION, [function.schema, function.name]).fetchone()
    if row is None:
        raise ConfigurationError(
            f"there is no function {function}", cure="cdc-outbox sql install --apply, with the same --table"
        )
    payload_type, user, allowed = row
    if not allowed:
        raise AccessRefused(
            f"role {user} may not execute {function}",
            cure=f"as an administrator: GRANT cdc_outbox_writer TO {quote_identifier(str(user))}; or "
            f"GRANT USAGE ON SCHEMA {quote_identifier(function.schema)} TO {quote_identifier(str(user))}; "
            f"GRANT EXECUTE ON FUNCTION {function.quoted} TO {quote_identifier(str(user))};",
        )
    return str(payload_type)


def _payload(payload: bytes | None, payload_type: str) -> bytes | str | None:
    """As the driver must get it: bytes for a bytea, else text, whose type the server takes from the function."""
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
        cure="send UTF-8 without NUL characters, or use a table with a payload of type bytea",
    )
