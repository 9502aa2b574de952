"""Names of PostgreSQL objects: parse them as SQL does, and quote them for SQL.

PostgreSQL manual: 4.1.1 Identifiers and Key Words. Replication commands take no parameters, so names and values in them
are quoted here, by their grammar: identifiers in double quotes, literals in single quotes, never an E'' string.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from typing import Final

from cdc_outbox.errors import ConfigurationError

NAME_BYTES: Final = 63
"""Longest name, in bytes (NAMEDATALEN - 1): the server truncates longer ones, and two names may become one."""

_PART: Final = re.compile(r'\s*(?:"((?:[^"]|"")+)"|([^\s".]+))\s*(\.|$)')
_FOLD: Final = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
"""The server's case folding of unquoted names: only A to Z, in every multibyte encoding."""


def is_c_string(text: str) -> bool:
    """Whether a C library (libpq, librdkafka) takes the whole text as it is: UTF-8 without NUL. In an argument, a variable or a
    path that is no UTF-8, Python has half surrogates.
    """
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


@dataclass(frozen=True, slots=True, order=True)
class TableName:
    """A table, by schema and name, spelled as in the catalog."""

    schema: str
    name: str

    def __str__(self) -> str:
        return f"{_plain_or_quoted(self.schema)}.{_plain_or_quoted(self.name)}"

    @property
    def quoted(self) -> str:
        """The name in SQL text."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


def parse_table(text: str) -> TableName:
    """`outbox`, `app.outbox`, `"My Schema"."Outbox"`: unquoted parts are folded to lower case, `public` is implied.

    Raises ValueError when it is not a table's name.
    """
    parts: list[str] = []
    at = 0
    while at < len(text) or not parts:
        match = _PART.match(text, at)
        if match is None or (match[3] == "." and match.end() == len(text)):
            raise ValueError(f'not a table name: {text!r} (write schema.table, or "Schema"."Table")')
        quoted, plain = match[1], match[2]
        parts.append(quoted.replace('""', '"') if quoted is not None else plain.translate(_FOLD))
        at = match.end()
    if len(parts) > 2 or "\0" in text:
        raise ValueError(f"not a table name: {text!r} (write schema.table)")
    return TableName("public", parts[0]) if len(parts) == 1 else TableName(parts[0], parts[1])


def quote_identifier(name: str) -> str:
    """`name` as a quoted identifier. Raises ConfigurationError for a NUL, which no identifier can contain."""
    if "\0" in name:
        raise ConfigurationError("a name holds a NUL character", code="bad-headers", cure="choose another name")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """`text` as a literal, quotes doubled and backslashes as they are. Raises ConfigurationError for a NUL."""
    if "\0" in text:
        raise ConfigurationError("a value holds a NUL character", code="name-invalid", cure="choose another value")
    return "'" + text.replace("'", "''") + "'"


def _plain_or_quoted(part: str) -> str:
    return part if re.fullmatch(r"[a-z_][a-z0-9_$]*", part) else quote_identifier(part)
