"""The members of a JSON object, each with its exact text. Pure.

In: text in which a JSON object begins. Out: its members in order (of equal names the last), and the offset of its end.
Never: a number converted to a float (1.10 stays 1.10, and twenty digits stay twenty), a recursion, or a Python object for
each value inside a member: arrays and objects are skipped, with one byte of memory for each open one.

RFC 8259. Invalid text (NaN, a NUL in a name, half a surrogate) raises ValueError.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple, NoReturn

import orjson

SMALL_BYTES: Final = 256 * 1024
"""JSON text up to this size may be parsed as a whole: its objects need at most some 30 times as much (`[[0],[0],…]`), 8 MiB."""

SPACE: Final = " \t\r\n"
"""White space of JSON."""
_SPACES: Final = re.compile(r"[ \t\r\n]*")
_QUOTE_OR_SPACE: Final = re.compile(r'[" \t\r\n]')
_OBJECT: Final = ord("}")
"""The closing character by which an open array or object is remembered."""


class Member(NamedTuple):
    """One member. `text`: the text of a string, None for null, and for any other value its exact JSON text."""

    text: str | None
    plain: bool
    """Whether the value is a string or null."""

    @property
    def compact(self) -> bytes | None:
        """The text without white space between tokens, which jsonb adds and json keeps. ValueError: half a surrogate."""
        return self.verbatim if self.text is None or self.plain else _compact(self.text)

    @property
    def verbatim(self) -> bytes | None:
        """The exact text. Raises ValueError for half a surrogate, which UTF-8 cannot encode."""
        return None if self.text is None else self.text.encode()


def read_object(text: str, at: int = 0, *, strict: bool = False) -> tuple[dict[str, Member], int]:
    """Read the object that begins at `at`, after optional white space. Returns its members, and the offset after it.

    Raises ValueError when there is no object, or a name cannot be used; `strict`: also for half a surrogate inside a value.
    """
    try:
        return _read_object(text, _skip_space(text, at), strict)
    except IndexError:
        raise ValueError("the object does not end") from None


def check_json(text: bytes) -> None:
    """Raise ValueError unless it is one JSON value. Numbers of any size are allowed, and half a surrogate, escaped."""
    if len(text) <= SMALL_BYTES:
        try:
            orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # orjson also refuses such numbers and half surrogates
        else:
            return
    decoded = text.decode().strip(SPACE)
    try:
        end = _value_end(decoded, 0, strict=False)
    except IndexError:
        raise ValueError("it does not end") from None
    if end != len(decoded):
        raise ValueError(f"something else follows it at character {end}")


def _read_object(text: str, at: int, strict: bool) -> tuple[dict[str, Member], int]:
    if text[at] != "{":
        raise ValueError("it is no JSON object")
    members: dict[str, Member] = {}
    at = _skip_space(text, at + 1)
    while text[at] != "}":
        name, at = _read_name(text, at)
        start = _behind(":", text, at)
        if text[start] in "[{":
            at = _value_end(text, start, strict=strict)
            members[name] = Member(text[start:at], False)
        else:
            value, at = _DECODER.raw_decode(text, start)
            plain = value is None or isinstance(value, str)
            members[name] = Member(value if plain else text[start:at], plain)
        at = _skip_space(text, at)
        if text[at] != "}":
            at = _behind(",", text, at)
            if text[at] == "}":
                raise ValueError(f"a comma before the end at character {at}")
    return members, at + 1


def _value_end(text: str, at: int, *, strict: bool) -> int:
    """The offset after the value that begins at `at`. Raises ValueError if there is none, IndexError if it does not end."""
    open_ones = bytearray()
    while True:
        if text[at] in "[{":
            closing = "]" if text[at] == "[" else "}"
            at = _skip_space(text, at + 1)
            if text[at] != closing:
                open_ones.append(ord(closing))
                at = at if closing == "]" else _behind_name(text, at, strict=strict)
                continue
            at += 1
        else:
            at = _scalar_end(text, at, strict=strict)
        while open_ones:
            at = _skip_space(text, at)
            if text[at] != chr(open_ones[-1]):
                break
            open_ones.pop()
            at += 1
        if not open_ones:
            return at
        at = _behind(",", text, at)
        if open_ones[-1] == _OBJECT:
            at = _behind_name(text, at, strict=strict)


def _scalar_end(text: str, at: int, *, strict: bool) -> int:
    value, end = _DECODER.raw_decode(text, at)
    if strict and isinstance(value, str):
        value.encode()
    return end


def _behind_name(text: str, at: int, *, strict: bool) -> int:
    """Step over the name of a member and its colon, inside a value."""
    if text[at] != '"':
        raise ValueError(f"a member without a name at character {at}")
    return _behind(":", text, _scalar_end(text, at, strict=strict))


def _read_name(text: str, at: int) -> tuple[str, int]:
    if text[at] != '"':
        raise ValueError(f"a member without a name at character {at}")
    name, at = _DECODER.raw_decode(text, at)
    if "\0" in name:
        raise ValueError("a name holds a NUL character")
    name.encode()
    return name, at


def _behind(token: str, text: str, at: int) -> int:
    """Step over `token` and the white space on both sides of it."""
    at = _skip_space(text, at)
    if text[at] != token:
        raise ValueError(f"{token!r} is missing at character {at}")
    return _skip_space(text, at + 1)


def _skip_space(text: str, at: int) -> int:
    if text[at] not in SPACE:
        return at
    found = _SPACES.match(text, at)
    assert found is not None  # it matches nothing as well
    return found.end()


def _compact(text: str) -> bytes:
    """The text of a value without white space between its tokens."""
    kept = bytearray()
    start = at = 0
    while found := _QUOTE_OR_SPACE.search(text, at):
        at = found.start()
        if text[at] == '"':
            _, at = _DECODER.raw_decode(text, at)
        else:
            kept += text[start:at].encode()
            start = at = _skip_space(text, at)
    if not start:
        return text.encode()
    kept += text[start:].encode()
    return bytes(kept)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_int=lambda _: 0, parse_float=lambda _: 0.0, parse_constant=_refuse)
"""Finds the end of strings, numbers and literals. Numbers are not converted: Python limits their number of digits."""
