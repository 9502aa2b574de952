"""The members of the `headers` object become headers: strings as their text, null as null, the rest as its JSON text, digit by
digit; what cannot be one is refused."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.records.router import header_members


def members(text: str) -> list[tuple[str, str | bytes | None]]:
    return header_members(text.encode())


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ('"text"', b"text"),
        ('""', b""),
        ('"größe 客 😀"', "größe 客 😀".encode()),
        ('"\\ud83d\\ude00\\n\\"\\\\"', '😀\n"\\'.encode()),
        ('"a\\u0000b"', b"a\0b"),
        ("null", None),
        ("true", b"true"),
        ("false", b"false"),
        ("5", b"5"),
        ("-0", b"-0"),
        ("1.10", b"1.10"),
        ("1e2", b"1e2"),
        ("1E+20", b"1E+20"),
        ("123456789012345678901234567890", b"123456789012345678901234567890"),
        ("0.1000000000000000055511151231257827", b"0.1000000000000000055511151231257827"),
        ("9007199254740993", b"9007199254740993"),
        ("[]", b"[]"),
        ("{}", b"{}"),
        ('[1, "a b", null]', b'[1,"a b",null]'),
        ('{"a": {"b" :\t[ 1.10 ,\r\n2]}, "c d": "e  f"}', b'{"a":{"b":[1.10,2]},"c d":"e  f"}'),
        ('["\\"  \\\\", " "]', b'["\\"  \\\\"," "]'),
        ('["\\u00e4 \\ud83d\\ude00"]', b'["\\u00e4 \\ud83d\\ude00"]'),
    ],
)
def test_a_member_of_each_kind(value: str, header: bytes | None) -> None:
    """A string is its text, null is null, anything else its JSON text, numbers digit by digit."""
    for text in (
        f'{{"h":{value}}}',
        f' \n{{ "h" :\t{value} }}\r ',
        f'{{"x":"y","h": {value},"z":"z"}}',
        f'{{"n":1.0,"h":{value}}}',
    ):
        assert dict(members(text))["h"] == header


@pytest.mark.parametrize("text", ["{}", "null", "[]"])
@pytest.mark.parametrize("space", ["", " ", "\n\t", " " * 300_000])
def test_an_empty_object_null_and_an_empty_array_add_nothing(text: str, space: str) -> None:
    """Object mappers write null for "no headers", PHP an empty array."""
    assert members(space + text + space) == members(space.join(text) if text != "null" else text) == []


@pytest.mark.parametrize("other", ['"x"', "1"])
def test_the_last_of_several_members_of_one_name_counts(other: str) -> None:
    """As jsonb does; json keeps both in its text."""
    assert members(f'{{"a":"1","b":{other},"a":"2"}}') == [("a", b"2"), ("b", other.strip('"').encode())]


@pytest.mark.parametrize(
    "text",
    [
        "[1]",
        "[null]",
        '"text"',
        "1",
        "true",
        "",
        " ",
        "{",
        '{"a"}',
        '{"a":1,}',
        "{} {}",
        "{'a':1}",
        '{"a":NaN}',
        '{"a":01}',
        "nul",
        '{"a":"\\ud800"}',
        '{"\\ud800":"a"}',
        '{"a":1,"\\udc00":2}',
        '{"a":["\\ud800"]}',
        '{"a":"\n"}',
        "\ufeff{}",
    ],
)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # the parser's own words
        members(text)


@pytest.mark.parametrize("text", ['{"a\\u0000":"x"}', '{"n":1,"a\\u0000b":"x"}', '{"n":1,"\\u0000":2}'])
def test_a_name_with_a_nul_is_refused(text: str) -> None:
    """No client could read such a header."""
    with pytest.raises(ValueError, match="NUL"):
        members(text)


def test_an_escaped_nul_in_a_value_is_a_nul() -> None:
    assert members('{"\\\\u0000":"a\\u0000"}') == [("\\u0000", b"a\0")]


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(ValueError, match="UTF-8"):
        header_members(b'{"a":"\xff"}')


@pytest.mark.parametrize("depth", [900, 1000, 1020, 1100, 100_000])
def test_nesting_without_end_is_a_header_or_refused(depth: int) -> None:
    """PostgreSQL takes thousands of levels; whatever stands in the way here must not end the process as a bug."""
    text = '{"a":' + "[" * depth + "]" * depth + "}"
    with contextlib.suppress(ValueError):
        assert members(text) == [("a", b"[" * depth + b"]" * depth)]


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + "0" * 400])
def test_a_number_that_no_double_holds_is_a_number_as_it_was_written(number: str) -> None:
    assert members(f'{{"a":{number}, "b":"x", "c":[{number}, null]}}') == [
        ("a", number.encode()),
        ("b", b"x"),
        ("c", f"[{number},null]".encode()),
    ]


@pytest.mark.parametrize(
    "text", ['{"a":1e400', '{"a":1e400} {}', "[1e400]", '{"a":1e400,"b\\u0000":1}', '{"a":1e400,}']
)
def test_what_is_wrong_beside_such_a_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each in words of its own
        members(text)


Spelled = tuple[str, str]
"""JSON text with white space anywhere between tokens, and the same without."""

space = st.sampled_from(["", " ", "\n", "\t \r"])
numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
strings = st.builds(lambda text, ascii_only: json.dumps(text, ensure_ascii=ascii_only), texts, st.booleans())
scalars = (numbers | strings | st.sampled_from(["true", "false", "null"])).map(lambda text: (text, text))


def array(items: list[Spelled], gap: str) -> Spelled:
    return f"[{gap}{f'{gap},'.join(loose for loose, _ in items)}{gap}]", f"[{','.join(tight for _, tight in items)}]"


def json_object(items: list[tuple[str, Spelled]], gap: str) -> Spelled:
    loose = f"{gap},{gap}".join(f"{name}{gap}:{gap}{value[0]}" for name, value in items)
    return f"{{{gap}{loose}{gap}}}", "{" + ",".join(f"{name}:{value[1]}" for name, value in items) + "}"


values = st.recursive(
    scalars,
    lambda inner: (
        st.builds(array, st.lists(inner, max_size=3), space)
        | st.builds(json_object, st.lists(st.tuples(strings, inner), max_size=3), space)
    ),
    max_leaves=6,
)


@given(st.lists(st.tuples(strings.filter(lambda text: "\\u0000" not in text), values), max_size=5), space)
def test_any_object_becomes_its_members(items: list[tuple[str, Spelled]], gap: str) -> None:
    expected: dict[str, str | bytes | None] = {}
    for name, (_, tight) in items:
        value = None if tight == "null" else str(json.loads(tight)) if tight[0] == '"' else tight
        expected[json.loads(name)] = None if value is None else value.encode()
    loose, _ = json_object(items, gap)
    assert members(gap + loose + gap) == list(expected.items())


@given(st.lists(st.tuples(strings, values), min_size=1, max_size=3), space, st.data())
def test_any_changed_byte_gives_other_members_or_a_value_error(
    items: list[tuple[str, Spelled]], gap: str, data: st.DataObject
) -> None:
    text = json_object(items, gap)[0].encode()
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + data.draw(st.binary(max_size=2)) + text[at + 1 :]
    with contextlib.suppress(ValueError):
        for name, value in header_members(changed):
            assert isinstance(name, str)
            assert value is None or isinstance(value, bytes)


@given(st.binary(max_size=30))
def test_any_bytes_are_members_or_a_value_error(text: bytes) -> None:
    with contextlib.suppress(ValueError):
        header_members(text)
