"""The server itself: is it one that can stream, and how far has it written?

PostgreSQL manual: 9.28.3 Backup Control Functions (pg_current_wal_insert_lsn); 27.3 WAL Internals (pages and their headers).
"""

from __future__ import annotations

from typing import Final

from cdc_outbox.errors import ConfigurationError, Unreachable
from cdc_outbox.lsn import Lsn, parse_lsn
from cdc_outbox.postgres.connect import Connection

WAL_PAGE_BYTES: Final = 8192
WAL_PAGE_HEADERS: Final = (24, 40)
"""Bytes of a page's header, short and long (the first page of a segment)."""


def place(connection: Connection) -> str:
    """Name the database and the server of a connection, for a person."""
    info = connection.info
    return f"{info.dbname} at {info.host}:{info.port}"


def require_logical(connection: Connection) -> None:
    """Raise ConfigurationError unless the server writes what logical decoding needs."""
    row = connection.execute("SHOW wal_level").fetchone()
    level = str(row[0]) if row else "unknown"
    if level != "logical":
        raise ConfigurationError(
            f"wal_level is {level}, so this server cannot stream changes",
            cure="as an administrator: ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL "
            "(RDS: rds.logical_replication = 1; Cloud SQL: cloudsql.logical_decoding = on)",
        )


def require_primary(connection: Connection) -> None:
    """Raise Unreachable while the server is a standby: it has no slot of ours, or a copy that must not move yet.

    A slot of its own could stand behind what the next primary writes, after the servers have changed places.
    """
    row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    if row is not None and row[0] is True:
        raise Unreachable(
            f"the server at {connection.info.host}:{connection.info.port} is a standby, in recovery",
            cure="wait until it is promoted; to find the primary, name all hosts in --dsn with target_session_attrs=read-write",
        )


def current_lsn(connection: Connection) -> Lsn:
    """Give an LSN that everything committed so far lies below, and that a stream that has it all reaches.

    The insert position steps over the header of a page before anything is written behind it, where the flushed position, which
    a keepalive tells, still stands before it: taken back to the page's beginning, both agree.
    """
    row = connection.execute(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        " ELSE pg_catalog.pg_current_wal_insert_lsn() END::text"
    ).fetchone()
    lsn = parse_lsn(str(row[0])) if row else Lsn(0)
    within = lsn % WAL_PAGE_BYTES
    return Lsn(lsn - within) if within in WAL_PAGE_HEADERS else lsn
