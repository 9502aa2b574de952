"""The address of a connection: server, database and role, for a second connection to the same place.

In: a connection, cursor or session that `emit` takes, while it is open. Out: a conninfo string of libpq.
Never: an import of a driver or framework; input or output.
"""

from __future__ import annotations

import sys
from typing import Any

from psycopg.conninfo import make_conninfo

from cdc_outbox.app.driver import is_a
from cdc_outbox.app.drivers import identity
from cdc_outbox.app.errors import OutboxUsageError


def conninfo_of(target: object) -> str:
    """The address, the password included. Raises OutboxUsageError for a driver that is not known here."""
    raw = _raw(identity(target))
    package = type(raw).__module__.partition(".")[0]
    if package == "psycopg":
        return make_conninfo(**raw.info.get_parameters(), password=raw.info.password or None)
    if package == "psycopg2":
        return make_conninfo(**raw.info.dsn_parameters, password=raw.info.password or None)
    if package == "asyncpg":
        address, given = raw._addr, raw._params  # noqa: SLF001 - asyncpg has no public form of them
        host, port = address if isinstance(address, tuple) else (address.rpartition("/")[0], None)
        return make_conninfo(
            host=host, port=port, dbname=given.database or given.user, user=given.user, password=given.password or None
        )
    raise OutboxUsageError(
        f"outbox_events cannot find the address of a connection of {package}: override the fixture outbox_dsn"
    )


def _raw(target: Any) -> Any:
    """The driver's own connection below a session or a connection of a framework, which is in a transaction."""
    if isinstance(target, str):
        return sys.modules["django.db"].connections[target].connection
    if type(target).__module__.partition(".")[0] != "sqlalchemy":
        return getattr(target, "_con", target)  # asyncpg: a pool lends a proxy
    blocking = getattr(target, "sync_session", None) or getattr(target, "sync_connection", None) or target
    connection = blocking.connection() if is_a(blocking, "Session") else blocking
    return connection.connection.driver_connection
