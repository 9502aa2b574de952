"""Select rows of an outbox table: by id, key, time, or seq.

In: a `Selection`, a table's shape, the names of its columns. Out: a condition for `rows`.
Never: unquoted text of a user in SQL, or a part of a selection ignored because its column is missing.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from psycopg.sql import SQL, Composed, Identifier, Literal

from cdc_outbox.config.settings import Columns
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.postgres.table_rows import EVERY_ROW, TIME_COLUMNS, TableShape

_UUID: Final = 2950
"""Type OID (pg_type.dat; it never changes)."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Criteria that a row must meet, all of those given. `since` and `until`: timestamps for PostgreSQL, `until` exclusive."""

    ids: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    since: str | None = None
    until: str | None = None
    from_seq: int | None = None
    to_seq: int | None = None

    @property
    def all_rows(self) -> bool:
        """Whether no criterion is given."""
        return self == Selection()


def condition(selection: Selection, shape: TableShape, columns: Columns) -> Composed:
    """The SQL condition for one table. Raises ConfigurationError when the table lacks a column that it needs."""
    types = dict(shape.columns)

    def column(criterion: str, names: Sequence[str]) -> str:
        found = next((name for name in names if name in types), None)
        if found is None:
            raise ConfigurationError(
                f"rows of {shape.table} cannot be chosen by {criterion}: the table has no column {' or '.join(names)}",
                code="choose-column",
                cure="choose them by something else, or name the column (--id-column, --key-column, --timestamp-column)",
                table=str(shape.table),
            )
        return found

    parts = [EVERY_ROW]
    if selection.ids:
        name = column("id", columns.id)
        parts.append(_among(name, selection.ids, types[name]))
    if selection.keys:
        name = column("key", columns.key)
        parts.append(_among(name, selection.keys, types[name]))
    times = (columns.timestamp,) if columns.timestamp else TIME_COLUMNS
    for moment, compare in ((selection.since, ">="), (selection.until, "<")):
        if moment is not None:
            name = column("time", times)
            parts.append(SQL(_COMPARED[compare] + "::timestamptz").format(Identifier(name), Literal(moment)))
    for seq, compare in ((selection.from_seq, ">="), (selection.to_seq, "<=")):
        if seq is not None:
            parts.append(SQL(_COMPARED[compare]).format(Identifier(column("seq", ("seq",))), Literal(seq)))
    return SQL(" AND ").join(parts)


_COMPARED: Final = {">=": "{} >= {}", "<=": "{} <= {}", "<": "{} < {}"}


def _require_uuid(name: str, text: str) -> None:
    try:
        uuid.UUID(text)
    except ValueError:
        raise ConfigurationError(
            f"column {name} holds uuids, and {text!r} is none",
            code="id-type",
            cure="copy it whole, 32 hexadecimal digits: SELECT the column from the table, or take `id` of a log line",
        ) from None


def _among(name: str, wanted: Sequence[str], type_oid: int) -> Composed:
    """Compare a uuid column as uuids, in any spelling; any other column as text. Raises ConfigurationError."""
    if type_oid == _UUID:
        for each in wanted:
            _require_uuid(name, each)
        values = [SQL("{}::uuid").format(Literal(each)) for each in wanted]
        return SQL("{} IN ({})").format(Identifier(name), SQL(", ").join(values))
    return SQL("{}::text IN ({})").format(Identifier(name), SQL(", ").join(map(Literal, wanted)))
