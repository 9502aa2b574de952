"""Statements as SQL text, with parameters in the style of each driver.

In: names, types, values. Out: `Statement`: a call of a function in the database, or rows that are inserted.
Never: a value in the text of a statement; a name that is not quoted.

A parameter of a function is cast twice: to text (or bytea), the type in which it is sent, and from there to the function's
type. So no driver guesses a type, an application's own JSON codec is not applied to JSON text, and a payload column of another
type than the configured one is an error of the server, never a misread payload.

PostgreSQL manual: 4.1.1 Identifiers and Key Words, 4.2.9 Type Casts, 10.3 Functions, 9.19 Array Functions (unnest).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias

from .errors import OutboxUsageError

Style: TypeAlias = Callable[[int], str]
"""The n-th parameter (from 1), as a driver writes it."""

_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_FOLD: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_DRIVERS_OWN: Final = re.compile(r"[%:?\\\x00-\x1f]")
"""Text that a driver may interpret as a parameter, also inside quotes."""


def percent(_: int) -> str:
    """`%s`: psycopg, Django."""
    return "%s"


def dollar(number: int) -> str:
    """`$1`: asyncpg."""
    return f"${number}"


def colon(number: int) -> str:
    """`:p1`: SQLAlchemy."""
    return f":p{number}"


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with parameters, one between every two of `pieces`."""

    pieces: tuple[str, ...]
    arguments: tuple[Any, ...]
    relation: str
    """The function or table of the statement, quoted: for errors."""
    cure: str
    """What to do if it does not exist."""

    def sql(self, style: Style) -> str:
        """The text, with parameters in a driver's style."""
        first, *rest = self.pieces
        return first + "".join(f"{style(number)}{piece}" for number, piece in enumerate(rest, start=1))


@lru_cache(maxsize=64)
def _call_pieces(function: str, types: tuple[str, ...]) -> tuple[str, ...]:
    return _joined(f"SELECT {function}(", [_cast(name) for name in types], ")")


@lru_cache(maxsize=64)
def _call_each_pieces(function: str, types: tuple[str, ...]) -> tuple[str, ...]:
    columns = [f"e{number}" for number in range(len(types))]
    calls = ", ".join(f"CAST({column} AS pg_catalog.{name})" for column, name in zip(columns, types, strict=True))
    arrays = [("CAST(", f" AS pg_catalog.{_sent_as(name)}[])") for name in types]
    end = f") WITH ORDINALITY AS e({', '.join(columns)}, place) ORDER BY place"
    return _joined(f"SELECT {function}({calls}) FROM unnest(", arrays, end)  # noqa: S608 - quoted names only


def function_call(function: str, types: tuple[str, ...], arguments: Sequence[Any], cure: str) -> Statement:
    """`SELECT function(…)`. `function` is quoted; `types` are those of its parameters."""
    return Statement(_call_pieces(function, types), tuple(arguments), function, cure)


def function_call_each(function: str, types: tuple[str, ...], rows: Sequence[Sequence[Any]], cure: str) -> Statement:
    """One call for each row, in the order of the rows, in one statement: volatile functions of a SELECT's list run after its
    ORDER BY (PostgreSQL 9.6 and later).
    """
    arrays = tuple([list(column) for column in zip(*rows, strict=True)])
    return Statement(_call_each_pieces(function, types), arrays, function, cure)


def claim_each(function: str, consumer: str, message_ids: Sequence[str], cure: str) -> Statement:
    """Claim several messages; the value is a JSON array of the ids that are claimed for the first time.

    `message_ids` in the same order in every process: two processes that claim the same ids wait, and do not deadlock.
    """
    pieces = (
        f"SELECT CAST(to_json(ARRAY(SELECT c.id FROM (SELECT e.id AS id, {function}(CAST(",  # noqa: S608 - a quoted name
        " AS text), e.id) AS first FROM unnest(CAST(",
        " AS text[])) WITH ORDINALITY AS e(id, place) ORDER BY e.place) AS c WHERE c.first)) AS text)",
    )
    return Statement(pieces, (consumer, list(message_ids)), function, cure)


def insert(
    table: str, columns: Sequence[str], types: Sequence[str | None], rows: Sequence[Sequence[Any]], cure: str
) -> Statement:
    """`INSERT INTO table (columns) VALUES …`. A column without a type in `types` takes the driver's own form of its value."""
    row = [("", "") if name is None else _cast(name) for name in types]
    pieces = [f"INSERT INTO {table} ({', '.join(columns)}) VALUES "]  # noqa: S608 - quoted names only
    for number, _ in enumerate(rows):
        inner = _joined("(" if number == 0 else ", (", row, ")")
        pieces[-1] += inner[0]
        pieces += inner[1:]
    return Statement(tuple(pieces), tuple(value for values in rows for value in values), table, cure)


def _joined(start: str, around: Iterable[tuple[str, str]], end: str) -> tuple[str, ...]:
    """Pieces with a parameter in each pair of `around`, separated by commas."""
    pieces = [start]
    for number, (before, after) in enumerate(around):
        pieces[-1] += ("" if number == 0 else ", ") + before
        pieces.append(after)
    pieces[-1] += end
    return tuple(pieces)


def _sent_as(name: str) -> str:
    return "bytea" if name == "bytea" else "text"


def _cast(name: str) -> tuple[str, str]:
    if name == _sent_as(name):
        return "CAST(", f" AS pg_catalog.{name})"
    return "CAST(CAST(", f" AS pg_catalog.text) AS pg_catalog.{name})"


@lru_cache(maxsize=64)
def function_of(table: str, suffix: str) -> str:
    """The function of a table, quoted: `"public"."outbox_emit"`. Raises OutboxUsageError as `parse_table` does."""
    schema, name = parse_table(table)
    return f"{quoted(schema)}.{quoted(name + suffix)}"


@lru_cache(maxsize=64)
def table_of(table: str) -> str:
    """The table, quoted. Raises OutboxUsageError as `parse_table` does."""
    return ".".join(map(quoted, parse_table(table)))


def parse_table(table: str) -> tuple[str, str]:
    """Schema and name. Raises OutboxUsageError when `table` is not a table's name.

    As in SQL, a part without quotes is folded to lower case; without a schema it is in `public`.
    """
    if not isinstance(table, str):
        raise OutboxUsageError(f"table must be a str, not {table!r}")
    parts: list[str] = []
    at = 0
    while match := _PART.match(table, at):
        inner, plain = match[1], match[2]
        parts.append(inner.replace('""', '"') if inner is not None else plain.translate(_FOLD))
        at = match.end()
        if table[at : at + 1] != ".":
            break
        at += 1
    if at != len(table) or len(parts) not in {1, 2} or table.endswith(".") or _DRIVERS_OWN.search(table):
        raise OutboxUsageError(
            f'not a table that can be named here: {table!r} (write schema.table or "Schema"."Table")'
        )
    return (parts[0], parts[1]) if len(parts) == 2 else ("public", parts[0])


def column(name: object) -> str:
    """A column's name, quoted. Raises OutboxUsageError if it is invalid, or if a driver would interpret it as a parameter."""
    if not isinstance(name, str) or not name or _DRIVERS_OWN.search(name):
        raise OutboxUsageError(f"not a column that can be named here: {name!r}")
    return quoted(name)


def quoted(name: str) -> str:
    """An identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


_MISSING: Final = frozenset({"42883", "42P01", "42703", "3F000"})
"""SQLSTATEs: undefined function, table, column, schema (PostgreSQL manual, appendix A)."""

_REFUSED: Final = "42501"
"""SQLSTATE: insufficient privilege."""


def explain(error: Exception, statement: Statement) -> bool:
    """Add the cure to a driver's error, where the server's SQLSTATE shows that the function or table cannot be used.

    Returns whether it does.
    """
    state = _sqlstate(error)
    if state in _MISSING:
        error.add_note(f"cdc-outbox: {statement.relation} does not exist here in this form. {statement.cure}")
    elif state == _REFUSED:
        right = "EXECUTE" if statement.pieces[0].startswith("SELECT") else "INSERT"
        error.add_note(f"cdc-outbox: the role needs USAGE on the schema, and {right} on {statement.relation}.")
    return state in _MISSING or state == _REFUSED


def _sqlstate(error: BaseException) -> str | None:
    """The server's SQLSTATE, in the driver's error or in one that a framework has raised from it."""
    found: BaseException | None = error
    while found is not None:
        for name in ("sqlstate", "pgcode"):
            state = getattr(found, name, None)
            if isinstance(state, str):
                return state
        inner = getattr(found, "orig", None) or found.__cause__
        found = inner if isinstance(inner, BaseException) else None
    return None
