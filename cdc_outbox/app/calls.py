"""Calls of the functions in the database, as SQL text for each driver's way of writing parameters.

Each parameter is cast twice: to text (or bytea), which is what is sent, and from there to what the function takes. So no
driver guesses a type, no codec that an application has registered for JSON meets text that is JSON already, and a payload
column of another type than the one that was said is an error of the server and never a payload that is read in another way.

PostgreSQL manual: 4.1.1 Identifiers and Key Words, 4.2.9 Type Casts, 10.3 Functions.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias

from .errors import OutboxUsageError

Argument: TypeAlias = str | bytes | None

Style: TypeAlias = Callable[[int], str]
"""The n-th parameter (from 1), as a driver writes it."""

_PART: Final = re.compile(r'"((?:[^"]|"")+)"|([^\W\d][\w$]*)')
_FOLD: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_MEANT_OTHERWISE: Final = re.compile(r"[%:?\\\x00-\x1f]")
"""What a driver may take for a parameter, also inside quotes."""


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
class Call:
    """`SELECT function(…)`: its name, quoted; the types of its parameters; what goes in."""

    function: str
    types: tuple[str, ...]
    arguments: tuple[Argument, ...]
    cure: str
    """What to do when there is no such function."""

    def sql(self, style: Style) -> str:
        """The text, with parameters in a driver's style."""
        return _sql(self.function, self.types, style)


@lru_cache(maxsize=64)
def _sql(function: str, types: tuple[str, ...], style: Style) -> str:
    return f"SELECT {function}({', '.join(_cast(style(number), name) for number, name in enumerate(types, start=1))})"


def _cast(parameter: str, name: str) -> str:
    if name in {"text", "bytea"}:
        return f"CAST({parameter} AS {name})"
    return f"CAST(CAST({parameter} AS text) AS {name})"


@lru_cache(maxsize=64)
def function_of(table: str, suffix: str) -> str:
    """The function of a table, quoted: `"public"."outbox_emit"`. Raises OutboxUsageError when it is no table's name.

    As in SQL, what is not quoted is folded to lower case; a schema that is not named is `public`.
    """
    if not isinstance(table, str):
        raise OutboxUsageError(f"table must be a text, not {table!r}")
    parts: list[str] = []
    at = 0
    while match := _PART.match(table, at):
        quoted, plain = match[1], match[2]
        parts.append(quoted.replace('""', '"') if quoted is not None else plain.translate(_FOLD))
        at = match.end()
        if table[at : at + 1] != ".":
            break
        at += 1
    if at != len(table) or len(parts) not in {1, 2} or table.endswith(".") or _MEANT_OTHERWISE.search(table):
        raise OutboxUsageError(
            f'not a table that can be named here: {table!r} (write schema.table or "Schema"."Table")'
        )
    schema, name = parts if len(parts) == 2 else ("public", parts[0])
    return ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name + suffix))


_NO_FUNCTION: Final = "42883"
_NO_SCHEMA: Final = "3F000"
_NOT_ALLOWED: Final = "42501"


def explain(error: Exception, call: Call) -> None:
    """Add to a driver's error what to do about it, where the server's SQLSTATE says that the function is not to be had."""
    state = _sqlstate(error)
    if state in {_NO_FUNCTION, _NO_SCHEMA}:
        error.add_note(f"cdc-outbox: there is no {call.function} with these parameters here. {call.cure}")
    elif state == _NOT_ALLOWED:
        error.add_note(f"cdc-outbox: the role needs USAGE on the schema, and EXECUTE on {call.function}.")


def _sqlstate(error: BaseException) -> str | None:
    """The server's: of the driver's error, or of the one that a framework has put around it."""
    found: BaseException | None = error
    while found is not None:
        for name in ("sqlstate", "pgcode"):
            state = getattr(found, name, None)
            if isinstance(state, str):
                return state
        inner = getattr(found, "orig", None) or found.__cause__
        found = inner if isinstance(inner, BaseException) else None
    return None
