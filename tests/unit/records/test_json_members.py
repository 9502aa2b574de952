"""JSON is read as RFC 8259 has it, whatever its size, without an object for each value in it."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc_outbox.records.json_members import SMALL_BYTES, check_json, read_object
from cdc_outbox.records.router import header_members

PIECES = (
    *"[]{},:",
    '"a"',
    '"\\""',
    '"\\u00e4"',
    '"\\ud800"',
    '"a',
    "\\",
    "0",
    "-1.5e+3",
    "01",
    "1e400",
    "true",
    "null",
    "nul",
    "NaN",
    " ",
    "\n",
    "\u00a0",
    "\0",
)


def is_json(text: str) -> bool:
    """By the standard library's parser, but for the three constants that it adds."""

    def refuse(_constant: str) -> None:
        raise ValueError

    try:
        json.loads(text, parse_constant=refuse, parse_int=len, parse_float=len)
    except ValueError:
        return False
    return True


def passes(check: Callable[[], object]) -> bool:
    try:
        check()
    except ValueError:
        return False
    return True


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@example("[[],{}]")
@example('{"a":{"b":[1,{}]},"a":[]}')
@example("[1,]")
@example('{"a":1,}')
@example('{"a" 1}')
@example("{1:2}")
@example("[}")
@example('{"a":[1}]')
@pytest.mark.parametrize("padding", [0, SMALL_BYTES])
def test_json_is_what_the_standard_parser_takes_small_or_large(padding: int, text: str) -> None:
    padded = text + " " * padding
    assert passes(lambda: check_json(padded.encode())) == is_json(text.strip(" \t\r\n"))
    nested = f'{{"a":[{text}{" " * padding}]}}'
    assert passes(lambda: read_whole(nested)) == is_json(nested)


def read_whole(text: str) -> None:
    _, end = read_object(text)
    if end != len(text):
        raise ValueError(end)


SHAPES = {
    "empty arrays": "[],",
    "arrays": "[0],",
    "objects": '{"a":0},',
    "floats": "0.1,",
    "texts": '"ab",',
    "spaces": "[ ] , ",
    "escapes": '"\\n\\n\\n\\n\\n\\n\\n\\n",',
    "nested": "[[[[[[0]]]]]],",
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("read", [check_json, lambda text: header_members(b'{"a":' + text + b"}")])
def test_memory_is_a_few_times_the_text_whatever_is_in_it(read: Callable[[bytes], object], shape: str) -> None:
    """Built as objects of Python, it would be some 30 times as much."""
    piece = SHAPES[shape]
    text = ("[" + piece * (300_000 // len(piece)) + "0]").encode()
    tracemalloc.start()
    try:
        read(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6 * len(text), f"{peak / len(text):.1f} times the text"


@pytest.mark.parametrize("depth", [1000, 100_000])
@pytest.mark.parametrize("brackets", ["[]", ('{"a":', "}")])
def test_nesting_of_any_depth_is_read(brackets: tuple[str, str], depth: int) -> None:
    opening, closing = brackets
    text = opening * depth + "0" + closing * depth
    check_json(text.encode())
    assert header_members(b'{"a":' + text.encode() + b"}") == [("a", text.encode())]
