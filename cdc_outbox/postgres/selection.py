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
from cdc_outbox.postgres.table_rows import EVERY_ROW, INSERT_ORDER, TIME_COLUMNS, TableShape

_UUID: Final = 2950
_TIMES: Final = {1184: "timestamptz", 1114: "timestamp", 1082: "date"}
"""Type OIDs (pg_type.dat; they never change). A date is compared by the day, in UTC; a timestamp counts as UTC."""


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
    parts = [EVERY_ROW]
    if selection.ids:
        name = _column(shape, "id", columns.id)
        parts.append(_among(name, selection.ids, types[name]))
    if selection.keys:
        name = _column(shape, "key", columns.key)
        parts.append(_among(name, selection.keys, types[name]))
    for moment, compare in ((selection.since, ">="), (selection.until, "<")):
        if moment is not None:
            parts.append(_compared(moment, compare, shape, columns))
    for seq, compare in ((selection.from_seq, ">="), (selection.to_seq, "<=")):
        if seq is not None:
            name = _column(shape, "seq", (INSERT_ORDER,))
            parts.append(SQL(_COMPARED[compare]).format(Identifier(name), Literal(seq)))
    return SQL(" AND ").join(parts)


def not_older(moment: str, shape: TableShape, columns: Columns) -> Composed:
    """The SQL condition for rows that are not known to be older than `moment`: a row without a time meets it.

    Raises ConfigurationError when the table has no column with a time.
    """
    return SQL("({}) IS NOT TRUE").format(_compared(moment, "<", shape, columns))


def _compared(moment: str, compare: str, shape: TableShape, columns: Columns) -> Composed:
    name = _column(shape, "time", (columns.timestamp,) if columns.timestamp else TIME_COLUMNS)
    kind = _TIMES.get(dict(shape.columns)[name])
    if kind is None:
        raise ConfigurationError(
            f"rows of {shape.table} cannot be chosen by time: column {name} is none of {', '.join(_TIMES.values())}",
            code="choose-column",
            cure=_CHOOSE,
            table=str(shape.table),
        )
    bound = SQL("{}::timestamptz" + ("::date" if kind == "date" else "")).format(Literal(moment))
    return SQL(_COMPARED[compare]).format(Identifier(name), bound)


def _column(shape: TableShape, criterion: str, names: Sequence[str]) -> str:
    found = shape.first_of(names)
    if found is None:
        raise ConfigurationError(
            f"rows of {shape.table} cannot be chosen by {criterion}: the table has no column {' or '.join(names)}",
            code="choose-column",
            cure=_CHOOSE,
            table=str(shape.table),
        )
    return found


_CHOOSE: Final = "choose them by something else, or name the column (--id-column, --key-column, --timestamp-column)"


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
