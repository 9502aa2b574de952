"""The server: whether it can stream, its current LSN, and its timeline.

In: a connection; for a timeline's history a walsender session. Out: LSNs, `Timeline`, or CdcOutboxError.
Never: a comparison of LSNs of two timelines: after the switch point they denote different WAL.

PostgreSQL manual: 9.28.3 Backup Control Functions (pg_current_wal_insert_lsn, pg_walfile_name); 9.27.13 pg_control_system;
26.3.5 Timelines; 54.4 TIMELINE_HISTORY; 27.3 WAL Internals (pages and their headers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cdc_outbox.errors import ConfigurationError, Unreachable
from cdc_outbox.lsn import UNSET, Lsn, parse_lsn
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.replication import ReplicationSession

WAL_PAGE_BYTES: Final = 8192
WAL_PAGE_HEADERS: Final = (24, 40)
"""Bytes of a page's header, short and long (the first page of a segment)."""


def place(connection: Connection) -> str:
    """The database and the server of a connection, for messages."""
    info = connection.info
    return f"{info.dbname} at {info.host}:{info.port}"


def require_logical(connection: Connection) -> None:
    """Raise ConfigurationError unless wal_level is logical."""
    row = connection.execute("SHOW wal_level").fetchone()
    level = str(row[0]) if row else "unknown"
    if level != "logical":
        raise ConfigurationError(
            f"wal_level is {level}, so this server cannot stream changes",
            code="wal-level",
            cure="as an administrator: ALTER SYSTEM SET wal_level = 'logical'; then restart PostgreSQL "
            "(RDS: rds.logical_replication = 1; Cloud SQL: cloudsql.logical_decoding = on)",
        )


def require_primary(connection: Connection) -> None:
    """Raise Unreachable while the server is a standby: it has no slot of the relay, or a copy that must not advance yet.

    A slot created on a standby could be behind the WAL of the next primary, once the servers have changed roles.
    """
    row = connection.execute("SELECT pg_catalog.pg_is_in_recovery()").fetchone()
    if row is not None and row[0] is True:
        raise Unreachable(
            f"the server at {connection.info.host}:{connection.info.port} is a standby, in recovery",
            code="postgres-read-only",
            cure="wait until it is promoted; to find the primary, name all hosts in --dsn with target_session_attrs=read-write",
        )


def current_lsn(connection: Connection) -> Lsn:
    """An LSN above everything committed so far, which a stream reaches once it has sent all of that.

    At the beginning of a page, the insert position is already after the page's header, while the flushed position, which
    keepalives report, is still before it. So an LSN right after a header is moved back to the beginning of its page.
    """
    row = connection.execute(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()"
        " ELSE pg_catalog.pg_current_wal_insert_lsn() END::text"
    ).fetchone()
    lsn = parse_lsn(str(row[0])) if row else Lsn(0)
    within = lsn % WAL_PAGE_BYTES
    return Lsn(lsn - within) if within in WAL_PAGE_HEADERS else lsn


@dataclass(frozen=True, slots=True)
class Timeline:
    """A cluster (its system identifier), and the number of its present timeline. An LSN is valid for one timeline."""

    system: str
    number: int


def timeline(connection: Connection | ReplicationSession) -> Timeline:
    """Read a primary's timeline. Its number comes from the WAL file in use: after a promotion, the control file is late."""
    if isinstance(connection, ReplicationSession):
        return Timeline(connection.system, connection.timeline)
    row = connection.execute(
        "SELECT s.system_identifier::text, pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn())"
        " FROM pg_catalog.pg_control_system() s"
    ).fetchone()
    assert row is not None
    return Timeline(str(row[0]), int(str(row[1])[:8], 16))


_HISTORY_LINE: Final = re.compile(r"\s*(\d+)\s+([0-9A-Fa-f]+/[0-9A-Fa-f]+)")


def switch_point(session: ReplicationSession, old: Timeline, new: Timeline) -> Lsn:
    """The LSN up to which both timelines have the same WAL. UNSET when `new` does not descend from `old`."""
    if old.system != new.system:
        return UNSET
    _, content = session.rows(f"TIMELINE_HISTORY {new.number}")[0]
    for line in (content or "").splitlines():
        found = _HISTORY_LINE.match(line)
        if found is not None and int(found[1]) == old.number:
            return parse_lsn(found[2])
    return UNSET
