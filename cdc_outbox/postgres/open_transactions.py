"""Open transactions that hold a slot back: those that have written, prepared ones included.

In: a connection. Out: the transactions, oldest first, with what ends them. Never: a transaction ended.

PostgreSQL manual: 27.2.3 pg_stat_activity; 52.17 pg_prepared_xacts.
"""

from __future__ import annotations

from dataclasses import dataclass

from cdc_outbox.identifiers import quote_literal
from cdc_outbox.postgres.connect import Connection


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session with an open transaction that has written."""

    pid: int
    text: str
    """For a person."""


def blockers(connection: Connection, *, older_than: float = 0.0) -> list[Blocker]:
    """List the sessions with an open transaction that has written, oldest first: the creation of a slot waits for them.

    `older_than`: seconds. A role sees the transaction's start only of its own sessions, unless it is a member of
    pg_read_all_stats; with `older_than`, a transaction whose age is hidden is left out.
    """
    rows = connection.execute(
        "SELECT pid, usename, datname, application_name,"
        " pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - xact_start)::text"
        "  FROM pg_catalog.pg_stat_activity"
        " WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
        "   AND (%(seconds)s = 0 OR pg_catalog.clock_timestamp() - xact_start > %(seconds)s * interval '1 second')"
        " ORDER BY pg_catalog.age(backend_xid) DESC LIMIT 5",  # the age in time is hidden from most roles
        {"seconds": older_than},
    )
    return [
        Blocker(
            int(str(pid)),
            f"pid {pid} ({user or '?'}, {application or '-'}, in database {database or '?'}"
            + (")" if age is None else f", open for {age})"),
        )
        for pid, user, database, application, age in rows
    ]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared transaction: it outlives its session, and a restart of the server."""

    gid: str
    database: str
    owner: str
    age: str

    @property
    def text(self) -> str:
        """A description for an error message."""
        return f"prepared transaction {self.literal} ({self.owner} in {self.database}, open for {self.age})"

    @property
    def literal(self) -> str:
        """Its identifier as an SQL literal."""
        return quote_literal(self.gid)


def prepared(connection: Connection, *, older_than: float = 0.0) -> list[Prepared]:
    """List prepared transactions at least `older_than` seconds old, oldest first. The creation of a slot waits for them as
    well, and they appear in no session.
    """
    rows = connection.execute(
        "SELECT gid, database, owner, pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - prepared)::text"
        "  FROM pg_catalog.pg_prepared_xacts"
        " WHERE pg_catalog.clock_timestamp() - prepared >= %(seconds)s * interval '1 second' ORDER BY prepared LIMIT 5",
        {"seconds": older_than},
    )
    return [Prepared(str(gid), str(database), str(owner), str(age)) for gid, database, owner, age in rows]
