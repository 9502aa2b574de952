r"""Text in the format of `java.util.Properties`. Pure.

In: the text, and where it comes from. Out: names and values. Never: a value changed silently, or shown.
Comments begin with # or !; `=`, `:` or space ends the name; a backslash at the end of a line continues it; \t \n \r \f
\uXXXX and a backslash before punctuation mean what they mean to Java. Java drops any other backslash; that would change a
password silently, so it is refused. java.util.Properties.load, Java SE API.
"""

from __future__ import annotations

import re
from typing import Final

from cdc_outbox.errors import ConfigurationError

_ESCAPE: Final = re.compile(r"\\(u[0-9A-Fa-f]{4}|.|\Z)", re.DOTALL)
_CONTROL: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_LINE: Final = re.compile(r"((?:\\.|[^\\=:\s])+)(?:[ \t\f]*[=:][ \t\f]*|[ \t\f]+|\Z)(.*)", re.DOTALL)


def parse_properties(text: str, path: str | None = None) -> dict[str, str]:
    """The text's properties. Raises ConfigurationError with the line's number; `path`: the file that it names."""
    properties: dict[str, str] = {}
    for number, line in _logical_lines(text):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ConfigurationError(
                "a line without a property's name",
                code="kafka-config-file",
                cure="write key=value",
                file=path,
                line=number,
            )
        properties[_unescape(match[1], path, number)] = _unescape(match[2], path, number)
    return properties


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers: comments and empty ones left out, continued ones joined."""
    lines: list[tuple[int, str]] = []
    begun, start = "", 0
    for number, natural in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        line = natural.lstrip(" \t\f")
        if not begun:
            start = number
            if not line or line[0] in "#!":
                continue
        backslashes = len(line) - len(line.rstrip("\\"))
        if backslashes % 2:
            begun += line[:-1]
            continue
        lines.append((start, begun + line))
        begun = ""
    return [*lines, (start, begun)] if begun else lines


def _unescape(text: str, path: str | None, number: int) -> str:
    def replace(match: re.Match[str]) -> str:
        escaped = match[1]
        if escaped.startswith("u") and len(escaped) == 5:
            return chr(int(escaped[1:], 16))
        if escaped in _CONTROL or not (escaped.isalnum() or escaped == ""):
            return _CONTROL.get(escaped, escaped)
        raise ConfigurationError(
            "a single backslash, which Java would drop",
            code="kafka-config-file",
            cure="write it twice: \\\\",
            file=path,
            line=number,
        )

    return _ESCAPE.sub(replace, text)
