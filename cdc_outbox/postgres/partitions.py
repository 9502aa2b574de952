"""Partitions of an outbox table that is partitioned by time: drop the old ones, and create the next days' in advance.

In: a connection, the table, a fence. Out: the names of the partitions that were dropped or created.
Never: a writer of the present day kept waiting for longer than LOCK_SECONDS, or a partition dropped that has an undelivered row
or may still get one. The partition is locked against writers first (SHARE: readers continue, and so do writers of all other
days). So all its rows were committed below the LSN that is read next, and once that LSN is confirmed, it is dropped.

Existing partitions are found by their bounds, not by their names. Days are those of UTC.
PostgreSQL manual: 5.12 Table Partitioning; ALTER TABLE … ATTACH PARTITION; 13.3.1 Table-Level Locks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.sql import SQL, Identifier, Literal

from cdc_outbox.errors import AccessRefused, ConfigurationError
from cdc_outbox.identifiers import NAME_BYTES, TableName, quote_identifier
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import connect, publication, server
from cdc_outbox.postgres.errors import translated

LOCK_SECONDS: Final = 1.0
"""lock_timeout: while this session waits for a lock, writers wait behind it. After this time it gives up and tries later."""

_NAME_IS_TAKEN: Final = "42P07"
"""SQLSTATE duplicate_table."""

_DEFAULT_HAS_ROWS: Final = "23514"
"""SQLSTATE of a partition whose rows are in the default partition already."""

_KEY: Final = """
SELECT a.attname
  FROM pg_catalog.pg_partitioned_table p
  JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
 WHERE p.partrelid = %s::int8::oid AND p.partstrat = 'r' AND p.partnatts = 1
   AND a.atttypid IN (1184, 1114, 1082)
"""
"""1184, 1114, 1082: timestamptz, timestamp, date, the OIDs of pg_type.dat, which never change."""

_OLD: Final = """
SELECT n.nspname, c.relname, pg_catalog.pg_has_role(c.relowner, 'USAGE')
  FROM pg_catalog.pg_inherits i
  JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE i.inhparent = %s::int8::oid
   AND pg_catalog.substring(pg_catalog.pg_get_expr(c.relpartbound, c.oid), 'TO \\(''([^'']*)''\\)$')::timestamptz
       <= %s::timestamptz
 ORDER BY 2
"""

_ATTACHED: Final = """
WITH RECURSIVE tree(oid, joined) AS (
    SELECT i.inhrelid, i.xmin FROM pg_catalog.pg_inherits i WHERE i.inhparent = %s::int8::oid
    UNION ALL
    SELECT i.inhrelid, CASE WHEN pg_catalog.age(i.xmin) < pg_catalog.age(t.joined) THEN i.xmin ELSE t.joined END
      FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid)
SELECT c.oid::int8, n.nspname, c.relname, t.joined::text
  FROM tree t
  JOIN pg_catalog.pg_class c ON c.oid = t.oid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_type y ON y.oid = c.reltype
 WHERE c.relkind = 'r' AND y.xmin <> t.joined
 ORDER BY 2, 3
"""
"""Tables that became partitions in a later transaction than the one that created them (and their row types), with its XID."""

_MISSING_DAYS: Final = """
SELECT pg_catalog.to_char(day, 'YYYYMMDD'), day::text, (day + interval '1 day')::text
  FROM pg_catalog.generate_series(pg_catalog.date_trunc('day', pg_catalog.now()),
                                  pg_catalog.date_trunc('day', pg_catalog.now()) + pg_catalog.make_interval(days => %s),
                                  interval '1 day') AS day
 WHERE NOT EXISTS (
       SELECT FROM pg_catalog.pg_inherits i
         JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid,
         pg_catalog.regexp_match(pg_catalog.pg_get_expr(c.relpartbound, c.oid),
                                 'FROM \\((?:''([^'']*)''|MINVALUE)\\) TO \\((?:''([^'']*)''|MAXVALUE)\\)$') AS bound
        WHERE i.inhparent = %s::int8::oid
          AND coalesce(bound[1], '-infinity')::timestamptz < day + interval '1 day'
          AND coalesce(bound[2], 'infinity')::timestamptz > day
          AND bound IS NOT NULL)
 ORDER BY 1
"""

_OWNER: Final = """
SELECT r.rolname, pg_catalog.pg_has_role(c.relowner, 'USAGE')
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
 WHERE c.oid = %s::int8::oid
"""


def rows_before_attach(connection: connect.Connection, table: publication.Table) -> dict[TableName, int]:
    """Count, by partition, the rows of transactions that began before the partition was attached to the table.

    PostgreSQL streams no row for ATTACH PARTITION, so they were not sent by a slot that is older. A transaction that began
    before and wrote after the attachment counts too; one that created, filled and attached the partition does not. A partition
    that was attached a second time counts as attached the last time. Raises AccessRefused.
    """
    found = {}
    with translated():
        for oid, schema, name, xid in connection.execute(_ATTACHED, (table.oid,)).fetchall():
            query = SQL(
                "SELECT count(*) FROM {} WHERE tableoid = {}::int8::oid AND pg_catalog.age(xmin) > pg_catalog.age({}::xid)"
            ).format(Identifier(table.name.schema, table.name.name), Literal(int(str(oid))), Literal(str(xid)))
            row = connection.execute(query).fetchone()
            if row is not None and row[0]:
                found[TableName(str(schema), str(name))] = int(str(row[0]))
    return found


@dataclass(frozen=True, slots=True)
class Dropped:
    """A partition that was dropped, and the number of its rows."""

    name: TableName
    rows: int


def time_key(connection: connect.Connection, table: publication.Table) -> str | None:
    """The column whose time ranges the table is partitioned by; None if it is not partitioned so."""
    row = connection.execute(_KEY, (table.oid,)).fetchone() if table.partitioned else None
    return None if row is None else str(row[0])


def old(connection: connect.Connection, table: publication.Table, cutoff: str) -> list[TableName]:
    """Partitions that end at `cutoff` or before, and that the role may drop. Rows of the others are deleted one by one."""
    return [
        TableName(str(schema), str(name))
        for schema, name, ours in connection.execute(_OLD, (table.oid, cutoff)).fetchall()
        if ours is True
    ]


def drop(
    connection: connect.Connection, names: Sequence[TableName], until_delivered: Callable[[Lsn], None]
) -> list[Dropped]:
    """Drop the partitions in one transaction. `until_delivered` waits until an LSN is confirmed, and raises if it is not.

    Raises Unreachable when another session holds a conflicting lock; then nothing is dropped.
    """
    dropped = []
    with _brief_locks(connection):
        for name in names:
            connection.execute(SQL("LOCK TABLE ONLY {} IN SHARE MODE").format(_identifier(name)))
            with connection.long_query():
                row = connection.execute(SQL("SELECT count(*) FROM {}").format(_identifier(name))).fetchone()
            dropped.append(Dropped(name, int(str(row[0])) if row else 0))
        until_delivered(server.current_lsn(connection))
        for name in names:
            connection.execute(SQL("DROP TABLE {}").format(_identifier(name)))
    return dropped


def make_ahead(connection: connect.Connection, table: publication.Table, days: int) -> list[TableName]:
    """Create the partitions of today and the next `days` days, for days that no partition has yet.

    A day whose rows are in the default partition already stays there. Raises AccessRefused with the GRANT when the role may not
    act as the table's owner, Unreachable when another session holds a conflicting lock.
    """
    missing = connection.execute(_MISSING_DAYS, (days, table.oid)).fetchall()
    if not missing:
        return []
    owner = require_owner(connection, table)
    made = []
    for day, begin, end in missing:
        name = _day_name(table.name, str(day))
        with contextlib.suppress(_DayIsTaken), _brief_locks(connection):
            _make(connection, table.name, name, owner, (str(begin), str(end)))
            made.append(name)
    return made


class _DayIsTaken(Exception):
    """Rows of that day are in the default partition."""


def _make(
    connection: connect.Connection, table: TableName, name: TableName, owner: str, bounds: tuple[str, str]
) -> None:
    """Create and attach a partition: ATTACH does not block writers, CREATE … PARTITION OF does."""
    connection.execute(SQL("SET LOCAL ROLE {}").format(Identifier(owner)))
    like = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING GENERATED"
    create = SQL("CREATE TABLE {} (LIKE {} {})").format(_identifier(name), _identifier(table), SQL(like))
    try:
        with translated():
            connection.execute(create)
    except ConfigurationError as error:
        if error.where.get("sqlstate") == _NAME_IS_TAKEN:
            raise ConfigurationError(
                f"table {name} exists, and is not the partition of {table} that has this name",
                code="partition-conflict",
                cure=f"drop or rename it: ALTER TABLE {name.quoted} RENAME TO something_else",
                table=str(name),
            ) from error
        raise
    attach = SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})")
    try:
        with translated():
            connection.execute(attach.format(_identifier(table), _identifier(name), *map(Literal, bounds)))
    except ConfigurationError as error:
        if error.where.get("sqlstate") == _DEFAULT_HAS_ROWS:
            raise _DayIsTaken from error
        raise


def require_owner(connection: connect.Connection, table: publication.Table) -> str:
    """Return the table's owner. Raises AccessRefused with the GRANT when the session may not act as that role."""
    row = connection.execute(_OWNER, (table.oid,)).fetchone()
    assert row is not None
    owner = str(row[0])
    if row[1] is not True:
        role = connection.role
        raise AccessRefused(
            f"role {role} may not drop or make partitions of {table.name}: it belongs to {owner}",
            code="partition-privilege",
            cure=f"GRANT {quote_identifier(owner)} TO {quote_identifier(role)}; -- as an administrator; or prune as {owner}",
            table=str(table.name),
        )
    return owner


@contextlib.contextmanager
def _brief_locks(connection: connect.Connection) -> Iterator[None]:
    """A transaction with LOCK_SECONDS as its lock_timeout."""
    with translated(), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {LOCK_SECONDS * 1000:.0f}")
        yield


def _day_name(table: TableName, day: str) -> TableName:
    """`outbox_20260105`; a long name is cut to leave room for the day."""
    head = table.name.encode()[: NAME_BYTES - len(day) - 1].decode(errors="ignore")
    return TableName(table.schema, f"{head}_{day}")


def _identifier(name: TableName) -> Identifier:
    return Identifier(name.schema, name.name)
