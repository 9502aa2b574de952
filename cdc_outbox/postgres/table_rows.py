"""Rows of an outbox table, read in a snapshot, in the order in which they were written.

In: a conninfo, the name of an exported snapshot, a table. Out: its columns, and its rows in the same text form that the stream
sends.
Never: more than one batch in memory, or a row that a policy hides (row_security is off: PostgreSQL refuses instead).

PostgreSQL manual: 9.28.5 Snapshot Synchronization Functions; DECLARE (a server-side cursor).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Final

import psycopg
from psycopg import pq
from psycopg.sql import SQL, Composed, Identifier, Literal

from cdc_outbox.config.shards import ShardFilter
from cdc_outbox.errors import AccessRefused, ConnectionLost
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.postgres import connect
from cdc_outbox.postgres.errors import translated
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.shutdown import Stop

BATCH_ROWS: Final = 200
"""Most rows of one FETCH: the round trip costs little per row, and a batch of large rows still fits into memory. The next
batch is fetched when this one is handed over."""

TIME_COLUMNS: Final = ("created_at", "timestamp")
"""Columns with a row's time unless an option names one: those of sql/outbox.sql and of Debezium's examples."""

INSERT_ORDER: Final = "seq"
"""The column of sql/outbox.sql that numbers the inserts: no two rows are equal in it."""

BATCH_BYTES: Final = 1024 * 1024
"""Approximate size of one FETCH of large rows, estimated from the rows of the FETCH before."""

COUNT_SECONDS: Final = 20
"""Limit of a count that a warning needs and nothing else: a large table must not delay a start."""

FIRST_ROWS: Final = 10
"""Rows of the first FETCH: their size is not known yet."""

Cells = list[bytes | None]

DELETE_TRIGGER: Final = "delete_after_insert"
"""The trigger of `sql/delete_after_insert.sql`, which deletes each row in the transaction that inserts it."""

STORAGE_ORDER: Final = ("tableoid", "ctid")
"""System columns with the place of a row."""

EVERY_ROW: Final = Composed([SQL("true")])
"""A condition that all rows meet."""


@dataclass(frozen=True, slots=True)
class TableShape:
    """A table and its columns, (name, type OID) in the order in which `read` gives them."""

    table: TableName
    oid: int
    columns: tuple[tuple[str, int], ...]
    """A domain has the OID of its base type."""
    type_names: tuple[str, ...] = ()
    """Type names of the columns, as SQL shows them; a domain has its own name."""
    policies: bool = False
    """Whether row-level security applies to the role: read in advance, since a refusal aborts the transaction."""
    partitioned: bool = False
    role: str = ""
    """The role whose privileges count: another one than the login's after `ALTER ROLE login SET role`."""
    unreadable: frozenset[str] = frozenset()
    """Columns that the role may not read, STORAGE_ORDER included."""
    names: frozenset[str] = frozenset()
    """All columns, also of a shape that is `narrowed`."""

    def first_of(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a column, and may be read."""
        own = self.names or {name for name, _ in self.columns}
        return next((name for name in names if name in own and name not in self.unreadable), None)

    def narrowed(self, used: Callable[[Sequence[str]], Sequence[str]]) -> TableShape:
        """The table with the columns that `used` selects: a role may have SELECT on them alone."""
        kept = set(used([name for name, _ in self.columns]))
        types = self.type_names or ("",) * len(self.columns)
        pairs = [(column, kind) for column, kind in zip(self.columns, types, strict=True) if column[0] in kept]
        return replace(self, columns=tuple(column for column, _ in pairs), type_names=tuple(kind for _, kind in pairs))

    @property
    def rows(self) -> Composed:
        """The table in a FROM clause: see `own_rows`."""
        return own_rows(self.table, partitioned=self.partitioned)

    @property
    def relation(self) -> Relation:
        """The table as the stream would describe it."""
        names = self.type_names or ("",) * len(self.columns)
        columns = tuple(
            Column(name, type_oid, type_name=type_name)
            for (name, type_oid), type_name in zip(self.columns, names, strict=True)
        )
        return Relation(self.oid, self.table.schema, self.table.name, "d", columns)


_TABLE: Final = """
SELECT c.oid::int8, pg_catalog.row_security_active(c.oid), c.relkind = 'p', CURRENT_USER::text, ARRAY(
           SELECT name FROM pg_catalog.unnest(ARRAY['tableoid', 'ctid']) name
            WHERE NOT pg_catalog.has_column_privilege(c.oid, name, 'SELECT'))
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = %s AND c.relname = %s
"""

_COLUMNS: Final = """
SELECT a.attname,
       (WITH RECURSIVE chain AS (
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_catalog.pg_type t
             WHERE t.oid OPERATOR(pg_catalog.=) a.atttypid
             UNION ALL
            SELECT t.oid, t.typtype, t.typbasetype FROM pg_catalog.pg_type t JOIN chain c
                ON t.oid OPERATOR(pg_catalog.=) c.typbasetype AND c.typtype OPERATOR(pg_catalog.=) 'd')
        SELECT oid::int8 FROM chain WHERE typtype OPERATOR(pg_catalog.<>) 'd'),
       pg_catalog.format_type(a.atttypid, NULL), pg_catalog.has_column_privilege(a.attrelid, a.attnum, 'SELECT')
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attnum
"""

_DELETES: Final = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_trigger WHERE tgrelid = %s::int8::oid AND tgname = %s AND tgenabled <> 'D')
"""

_WRITTEN: Final = """
SELECT pg_catalog.pg_relation_size(%s::int8::oid) > 0 OR pg_catalog.pg_stat_get_tuples_inserted(%s::int8::oid) > 0
"""


class SnapshotRows:
    """A transaction that sees an exported snapshot. Use `open_snapshot`."""

    def __init__(
        self, connection: connect.Connection, own: ShardFilter | None = None, *, alternative_hint: str = ""
    ) -> None:
        """`alternative_hint`: for the cure, what a role without the privilege to read the rows can do instead."""
        self._connection = connection
        self._own = own
        self._alternative_hint = f" (or {alternative_hint})" if alternative_hint else ""

    def shape(self, table: TableName) -> TableShape:
        """Describe the table as this snapshot sees it. Raises CdcOutboxError."""
        with translated():
            row = self._connection.execute(_TABLE, (table.schema, table.name)).fetchone()
            oid, policies, partitioned, role, hidden = row if row is not None else (0, False, False, "", [])
            rows = self._connection.execute(_COLUMNS, (oid,)).fetchall()
        assert isinstance(hidden, list)
        return TableShape(
            table,
            int(str(oid)),
            tuple((str(name), int(str(type_oid))) for name, type_oid, _, _ in rows),
            tuple(str(type_name) for _, _, type_name, _ in rows),
            policies is True,
            partitioned is True,
            str(role),
            unreadable=frozenset((*hidden, *(str(name) for name, _, _, readable in rows if readable is not True))),
            names=frozenset(str(name) for name, *_ in rows),
        )

    def count(self, table: TableName, where: Composed = EVERY_ROW) -> int:
        """Count the rows of the snapshot. Raises AccessRefused, with the GRANT, when the role may not read."""
        shape = self.shape(table)
        query = SQL("SELECT count(*) FROM {} WHERE {}").format(shape.rows, self._own_too(shape, where))
        with translated(), self._may_read(shape):
            row = self._connection.execute(query).fetchone()
        return int(str(row[0])) if row else 0

    def first_kept(self, shape: TableShape) -> str | None:
        """Return `created_at` of the first row by `seq` if rows before it were deleted; else, or without the columns, None."""
        if not {"seq", "created_at"} <= shape.names - shape.unreadable:
            return None
        query = SQL("SELECT seq, created_at::text FROM {} ORDER BY seq LIMIT 1").format(shape.rows)
        with translated(), self._may_read(shape):
            row = self._connection.execute(query).fetchone()
        return str(row[1]) if row is not None and int(str(row[0])) > 1 else None

    def deletes_at_once(self, shape: TableShape) -> bool:
        """Whether the table has the trigger of `sql install --delete-after-insert`, so that it holds no rows."""
        row = self._connection.execute(_DELETES, (shape.oid, DELETE_TRIGGER)).fetchone()
        return row is not None and row[0] is True

    def was_written(self, shape: TableShape) -> bool:
        """Whether any row was ever inserted, rolled back or not. Needs no privilege: uses the size of the table's file, which
        keeps the space of deleted rows until a vacuum, and the statistics, which are a second late and may be reset.
        """
        row = self._connection.execute(_WRITTEN, (shape.oid, shape.oid)).fetchone()
        return row is not None and row[0] is True

    def require_readable(self, shape: TableShape) -> None:
        """Raise AccessRefused, with the GRANT, when the role may not read the table, or a policy hides rows from it."""
        query = SQL("SELECT FROM {} LIMIT 1").format(shape.rows)
        with translated(), self._may_read(shape):
            self._connection.execute(query)

    def count_older_than(self, shape: TableShape, slot: str) -> int | None:
        """Count the rows committed before a slot that no process has streamed from was created; None if that takes longer than
        COUNT_SECONDS. Raises AccessRefused.
        """
        query = SQL(
            "SELECT count(*) FROM {} WHERE pg_catalog.age(xmin) > (SELECT pg_catalog.age(catalog_xmin)"
            " FROM pg_catalog.pg_replication_slots WHERE slot_name = {})"
        ).format(shape.rows, Literal(slot))
        with self._may_read(shape):
            try:
                with self._connection.transaction():
                    self._connection.execute(f"SET LOCAL statement_timeout = '{COUNT_SECONDS}s'".encode())
                    row = self._connection.execute(query).fetchone()
            except psycopg.errors.QueryCanceled:
                return None
        return int(str(row[0])) if row is not None else 0

    def read(
        self, shape: TableShape, order: Sequence[str], *, newest_first: bool = False, where: Composed = EVERY_ROW
    ) -> Iterator[Sequence[Cells]]:
        """Yield the rows that `where` selects in batches, ordered by the first name in `order` that is a column. Rows of equal
        times come in the order of storage, which is mostly that of their inserts; without a column, all rows do.

        Raises AccessRefused with the GRANT.
        """
        names = [name for name, _ in shape.columns]
        query = SQL("DECLARE outbox_rows NO SCROLL CURSOR FOR SELECT {} FROM {} WHERE {}").format(
            SQL(", ").join(map(Identifier, names)), shape.rows, self._own_too(shape, where)
        )
        ordered = shape.first_of(order)
        if ordered is not None:
            by = [Identifier(ordered)]
            if ordered != INSERT_ORDER:
                by += [Identifier(name) for name in STORAGE_ORDER if name not in shape.unreadable]
            direction = SQL(" DESC" if newest_first else "")
            query += SQL(" ORDER BY ") + SQL(", ").join(column + direction for column in by)
        with translated():
            with self._may_read(shape):
                self._connection.execute(query)
            wanted = FIRST_ROWS
            while batch := self._next(wanted):
                yield batch
                fitting = BATCH_BYTES * len(batch) // max(1, size_of(batch))
                wanted = max(1, min(BATCH_ROWS, 2 * wanted, fitting))
            self._connection.execute("CLOSE outbox_rows")

    def _own_too(self, shape: TableShape, where: Composed) -> Composed:
        """The condition `where`, and for a shard also its row filter."""
        condition = None if self._own is None else self._own.condition(name for name, _ in shape.columns)
        return where if condition is None else Composed([SQL("("), where, SQL(f") AND {condition}")])

    def _next(self, count: int) -> Sequence[Cells]:
        with self._connection.long_query():  # all rows are sorted before the first one
            return self._fetch(count)

    def _fetch(self, count: int) -> Sequence[Cells]:
        cursor = self._connection.cursor()
        fetch = f"FETCH {count} FROM outbox_rows"
        if connect.has_no_encoding(
            self._connection
        ):  # for this command only: psycopg cannot read names in such a session
            with self._connection.cursor() as setting:
                setting.execute(connect.AS_IT_IS)
                cursor.execute(fetch)
                setting.execute("SET client_encoding = 'UTF8'")
        else:
            cursor.execute(fetch)
        result = cursor.pgresult
        assert result is not None
        assert result.status == pq.ExecStatus.TUPLES_OK
        columns = range(result.nfields)
        value = result.get_value
        return [
            [None if (cell := value(row, column)) is None else bytes(cell) for column in columns]
            for row in range(result.ntuples)
        ]

    @contextlib.contextmanager
    def _may_read(self, shape: TableShape) -> Iterator[None]:
        """Let a query of the rows take long. Raise AccessRefused with the GRANT when it is refused."""
        try:
            with translated(), self._connection.long_query():
                yield
        except AccessRefused as error:
            role, table = quote_identifier(shape.role), shape.table
            schema = quote_identifier(table.schema)
            grant = f"GRANT USAGE ON SCHEMA {schema} TO {role}; GRANT SELECT ON {table.quoted} TO {role};"
            if shape.policies:
                grant = f"ALTER ROLE {role} BYPASSRLS; -- a policy that permits every row does not help: no row may be hidden"
            raise AccessRefused(
                f"role {shape.role} may not read {table}: {error.message}",
                code="select-privilege",
                cure=f"{grant}{self._alternative_hint}",
                table=str(table),
            ) from error


def row_order(timestamp_column: str | None) -> list[str]:
    """Columns that show in which order rows were written, best first. `timestamp_column`: --timestamp-column."""
    return [INSERT_ORDER, *([timestamp_column] if timestamp_column else []), *TIME_COLUMNS]


def size_of(batch: Sequence[Cells]) -> int:
    """Bytes of all cells of the batch."""
    return sum(map(len, filter(None, chain.from_iterable(batch))))


@contextlib.contextmanager
def open_snapshot(
    dsn: str,
    snapshot: str | None,
    stop: Stop,
    own: ShardFilter | None = None,
    *,
    alternative_hint: str = "",
    on_progress: Callable[[], object] | None = None,
) -> Iterator[SnapshotRows]:
    """Open a transaction with the view of `snapshot` (None: a snapshot of now), until the end of the block.

    `own`: a shard's filter, for only its rows. `alternative_hint`: for the cure, what a role without the privilege to read the
    rows can do instead. `on_progress`: called when the server is seen to work on a query that takes long.
    Raises CdcOutboxError, and Stopped on a stop.
    """
    with connect.open_connection(dsn, stop) as connection:
        connection.on_progress = on_progress
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute("SET LOCAL synchronize_seqscans = off")  # it lets a scan begin in the middle of the table
        if snapshot is not None:
            try:
                connection.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
            except (psycopg.errors.InvalidParameterValue, psycopg.errors.UndefinedObject) as error:
                raise ConnectionLost(
                    "PostgreSQL has ended the session that exported the snapshot", code="connection-lost"
                ) from error
        with connection.kept_alive():
            yield SnapshotRows(connection, own, alternative_hint=alternative_hint)


def own_rows(table: TableName, *, partitioned: bool) -> Composed:
    """The table in a FROM clause, without the rows of INHERITS children, which its stream does not have either."""
    return SQL("{}" if partitioned else "ONLY {}").format(Identifier(table.schema, table.name))
