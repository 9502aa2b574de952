"""Publications and outbox tables in the catalog: read them, and check that every insert is published.

In: a connection, the publication's name, the outbox tables. Out: `Publication`, or ConfigurationError with the SQL that cures
it; StreamGap where rows were written meanwhile that no slot will stream.
Never: a change of the publication.

PostgreSQL manual: 52.42 pg_publication; 52.18 pg_publication_tables; CREATE PUBLICATION.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.config.settings import DEFAULT_PUBLICATION, DEFAULT_TABLE
from cdc_outbox.config.shards import ShardFilter, named_shard
from cdc_outbox.errors import ConfigurationError, StreamGap, join_cures
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.postgres.connect import Connection

LOCK_SECONDS: Final = 5.0
"""lock_timeout of the connections that read pg_publication_tables, which waits for a locked table (a migration)."""

_FILTERS_SINCE: Final = 150_000
"""Server version from which a publication can have row filters and column lists."""

GENERATED_SINCE: Final = 180_000
"""Server version from which a publication can send stored generated columns. A virtual one is never sent."""

_HIDDEN: Final = "Rows written before that are not streamed any more: cdc-outbox slot recover sends them from the table"

_TABLES: Final = """
SELECT p.schemaname, p.tablename, {filter}, {columns}, {sent}
  FROM pg_catalog.pg_publication_tables p
 WHERE p.pubname = %s
 ORDER BY 1, 2
"""

_COLUMN_LIST: Final = """
(SELECT p.attnames::text[] WHERE EXISTS (
    SELECT FROM pg_catalog.pg_publication_rel r
      JOIN pg_catalog.pg_publication b ON b.oid = r.prpubid
      JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
      JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
     WHERE b.pubname = p.pubname AND n.nspname = p.schemaname AND c.relname = p.tablename AND r.prattrs IS NOT NULL))
"""

_SENT_BEFORE_18: Final = """
ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
        JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = p.schemaname AND c.relname = p.tablename AND a.attnum > 0 AND NOT a.attisdropped
         AND a.attgenerated = '' {listed})
"""
"""14 has no attnames, 15 has generated columns among them: no version before 18 sends one."""


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table of the publication. `row_filter` is the condition of its row filter, if it has one."""

    name: TableName
    row_filter: str | None
    columns: tuple[str, ...] | None = None
    """Its column list, if the publication has one; None: all columns."""
    sent: tuple[str, ...] = ()
    """The columns that the stream carries: without generated ones, unless the publication sends them."""


@dataclass(frozen=True, slots=True)
class Publication:
    """A publication, from the catalog."""

    name: str
    inserts: bool
    via_partition_root: bool
    tables: tuple[PublishedTable, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """An outbox table, from the catalog."""

    name: TableName
    oid: int
    partitioned: bool
    not_streamed: tuple[str, ...] = ()
    """Relations whose rows are in the table but not in its stream: INHERITS children, unlogged or foreign partitions."""
    columns: tuple[str, ...] = ()
    """In the table's order."""


def inspect(connection: Connection, name: str) -> Publication | None:
    """Look the publication up; None if it does not exist."""
    row = connection.execute(
        "SELECT pubinsert, pubviaroot FROM pg_catalog.pg_publication WHERE pubname = %s", (name,)
    ).fetchone()
    if row is None:
        return None
    version = connection.info.server_version
    has_filters = version >= _FILTERS_SINCE
    sent = _SENT_BEFORE_18.format(listed="AND a.attname = ANY(p.attnames)" if has_filters else "")
    query = _TABLES.format(
        filter="p.rowfilter" if has_filters else "NULL",
        columns=_COLUMN_LIST if has_filters else "NULL",
        sent="p.attnames::text[]" if version >= GENERATED_SINCE else sent,
    )
    tables = tuple(
        PublishedTable(
            TableName(str(schema), str(table)),
            None if condition is None else str(condition),
            tuple(map(str, columns)) if isinstance(columns, list) else None,
            tuple(map(str, carried)) if isinstance(carried, list) else (),
        )
        for schema, table, condition, columns, carried in connection.execute(query, (name,))
    )
    return Publication(name, bool(row[0]), bool(row[1]), tables)


def find_table(connection: Connection, name: TableName) -> Table:
    """Look an outbox table up. Raises ConfigurationError if it does not exist."""
    row = connection.execute(
        "SELECT c.oid::int8, c.relkind::text, ARRAY("
        "   SELECT i.inhrelid::regclass::text FROM pg_catalog.pg_inherits i WHERE i.inhparent = c.oid AND c.relkind = 'r'"
        "   UNION ALL"
        "   SELECT t.relid::text FROM pg_catalog.pg_partition_tree(CASE WHEN c.relkind = 'p' THEN c.oid::regclass END) t"
        "     JOIN pg_catalog.pg_class k ON k.oid = t.relid"
        "    WHERE t.isleaf AND (k.relkind = 'f' OR k.relpersistence <> 'p')),"
        " ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a"
        "        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum)"
        " FROM pg_catalog.pg_class c"
        " JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p')",
        (name.schema, name.name),
    ).fetchone()
    if row is None:
        raise ConfigurationError(
            f"table {name} does not exist in database {connection.info.dbname}",
            code="table-missing",
            cure=f"create it: {_install(table=name)}; or name the one that exists with --table",
            table=str(name),
        )
    others, columns = (each if isinstance(each, list) else [] for each in row[2:])
    return Table(name, int(str(row[0])), row[1] == "p", tuple(map(str, others)), tuple(map(str, columns)))


def _install(*options: str, table: TableName = DEFAULT_TABLE, publication: str | None = None) -> str:
    """The command that creates the missing table or publication, ready to run."""
    if table != DEFAULT_TABLE:
        options += ("--table", str(table))
    if publication not in {None, DEFAULT_PUBLICATION}:
        options += ("--publication", str(publication))
    return shlex.join(["cdc-outbox", "sql", "install", *options, "--apply"])


def find_tables(
    connection: Connection, names: Sequence[TableName], known: Mapping[int, TableName], publication: str
) -> list[Table]:
    """Look the outbox tables up. `known`: names of earlier look-ups, by OID.

    Raises ConfigurationError for a missing or renamed table, StreamGap for one that was dropped and created again.
    """
    oids = {name: oid for oid, name in known.items()}
    found = []
    for name in names:
        try:
            table = find_table(connection, name)
        except ConfigurationError as error:
            now = _name_of(connection, oids.get(name, 0))
            raise (renamed(name, now) if now is not None else error) from None
        if oids.get(name, table.oid) != table.oid:
            raise StreamGap(
                f"table {name} was dropped and made again under the same name: its rows were not streamed",
                code="table-recreated",
                cure=f"publish it (ALTER PUBLICATION {quote_identifier(publication)} ADD TABLE {name.quoted}), then "
                "cdc-outbox slot recover sends what is in it",
                table=str(name),
            )
        found.append(table)
    return found


def renamed(was: TableName, now: TableName) -> ConfigurationError:
    """The error for an outbox table that was renamed."""
    return ConfigurationError(
        f"table {was} has become {now}: it was renamed",
        code="table-renamed",
        cure=f"--table {now} instead of --table {was}: rows that were written under the old name come as well",
        table=str(was),
    )


def _name_of(connection: Connection, oid: int) -> TableName | None:
    row = connection.execute(
        "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.oid = %s::int8::oid",
        (oid,),
    ).fetchone()
    return TableName(str(row[0]), str(row[1])) if row else None


def require_published(
    publication: Publication | None,
    name: str,
    tables: Sequence[Table],
    *,
    older_slot: bool = False,
    own: ShardFilter | None = None,
) -> None:
    """Raise ConfigurationError, with the SQL that cures it, unless `publication` sends every insert into `tables`.

    `older_slot`: a slot exists; it will not stream the rows that are hidden now even after the cure, so raise StreamGap.
    `own`: a shard's filter; the publication must send exactly the inserts that it selects.
    """
    if not tables:  # logical messages are not filtered by a publication, but streaming from a slot needs one
        if publication is None:
            raise ConfigurationError(
                f"publication {name} does not exist",
                code="publication-missing",
                cure=f"{_install('--source', 'message', publication=name)}; or: CREATE PUBLICATION "
                f"{quote_identifier(name)} WITH (publish = 'insert', publish_via_partition_root = true)",
                publication=name,
            )
        return
    if own is None:
        _require_of_no_shard(publication, name)
    try:
        if own is not None:
            publication = _without_own_filter(publication, name, own, tables)
        _require_published(publication, name, tables)
    except ConfigurationError as error:
        raise (with_hidden_rows(error) if older_slot else error) from None


def _require_of_no_shard(publication: Publication | None, name: str) -> None:
    """Raise ConfigurationError for a shard's publication when no --shard is given: --publication must name that of all rows."""
    found = named_shard(name)
    filtered = (
        [table for table in publication.tables if table.row_filter is not None] if publication is not None else []
    )
    if found is not None and filtered:
        raise ConfigurationError(
            f"publication {name} sends the rows of shard {found.shard} only: WHERE {filtered[0].row_filter}",
            code="publication-of-shard",
            cure=f"--publication {found.base}, which has the rows of all shards; run and check take one shard's with --shard "
            f"{found.shard} --publication {found.base}",
            publication=name,
        )


def with_hidden_rows(error: ConfigurationError) -> StreamGap:
    """The error as StreamGap, whose cure covers also the rows that an older slot has passed or will pass."""
    return StreamGap(error.message, cure=join_cures(error.cure, _HIDDEN), code=error.code, **error.where)


def _without_own_filter(
    publication: Publication | None, name: str, own: ShardFilter, tables: Sequence[Table]
) -> Publication:
    """The publication without the row filters of the shard. Raises ConfigurationError for a table with any other filter."""
    shard = named_shard(name)
    install = _install("--shards", str(own.shard.count), publication=shard.base if shard else None)
    if publication is None:
        raise ConfigurationError(
            f"publication {name} of shard {own.shard} does not exist",
            code="shard-publication",
            cure=install,
            publication=name,
        )
    ours = {table.name for table in tables}
    for table in publication.tables:
        if table.name in ours and not own.is_own(table.row_filter or ""):
            raise ConfigurationError(
                f"publication {name} does not send just the rows of shard {own.shard} of {table.name}: "
                f"WHERE {table.row_filter or 'true'}",
                code="shard-publication",
                cure=f"DROP PUBLICATION {quote_identifier(name)}, then {install}; it would be WHERE "
                f"({own.shard.condition(own.keys[0])})",
                publication=name,
                table=str(table.name),
            )
    bare = (replace(table, row_filter=None) if table.name in ours else table for table in publication.tables)
    return replace(publication, tables=tuple(bare))


def _require_published(publication: Publication | None, name: str, tables: Sequence[Table]) -> None:
    if publication is None:
        listed = ", ".join(table.name.quoted for table in tables)
        raise ConfigurationError(
            f"publication {name} does not exist",
            code="publication-missing",
            cure=f"{_install(table=tables[0].name, publication=name)}; or: CREATE PUBLICATION {quote_identifier(name)} "
            f"FOR TABLE {listed} WITH (publish = 'insert', publish_via_partition_root = true)",
            publication=name,
        )
    alter = f"ALTER PUBLICATION {quote_identifier(name)}"
    if not publication.inserts:
        raise ConfigurationError(
            f"publication {name} does not publish inserts",
            code="publication-inserts",
            cure=f"{alter} SET (publish = 'insert')",
            publication=name,
        )
    published = {table.name: table for table in publication.tables}
    for table in tables:
        _require_streamed(publication, name, table, published.get(table.name))


def _require_streamed(publication: Publication, name: str, table: Table, published: PublishedTable | None) -> None:
    """Raise ConfigurationError unless every row of `table` is streamed as a row of it."""
    alter = f"ALTER PUBLICATION {quote_identifier(name)}"
    if table.not_streamed:
        others = ", ".join(table.not_streamed)
        raise ConfigurationError(
            f"rows of {others} belong to table {table.name}, and are not streamed as its rows",
            code="rows-not-streamed",
            cure="children by INHERITS: use declarative partitions instead, or ALTER TABLE CHILD NO INHERIT "
            f"{table.name.quoted}; partitions: ALTER TABLE PARTITION SET LOGGED, and none that is foreign",
            table=str(table.name),
        )
    if table.partitioned and not publication.via_partition_root:
        raise ConfigurationError(
            f"table {table.name} is partitioned, and publication {name} sends its rows under the partitions' names",
            code="publication-partitions",
            cure=f"{alter} SET (publish_via_partition_root = true)",
            publication=name,
            table=str(table.name),
        )
    if published is None:
        raise ConfigurationError(
            f"publication {name} does not publish table {table.name}",
            code="publication-missing",
            cure=f"{alter} ADD TABLE {table.name.quoted}",
            publication=name,
            table=str(table.name),
        )
    if published.row_filter is not None:
        raise ConfigurationError(
            f"publication {name} hides rows of {table.name}: WHERE {published.row_filter}",
            code="publication-filter",
            cure=f"{alter} SET TABLE {table_list(publication, without_filter=table.name)}",
            publication=name,
            table=str(table.name),
        )


def table_list(
    publication: Publication, *, without_filter: TableName | None = None, without_columns: TableName | None = None
) -> str:
    """All its tables, in the syntax of SET TABLE: a table that is left out would not be published any more."""

    def shown(table: PublishedTable) -> str:
        columns = None if table.name == without_columns else table.columns
        condition = None if table.name == without_filter else table.row_filter
        listed = f" ({', '.join(map(quote_identifier, columns))})" if columns else ""
        return f"{table.name.quoted}{listed}" + (f" WHERE {condition}" if condition else "")

    return ", ".join(map(shown, publication.tables))


def other_tables(publication: Publication, tables: Sequence[Table]) -> list[TableName]:
    """Tables of the publication that are not outbox tables."""
    ours = {table.name for table in tables}
    return [table.name for table in publication.tables if table.name not in ours]
