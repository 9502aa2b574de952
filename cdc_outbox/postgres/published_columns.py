"""Whether the stream carries the columns that become part of a record: the first start reads them all from the table.

In: a connection, the publication and the outbox tables as `publication` finds them, the columns that are used. Out: nothing, or
ConfigurationError with the SQL that cures; StreamGap where a slot passes rows without these columns.
Never: a column that is left out of records in silence.

PostgreSQL manual: 52.18 pg_publication_tables (attnames); CREATE PUBLICATION (publish_generated_columns, column lists).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import quote_identifier
from cdc_outbox.postgres import publication
from cdc_outbox.postgres.connect import Connection


def require_columns(
    connection: Connection,
    published: publication.Publication | None,
    tables: Sequence[publication.Table],
    used: Callable[[Sequence[str]], Sequence[str]],
    *,
    older_slot: bool = False,
) -> None:
    """Raise ConfigurationError, with the SQL that cures, when the stream does not carry columns that are used.

    `published`: looked up after `tables`. `used`: of a table's columns, those that become part of a record.
    `older_slot`: there is a slot, which passes rows without them: it is a StreamGap.
    """
    sent = {table.name: set(table.sent) for table in published.tables} if published is not None else {}
    for table in tables:
        hidden = [column for column in used(table.columns) if column not in sent.get(table.name, table.columns)]
        if published is not None and hidden:
            error = _hidden_columns(connection, published, table, hidden)
            if error is not None:
                raise publication.with_hidden_rows(error) if older_slot else error


def _hidden_columns(
    connection: Connection, published: publication.Publication, table: publication.Table, hidden: Sequence[str]
) -> ConfigurationError | None:
    """The error for `hidden`. None when a migration has dropped or renamed these columns between the looks."""
    rows = connection.execute(
        "SELECT attname::text, attgenerated::text FROM pg_catalog.pg_attribute"
        " WHERE attrelid = %s::int8::oid AND attnum > 0 AND NOT attisdropped AND attname = ANY(%s) ORDER BY attnum",
        (table.oid, list(hidden)),
    ).fetchall()
    kinds = {str(column): str(kind) for column, kind in rows}
    if not kinds:
        return None
    sends_generated = connection.info.server_version >= publication.GENERATED_SINCE
    alter, cures = f"ALTER PUBLICATION {quote_identifier(published.name)}", []
    listed = any(each.name == table.name and each.columns is not None for each in published.tables)
    if listed and (sends_generated or "" in kinds.values()):
        cures.append(f"{alter} SET TABLE {publication.table_list(published, without_columns=table.name)}")
    if "s" in kinds.values():
        generated = (
            f"ALTER COLUMN {quote_identifier(name)} DROP EXPRESSION" for name, kind in kinds.items() if kind == "s"
        )
        cures.append(
            f"{alter} SET (publish_generated_columns = stored)"
            if sends_generated
            else f"ALTER TABLE {table.name.quoted} {', '.join(generated)}; then the writer or a trigger has to fill it"
        )
    if "v" in kinds.values():
        cures.append(
            "make the virtual column a stored one (GENERATED ALWAYS AS ... STORED): a virtual one is never sent"
        )
    return ConfigurationError(
        f"publication {published.name} leaves out columns of {table.name}: {', '.join(kinds)}",
        code="publication-columns",
        cure="; ".join(cures),
        publication=published.name,
        table=str(table.name),
    )
