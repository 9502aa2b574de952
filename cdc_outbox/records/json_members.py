"""The members of a JSON object, each with the very text that it was written as. Pure.

In: text in which a JSON object begins. Out: its members in order (of equal names the last), and where the object ends.
Never: a number that went through a float: 1.10 stays 1.10, and twenty digits stay twenty.

RFC 8259. What it does not allow (NaN, a NUL in a name, half a surrogate) is a ValueError.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple, NoReturn

_SPACE: Final = " \t\r\n"
_SPACE_BETWEEN_TOKENS: Final = re.compile(r'("(?:[^"\\]|\\.)*")|\s+')


class Member(NamedTuple):
    """One member. `text` is a string's own text, None for null, and for anything else its JSON text as it was written."""

    text: str | None
    plain: bool
    """Whether it is a string or null."""

    @property
    def compact(self) -> bytes | None:
        """The text without white space between tokens, which jsonb adds and json keeps. Raises ValueError: see `verbatim`."""
        if self.text is None or self.plain:
            return self.verbatim
        return _SPACE_BETWEEN_TOKENS.sub(lambda match: match[1] or "", self.text).encode()

    @property
    def verbatim(self) -> bytes | None:
        """The text as it was written. Raises ValueError for half a surrogate, which UTF-8 cannot hold."""
        return None if self.text is None else self.text.encode()


def read_object(text: str, at: int = 0) -> tuple[dict[str, Member], int]:
    """Read the object that begins at `at`, white space before it left aside; give its members, and the offset behind it.

    Raises ValueError when there is none, or a name cannot be used.
    """
    try:
        return _read_object(text, _skip_space(text, at))
    except IndexError:
        raise ValueError("the object does not end") from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def check_json(text: bytes) -> None:
    """Raise ValueError unless it is one JSON value. A number of any size is one, and so is half a surrogate, escaped."""
    words = text.decode().strip(_SPACE)
    try:
        _, end = _DECODER.raw_decode(words)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if end != len(words):
        raise ValueError(f"something else follows it at character {end}")


def _read_object(text: str, at: int) -> tuple[dict[str, Member], int]:
    if text[at] != "{":
        raise ValueError("it is no JSON object")
    members: dict[str, Member] = {}
    at = _skip_space(text, at + 1)
    while text[at] != "}":
        name, at = _read_name(text, at)
        start = _skip_space(text, _behind(":", text, _skip_space(text, at)))
        value, at = _DECODER.raw_decode(text, start)
        members[name] = (
            Member(value, True) if value is None or isinstance(value, str) else Member(text[start:at], False)
        )
        at = _skip_space(text, at)
        if text[at] != "}":
            at = _skip_space(text, _behind(",", text, at))
            if text[at] == "}":
                raise ValueError(f"a comma before the end at character {at}")
    return members, at + 1


def _read_name(text: str, at: int) -> tuple[str, int]:
    name, at = _DECODER.raw_decode(text, at)
    if not isinstance(name, str):
        raise ValueError("a member without a name")  # noqa: TRY004 - one kind of error for what is no object
    if "\0" in name:
        raise ValueError("a name holds a NUL character")
    return name, at


def _behind(token: str, text: str, at: int) -> int:
    if text[at] != token:
        raise ValueError(f"{token!r} is missing at character {at}")
    return at + 1


def _skip_space(text: str, at: int) -> int:
    while text[at] in _SPACE:
        at += 1
    return at


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=_refuse)
"""Finds where values end. Numbers are not looked at: their text counts, and Python limits how many digits it would read."""
