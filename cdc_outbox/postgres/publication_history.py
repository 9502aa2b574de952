"""The state of a publication at the last look, so that a change since then is noticed.

In: a connection, the publication's name, the outbox tables, the slot. Out: StreamGap when rows may have been hidden meanwhile.
Never: a change ignored because it was reverted. It counts as a gap until it is known not to be one.

Each ALTER PUBLICATION changes the xmin of the row in pg_publication, or replaces the table's row in pg_publication_rel. VACUUM,
ANALYZE, comments, grants, and other tables of the publication change none of these. A change hides no row if no row was written
since the last look; at the first look of a process, if none was written between the oldest transaction that the slot still
needs (catalog_xmin) and the change. XIDs are compared by `age()`, which is correct across wraparound.

PostgreSQL manual: 52.42 pg_publication; 52.44 pg_publication_rel; 52.43 pg_publication_namespace; 5.6 System Columns.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.sql import SQL, Literal

from cdc_outbox.errors import StreamGap
from cdc_outbox.postgres import table_rows
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.publication import Table
from cdc_outbox.postgres.slot import SlotInfo

_SCHEMAS_SINCE: Final = 150_000
"""Server version from which a publication can have all tables of a schema."""

SCAN_SECONDS: Final = 20
"""Limit of the search for rows that a change may have hidden. A search that takes longer counts as a gap."""

_VERSION: Final = """
WITH outbox AS (SELECT c.oid, c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid::int8 = ANY(%(oids)s)),
     published AS (SELECT p.oid, p.xmin FROM pg_catalog.pg_publication p WHERE p.pubname = %(name)s),
     versions AS (
       SELECT 'publication' AS what, p.oid, p.xmin FROM published p
       UNION ALL
       SELECT 'table', r.oid, r.xmin FROM pg_catalog.pg_publication_rel r JOIN published p ON p.oid = r.prpubid
        WHERE r.prrelid IN (SELECT oid FROM outbox)
           OR r.prrelid IN (SELECT a.relid::oid FROM outbox o, pg_catalog.pg_partition_ancestors(o.oid) a)
       {schemas})
SELECT v.what, v.oid::int8, v.xmin::text, pg_catalog.age(v.xmin),
       pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::xid::text
  FROM versions v
"""

_SCHEMAS: Final = """
       UNION ALL
       SELECT 'schema', s.oid, s.xmin FROM pg_catalog.pg_publication_namespace s JOIN published p ON p.oid = s.pnpubid
        WHERE s.pnnspid IN (SELECT relnamespace FROM outbox)
"""


@dataclass(frozen=True, slots=True)
class _Version:
    rows: frozenset[tuple[str, int, str]]
    """Kind, OID and xmin of each relevant catalog row."""
    changed: str
    """The xmin of the last change."""
    snapshot: str
    """The oldest XID that was still running at the look."""

    @property
    def created_whole(self) -> bool:
        """Whether CREATE PUBLICATION created it with its tables: then a stream that reaches earlier rows ends by itself."""
        return len({xmin for _, _, xmin in self.rows}) == 1 < len(self.rows)


class PublicationHistory:
    """The state of one publication at the last look."""

    def __init__(self) -> None:
        self._seen: _Version | None = None
        self._changed: _Version | None = None
        """The state after a change that was a gap."""

    def accept(self) -> None:
        """Accept the change that was a gap: a new slot was created since, and the rows of the table were sent."""
        self._seen, self._changed = self._changed or self._seen, None

    def require_unchanged(
        self, connection: Connection, name: str, tables: Sequence[Table], slot: SlotInfo | None
    ) -> None:
        """Compare with the last look, and remember this one. Raises StreamGap when rows may have been hidden in between."""
        if not tables:
            return
        now = _read(connection, name, tables)
        seen = self._seen
        if now is None or now.created_whole or (seen is not None and seen.rows == now.rows):
            self._seen = now or seen
            return
        if seen is not None:
            since, until = seen.snapshot, None
        elif slot is not None and slot.catalog_xmin is not None:
            since, until = slot.catalog_xmin, now.changed
        else:
            self._seen = now
            return
        for table in tables:
            if _may_hide(connection, table, since, until):
                self._changed = now
                raise StreamGap(
                    f"publication {name} was changed while rows of {table.name} were written, and it is not known whether they "
                    "were published",
                    code="publication-changed",
                    cure="cdc-outbox slot recover sends every row that is still in the table. Nothing is confirmed past it",
                    publication=name,
                    table=str(table.name),
                )
        self._seen = now


def _read(connection: Connection, name: str, tables: Sequence[Table]) -> _Version | None:
    schemas = _SCHEMAS if connection.info.server_version >= _SCHEMAS_SINCE else ""
    rows = connection.execute(
        _VERSION.format(schemas=schemas).encode(), {"oids": [table.oid for table in tables], "name": name}
    ).fetchall()
    if not rows:
        return None
    _, youngest = min((int(str(age)), str(xmin)) for _, _, xmin, age, _ in rows)
    versions = frozenset((str(what), int(str(oid)), str(xmin)) for what, oid, xmin, _, _ in rows)
    return _Version(versions, youngest, str(rows[0][4]))


def _may_hide(connection: Connection, table: Table, since: str, until: str | None) -> bool:
    """Whether rows may have been written from the XID `since` on (and before `until`); True when that cannot be known."""
    if table_rows.SnapshotRows(connection).deletes_at_once(table_rows.TableShape(table.name, table.oid, ())):
        return True
    query = SQL("SELECT EXISTS (SELECT FROM {} WHERE pg_catalog.age(xmin) <= pg_catalog.age({}::xid){})").format(
        table_rows.own_rows(table.name, partitioned=table.partitioned),
        Literal(since),
        SQL(" AND pg_catalog.age(xmin) >= pg_catalog.age({}::xid)").format(Literal(until)) if until else SQL(""),
    )
    with contextlib.suppress(psycopg.Error), connection.transaction():
        connection.execute(f"SET LOCAL statement_timeout = '{SCAN_SECONDS}s'".encode())
        row = connection.execute(query).fetchone()
        return row is None or row[0] is True
    return True
