"""Errors for calls that are nearly right: each names what to type.

In: the arguments of such a call. Out: OutboxUsageError.
Never: the value of a connection string, which may contain a password.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .errors import OutboxUsageError

CALL: Final = "emit(connection, aggregate_type='order', aggregate_id=42, type='OrderPaid', payload={...})"

_REQUIRED: Final = ("aggregate_type", "aggregate_id", "type", "payload")
_OPTIONAL: Final = ("headers", "id", "columns", "default", "encoder")

_OTHER_NAMES: Final = {
    "aggregatetype": "aggregate_type",
    "topic": "aggregate_type",
    "aggregateid": "aggregate_id",
    "key": "aggregate_id",
    "event_type": "type",
    "name": "type",
    "value": "payload",
    "data": "payload",
    "body": "payload",
    "event_id": "id",
}
"""Words for the parts in Kafka, in the table, and in other libraries."""

_BEGINS: Final = {
    ("psycopg_pool", "ConnectionPool"): "with pool.connection() as connection:",
    ("psycopg_pool", "AsyncConnectionPool"): "async with pool.connection() as connection:",
    ("asyncpg", "Pool"): "async with pool.acquire() as connection, connection.transaction():",
    ("sqlalchemy", "Engine"): "with engine.begin() as connection:",
    ("sqlalchemy", "AsyncEngine"): "async with engine.begin() as connection:",
    ("sqlalchemy", "sessionmaker"): "with Session.begin() as session:",
    ("sqlalchemy", "async_sessionmaker"): "async with Session.begin() as session:",
    ("django", "ConnectionHandler"): 'with transaction.atomic(): emit("default", ...)',
    ("psycopg2", "connection"): 'cursor.execute("SELECT outbox_emit(%s, %s, %s, %s)", [...]), or use psycopg 3',
    ("psycopg2", "cursor"): 'cursor.execute("SELECT outbox_emit(%s, %s, %s, %s)", [...]), or use psycopg 3',
}
"""Objects that a connection is taken from, by package and class, with the line to type."""


def not_a_connection(target: object) -> OutboxUsageError:
    """Make the error for an object that `emit` and `once` cannot write to."""
    kind = target.__class__
    name = f"{kind.__module__}.{kind.__qualname__}"
    for each in kind.__mro__:
        begin = _BEGINS.get((each.__module__.partition(".")[0], each.__name__))
        if begin is not None:
            return OutboxUsageError(f"{name} is not a connection: {begin}")
    return OutboxUsageError(
        f"{name} is not a connection that is known: give a connection or cursor of"
        " psycopg, a connection of asyncpg, a session or connection of SQLAlchemy, or the alias of a Django database"
    )


def not_an_alias(text: str) -> OutboxUsageError:
    """Make the error for a text where Django is not loaded."""
    if "://" in text or "=" in text:
        return OutboxUsageError("a connection string is not a connection: with psycopg.connect(dsn) as connection:")
    return OutboxUsageError(f"a text is the alias of a Django database, and Django is not here: {text!r}. Call {CALL}")


def without_names() -> OutboxUsageError:
    """Make the error for parts that are given by their place."""
    return OutboxUsageError(f"emit takes the connection, and the parts of the event by name: {CALL}")


def connection_missing() -> OutboxUsageError:
    """Make the error for a call whose first argument is not a connection."""
    return OutboxUsageError(f"the connection comes first, and without a name: {CALL}")


def require_parts(parts: Iterable[str]) -> None:
    """Raise OutboxUsageError if a part of an event is missing, or has another name."""
    given = list(parts)
    for name in given:
        if name not in {*_REQUIRED, *_OPTIONAL}:
            raise OutboxUsageError(f"an event has no {name!r}{_suggested(name)}; {_known()}")
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        tombstone = " (payload=None is a tombstone)" if "payload" in missing else ""
        raise OutboxUsageError(f"the event has no {' and no '.join(missing)}{tombstone}; {_known()}")


def _suggested(name: str) -> str:
    found = _OTHER_NAMES.get(name) or next(iter(_close(name, [*_REQUIRED, *_OPTIONAL])), None)
    return f", write {found}" if found else ""


def _close(name: str, names: Iterable[str]) -> list[str]:
    import difflib  # noqa: PLC0415 - for an error alone

    return difflib.get_close_matches(name, list(names), 1)


def _known() -> str:
    return f"an event has {', '.join(_REQUIRED)}, and may have {', '.join(_OPTIONAL)}"


CONSUME: Final = (
    "consume(handler, connect=lambda: psycopg.connect(dsn), brokers='localhost:9092', group='rewards',"
    " topics=['outbox.event.order'])"
)

_OTHER_OPTIONS: Final = {
    "bootstrap_servers": "brokers",
    "group_id": "group",
    "topic": "topics",
    "dlq": "dead_letter_topic",
    "dead_letter": "dead_letter_topic",
    "retries": "attempts",
    "max_attempts": "attempts",
    "batch_size": "batch_events",
    "config": "properties",
    "inbox": "table",
}
"""Words for the options of `consume` in other libraries."""


def require_callables(handler: object, connect: object) -> None:
    """Raise OutboxUsageError if one of the two functions of `consume` is something else. A value may hold a password."""
    if not callable(handler):
        raise OutboxUsageError(f"the handler is a function of an event and a connection: {CONSUME}")
    if not callable(connect):
        raise OutboxUsageError(
            f"connect is a function that makes a connection, because one that is lost is made again: {CONSUME}"
        )


def require_options(given: Mapping[str, object], options: type[Any]) -> None:
    """Raise OutboxUsageError for an option of `consume` that is missing, or that it does not have."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    for name in given:
        if name not in fields:
            close = _OTHER_OPTIONS.get(name) or next(iter(_close(name, fields)), None)
            hint = f", write {close}" if close else ""
            raise OutboxUsageError(f"consume has no option {name!r}{hint}: {CONSUME}")
    missing = [
        name
        for name, field in fields.items()
        if name not in given and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise OutboxUsageError(f"consume needs {' and '.join(missing)}: {CONSUME}")


MISSING: Final[Any] = object()
"""Stands for a connection that was not given."""
