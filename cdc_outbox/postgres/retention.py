"""Delete the old rows of an outbox table in batches, and only those behind the fence: the rows known to be delivered.

In: a connection to the primary, the slot's name, a table, an age. Out: rows deleted or counted; CdcOutboxError.
Never: a row deleted whose transaction was still running when the fence was taken, whatever its timestamp column holds: an
application may set that column to any value, and a transaction may commit long after it wrote.

The fence is two numbers, taken in this order: the XID of the oldest running transaction, then an LSN above everything that is
committed by then. A row whose `xmin` precedes that XID, and that a later statement sees, was committed before the fence; so
once the slot's confirmed flush LSN has reached the fence's LSN, the row is delivered. Rows of transactions that were still
running have that XID or a later one, so no statement here matches them. XIDs are compared by `age()`, which is correct
across wraparound.
All of it happens in one session. A failover ends the session, and with it the fence: the XIDs and LSNs of the new primary are
not comparable with those of the old one.

PostgreSQL manual: 9.27.8 Transaction ID and Snapshot Information Functions; 5.6 System Columns; 24.1.5 Preventing Transaction
ID Wraparound Failures; 52.20 pg_replication_slots.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from psycopg.sql import SQL, Composed, Identifier, Literal

from cdc_outbox.errors import AccessRefused, ConfigurationError, StreamGap, Undelivered, join_cures
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.lsn import UNSET, Lsn, format_lsn
from cdc_outbox.postgres import connect, publication, server, slot
from cdc_outbox.postgres.errors import translated
from cdc_outbox.postgres.table_rows import TIME_COLUMNS, own_rows

_DATE: Final = 1082
_AGE_TYPES: Final = {1184: "timestamptz", 1114: "timestamp", _DATE: "date"}
_INTEGERS: Final = (20, 21, 23)
"""Type OIDs: int8, int2, int4. All OIDs here are of pg_type.dat, and never change."""

_ROWS_A_BLOCK: Final = 50
"""Estimated rows of one block, for tables that are walked by blocks: events of about 150 bytes."""

_COLUMNS: Final = """
SELECT a.attname, a.atttypid::int8, EXISTS (
           SELECT FROM pg_catalog.pg_index i
            WHERE i.indrelid = a.attrelid AND i.indisvalid AND i.indkey[0] = a.attnum AND i.indpred IS NULL)
  FROM pg_catalog.pg_attribute a
 WHERE a.attrelid = %s::int8::oid AND a.attnum > 0 AND NOT a.attisdropped
"""

_RIGHTS: Final = """
SELECT pg_catalog.has_schema_privilege(c.relnamespace, 'USAGE'), pg_catalog.has_table_privilege(c.oid, 'DELETE'), (
           SELECT pg_catalog.bool_and(pg_catalog.has_column_privilege(c.oid, name, 'SELECT'))
             FROM pg_catalog.unnest(%s::text[]) name)
  FROM pg_catalog.pg_class c
 WHERE c.oid = %s::int8::oid
"""


OLDEST_SECONDS: Final = 2000 * 365 * 86_400.0
"""Two thousand years: no row is older, and PostgreSQL's timestamps, which begin in 4713 BC, reach back that far."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Rows behind the fence were committed below `lsn`. `xmin`: the XID of the oldest transaction that was still running."""

    xmin: int
    lsn: Lsn
    cutoff: str
    """Rows written before this moment, on the server's clock, are old. Empty: all rows are."""


@dataclass(frozen=True, slots=True)
class OldRows:
    """How the old rows of one table are recognized and found."""

    table: publication.Table
    age_column: str | None
    """None: every row is old enough."""
    by_day: bool
    """Whether `age_column` is a date: then a row's age counts from the end of its day."""
    by_seq: bool
    """Whether the walk is in the order of `seq` and ends at the first young rows; else it covers the whole table."""


class Step(NamedTuple):
    """One step of a walk: the number of rows deleted (or counted), and of old rows that are not behind the fence."""

    rows: int
    held: int


def take_fence(connection: connect.Connection, older_than: float) -> Fence:
    """Take the fence for rows older than `older_than` seconds, at most `OLDEST_SECONDS`. 0: for all rows."""
    row = connection.execute(
        "SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid::text,"
        " (pg_catalog.now() - pg_catalog.make_interval(secs => %s))::text",
        (min(older_than, OLDEST_SECONDS),),
    ).fetchone()
    assert row is not None
    return Fence(int(str(row[0])), server.current_lsn(connection), str(row[1]) if older_than else "")


def find_old_rows(
    connection: connect.Connection, table: publication.Table, age_column: str | None, *, all_are_old: bool = False
) -> OldRows:
    """Choose the column that holds the age of the rows of `table`: `age_column`, or one of TIME_COLUMNS.

    Raises ConfigurationError when the table has no such column, AccessRefused with the GRANT when the role may not delete.
    """
    columns = {
        str(name): (int(str(oid)), indexed is True)
        for name, oid, indexed in connection.execute(_COLUMNS, (table.oid,)).fetchall()
    }
    kind, indexed = columns.get("seq", (0, False))
    by_seq = kind in _INTEGERS and indexed
    if all_are_old:
        return _readable(connection, OldRows(table, None, by_day=False, by_seq=by_seq))
    wanted = (age_column,) if age_column else TIME_COLUMNS
    found = next((name for name in wanted if name in columns), None)
    if found is None:
        raise ConfigurationError(
            f"table {table.name} has no column {' or '.join(wanted)}, so the age of a row is unknown",
            code="age-column",
            cure=f"name the column: --timestamp-column; or ALTER TABLE {table.name.quoted} ADD COLUMN created_at timestamptz "
            "DEFAULT clock_timestamp(); or --older-than 0, which deletes every row that is delivered",
            table=str(table.name),
        )
    if columns[found][0] not in _AGE_TYPES:
        raise ConfigurationError(
            f"column {found} of {table.name} cannot be used for the age of a row: its type is none of "
            f"{', '.join(_AGE_TYPES.values())}",
            code="age-column",
            cure="name another column: --timestamp-column; or --older-than 0, which deletes every row that is delivered",
            table=str(table.name),
        )
    return _readable(connection, OldRows(table, found, by_day=columns[found][0] == _DATE, by_seq=by_seq))


def _readable(connection: connect.Connection, old: OldRows) -> OldRows:
    """Return `old`. Raises AccessRefused when the role may not delete these rows, or not read the columns that find them."""
    needed = ["xmin", "seq" if old.by_seq else "ctid", *([old.age_column] if old.age_column else [])]
    row = connection.execute(_RIGHTS, (needed, old.table.oid)).fetchone()
    if row is not None and not all(row):
        needs = f"it needs DELETE on the table, SELECT on it or on {', '.join(needed)}, and USAGE on its schema"
        raise _refused(connection, old.table.name, needs)
    return old


def _refused(connection: connect.Connection, table: TableName, why: str) -> AccessRefused:
    acting = connection.role
    role = quote_identifier(acting)
    cure = (
        f"GRANT USAGE ON SCHEMA {quote_identifier(table.schema)} TO {role}; GRANT SELECT, DELETE ON {table.quoted} TO {role}; "
        f"-- as an administrator; or, after cdc-outbox sql roles: GRANT cdc_outbox_pruner TO {role}"
    )
    policies = connection.execute(
        "SELECT pg_catalog.row_security_active(c.oid) FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        (table.schema, table.name),
    ).fetchone()
    if policies is not None and policies[0] is True:
        cure = f"ALTER ROLE {role} BYPASSRLS; -- a policy that permits every row does not help: no row may be hidden"
    return AccessRefused(
        f"role {acting} may not prune {table}: {why}",
        code="prune-privilege",
        cure=cure,
        table=str(table),
    )


# --- the slot ----------------------------------------------------------------------------------------------------------


class DeliveryCheck:
    """Checks whether the slot has confirmed a position. Refuses a slot for which that cannot be known (`SlotIdentity`).

    A slot created by a first start or a recovery counts like the old one: both deliver the rows of the table first.
    """

    def __init__(self, connection: connect.Connection, name: str) -> None:
        """Read the slot. Raises ConfigurationError when it is missing, lost, or cannot be used."""
        self._connection = connection
        self._name = name
        self._identity = slot.SlotIdentity()
        self._timeline = server.timeline(connection)
        self._look()

    def has_confirmed(self, lsn: Lsn) -> bool:
        """Whether everything below `lsn` is delivered. Raises ConfigurationError when the slot is not the same as before."""
        now = self._look()
        return _was_streamed(now) and (now.confirmed_flush_lsn or UNSET) >= lsn

    def undelivered(self, lsn: Lsn, seconds: float) -> Undelivered:
        """Make the error for a slot that has not confirmed `lsn` within `seconds`."""
        info = self._look()
        position = f"it has confirmed {format_lsn(info.confirmed_flush_lsn or UNSET)}"
        used = f"the server process {info.active_pid} streams from it" if info.active else "no process streams from it"
        if not _was_streamed(info):
            position = (
                "it has sent no transaction since it was created, or since a crash, so its position proves nothing"
            )
        return Undelivered(
            f"slot {self._name} has not confirmed {format_lsn(lsn)} within {seconds:g} s, so it is not known what is delivered",
            code="prune-unconfirmed",
            cure=f"nothing was deleted: {used}, and {position}. Start the relay, or let it catch up, and prune again",
            slot=self._name,
        )

    def _look(self) -> slot.SlotInfo:
        found = slot.inspect(self._connection, self._name)
        if found is None:
            raise ConfigurationError(
                f"slot {self._name} does not exist, so it is not known which rows are delivered",
                code="prune-no-slot",
                cure="nothing was deleted. cdc-outbox run makes the slot, and first sends every row that is in the table",
                slot=self._name,
            )
        slot.require_usable(found)
        try:
            self._identity.require_same(found, self._timeline, lambda _old: UNSET)
        except StreamGap as error:
            error.cure = join_cures("nothing was deleted", error.cure)
            raise
        return found


def _was_streamed(info: slot.SlotInfo) -> bool:
    """Whether a process streams from the slot, or has: before that, its position is where it was created."""
    return info.active or info.decoded > 0


# --- the rows ----------------------------------------------------------------------------------------------------------


def walk(connection: connect.Connection, old: OldRows, fence: Fence, batch: int, *, delete: bool) -> Iterator[Step]:
    """Walk the table from old to new, about `batch` rows per step, each step a transaction.

    `delete`: delete the old rows behind the fence; else only count them. Raises AccessRefused with the GRANT.
    """
    with _may_delete(connection, old.table.name):
        yield from (_by_seq if old.by_seq else _by_blocks)(connection, old, fence, batch, delete=delete)


def _by_seq(connection: connect.Connection, old: OldRows, fence: Fence, batch: int, *, delete: bool) -> Iterator[Step]:
    """Walk up to the first step that has young rows and no old one. All later rows are young too, except rows whose time was
    set by hand; a later prune deletes those.
    """
    is_old, behind, young = _old(old, fence), _behind(fence), _young(old, fence)
    columns = SQL(", ").join(map(Identifier, dict.fromkeys(("seq", *([old.age_column] if old.age_column else [])))))
    after = -(2**63)
    while True:
        look = SQL(
            "SELECT max(seq), count(*) FILTER (WHERE {0} AND {1}), count(*) FILTER (WHERE {0} AND NOT {1}),"
            " count(*) FILTER (WHERE {2}), count(*)"
            " FROM (SELECT {3}, xmin FROM {4} WHERE seq > {5} ORDER BY seq LIMIT {6}) AS next_rows"
        ).format(is_old, behind, young, columns, _name(old), Literal(after), Literal(batch))
        upto, ready, held, young_ones, seen = _integers(connection, look)
        if not seen:
            return
        deleted = ready
        if ready and delete:
            remove = SQL("DELETE FROM {} WHERE seq > {} AND seq <= {} AND {} AND {}")
            where = (Literal(after), Literal(upto), is_old, behind)
            deleted = connection.execute(remove.format(_name(old), *where)).rowcount
        yield Step(deleted, held)
        if seen < batch or (young_ones and not ready and not held):
            return
        after = upto


def _by_blocks(
    connection: connect.Connection, old: OldRows, fence: Fence, batch: int, *, delete: bool
) -> Iterator[Step]:
    """Walk all blocks that the table (or the largest of its partitions) has now."""
    is_old, behind = _old(old, fence), _behind(fence)
    stride = max(1, batch // _ROWS_A_BLOCK)
    for block in range(0, _blocks(connection, old.table.oid), stride):
        place = (Literal(f"({block},0)"), Literal(f"({block + stride},0)"))
        count = SQL(
            "SELECT count(*) FILTER (WHERE {0}), count(*) FILTER (WHERE NOT {0}) FROM {1}"
            " WHERE ctid >= {2}::tid AND ctid < {3}::tid AND {4}"
        ).format(behind, _name(old), *place, is_old)
        ready, held = _integers(connection, count)
        if ready and delete:
            remove = SQL("DELETE FROM {} WHERE ctid >= {}::tid AND ctid < {}::tid AND {} AND {}")
            ready = connection.execute(remove.format(_name(old), *place, is_old, behind)).rowcount
        yield Step(ready, held)


def _blocks(connection: connect.Connection, oid: int) -> int:
    row = connection.execute(
        "SELECT max(pg_catalog.pg_relation_size(t.relid) / pg_catalog.current_setting('block_size')::int8) FROM ("
        "SELECT relid::oid FROM pg_catalog.pg_partition_tree(%(oid)s::int8::oid::regclass)"
        " UNION ALL SELECT %(oid)s::int8::oid) t",
        {"oid": oid},
    ).fetchone()
    return int(str(row[0])) if row and row[0] is not None else 0


def _old(old: OldRows, fence: Fence) -> Composed:
    if old.age_column is None:
        return Composed([SQL("true")])
    return SQL("({} < {}::timestamptz)").format(_written(old, old.age_column), Literal(fence.cutoff))


def _young(old: OldRows, fence: Fence) -> Composed:
    """Rows written between the cutoff and now. A row without a time, or with one in the future, is not among them."""
    if old.age_column is None:
        return Composed([SQL("false")])
    written = _written(old, old.age_column)
    return SQL("({0} >= {1}::timestamptz AND {0} <= pg_catalog.now())").format(written, Literal(fence.cutoff))


def _written(old: OldRows, column: str) -> Composed:
    return SQL("({} + 1)" if old.by_day else "{}").format(Identifier(column))


def _behind(fence: Fence) -> Composed:
    return SQL("(pg_catalog.age(xmin) > pg_catalog.age({}::xid))").format(Literal(str(fence.xmin)))


def _name(old: OldRows) -> Composed:
    return own_rows(old.table.name, partitioned=old.table.partitioned)


def _integers(connection: connect.Connection, query: Composed) -> list[int]:
    """The only row of the result; NULL becomes 0."""
    row = connection.execute(query).fetchone()
    assert row is not None
    return [0 if cell is None else int(str(cell)) for cell in row]


@contextlib.contextmanager
def _may_delete(connection: connect.Connection, table: TableName) -> Iterator[None]:
    try:
        with translated(), connection.long_query():
            yield
    except AccessRefused as error:
        raise _refused(connection, table, error.message) from error
