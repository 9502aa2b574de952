"""What `emit` takes for an event, and what it makes of it. No database: captured, not written."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
import types
import typing
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.app import Event, Outbox, OutboxUsageError, capture, emit, emit_many

ORDER: dict[str, Any] = {"aggregate_type": "order", "aggregate_id": "42", "type": "OrderPlaced", "payload": {}}


def emitted(**event: Any) -> Event:
    with capture(write=False) as events:
        emit(None, **{**ORDER, **event})
    (one,) = events
    return one


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ({"total": 99.5, "items": [1, None, True]}, '{"total":99.5,"items":[1,null,true]}'),
        ([], "[]"),
        ({"ü": "\n"}, '{"ü":"\\n"}'),
        (types.MappingProxyType({"a": 1}), '{"a":1}'),
        (collections.OrderedDict(b=1, a=2), '{"b":1,"a":2}'),
        ('{ "a":  1 }', '{ "a":  1 }'),
        (b'{ "a":  1 }', '{ "a":  1 }'),
        ("", ""),
        (None, None),
    ],
)
def test_a_payload_becomes_compact_json_or_stays_as_it_is(payload: Any, text: str | None) -> None:
    assert emitted(payload=payload).payload == text
    assert emitted(payload=payload, payload_type="bytea").payload == (None if text is None else text.encode())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_any_json_document_comes_out_as_it_went_in(document: dict[str, Any]) -> None:
    event = emitted(payload=document)

    assert event.json() == document
    assert event.payload == json.dumps(document, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        ({"at": dt.timedelta(1)}, "timedelta has no JSON form"),
        ({"total": math.nan}, "Out of range float"),
        ({"total": decimal.Decimal("NaN")}, "not a JSON number"),
        ({"a": b"x"}, "bytes has no JSON form"),
        ({("a", 1): 2}, "name is a str"),
        (5, "not int"),
        (object(), "not object"),
        ({"a"}, "not set"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_value_that_is_not_json_is_refused_with_the_reason(payload: Any, said: str) -> None:
    with pytest.raises(OutboxUsageError, match=said):
        emitted(payload=payload)


MOMENT = dt.datetime(2026, 11, 29, 8, 30, tzinfo=dt.UTC)
KEY = uuid.UUID(int=7)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    sku: uuid.UUID
    price: decimal.Decimal


class Size(enum.Enum):
    SMALL = "s"


class Point(typing.NamedTuple):
    x: int
    y: int


class Attrs:
    """As attrs makes its classes: it is recognised by this attribute."""

    __attrs_attrs__ = (types.SimpleNamespace(name="a"), types.SimpleNamespace(name="b"))
    a, b = 1, (2, 3)


class Model:
    """As pydantic's are recognised."""

    def model_dump_json(self) -> str:
        return '{"a":1}'

    def model_dump(self, mode: str) -> dict[str, Any]:
        assert mode == "json"
        return {"a": 1}


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (Line(KEY, decimal.Decimal("9.90")), f'{{"sku":"{KEY}","price":9.90}}'),
        ({"lines": [Line(KEY, decimal.Decimal("1E+3"))]}, f'{{"lines":[{{"sku":"{KEY}","price":1E+3}}]}}'),
        ({"n": decimal.Decimal("12345678901234567890.123456789")}, '{"n":12345678901234567890.123456789}'),
        ({"n": 2**200}, f'{{"n":{2**200}}}'),
        ({"at": MOMENT, "day": MOMENT.date()}, '{"at":"2026-11-29T08:30:00+00:00","day":"2026-11-29"}'),
        ({"size": Size.SMALL, Size.SMALL: 1, KEY: 2, 5: 3}, f'{{"size":"s","s":1,"{KEY}":2,"5":3}}'),
        ((1, "a", None), '[1,"a",null]'),
        (Point(1, 2), "[1,2]"),
        (Attrs(), '{"a":1,"b":[2,3]}'),
        (Model(), '{"a":1}'),
        ({"model": Model()}, '{"model":{"a":1}}'),
        ([decimal.Decimal("0.10"), decimal.Decimal("0.10")], "[0.10,0.10]"),
    ],
)
def test_a_payload_of_python_objects_becomes_json_with_every_digit(payload: Any, text: str) -> None:
    assert emitted(payload=payload).payload == text


def test_default_and_encoder_serve_what_has_no_json_here() -> None:
    assert emitted(payload={"tags": {"b"}}, default=sorted).payload == '{"tags":["b"]}'
    assert emitted(payload=object(), default=lambda _: {"a": 1}).payload == '{"a":1}'
    assert emitted(payload=object(), encoder=lambda _: b"\x00\xff", payload_type="bytea").payload == b"\x00\xff"
    with pytest.raises(OutboxUsageError, match="encoder= must return"):
        emitted(payload={}, encoder=lambda _: 5)


def test_header_values_become_their_text() -> None:
    given = {
        "s": "a",
        "i": 5,
        "u": KEY,
        "b": True,
        "d": decimal.Decimal("1.50"),
        "e": Size.SMALL,
        "t": MOMENT,
        "n": None,
    }
    text = ["a", "5", str(KEY), "true", "1.50", "s", "2026-11-29T08:30:00+00:00", None]
    assert list(emitted(headers=given).headers.values()) == text


def test_an_id_of_the_callers_is_kept() -> None:
    assert emitted(id=KEY).id == emitted(id=str(KEY)).id == KEY


def test_many_events_keep_their_order_and_a_wrong_one_is_named_by_its_place() -> None:
    with capture(write=False) as events:
        ids = emit_many(None, [{**ORDER, "aggregate_id": number} for number in range(3)])

    assert [event.aggregate_id for event in events] == ["0", "1", "2"]
    assert ids == [event.id for event in events]
    with capture(write=False) as events, pytest.raises(OutboxUsageError, match=r"event 1: .*type"):
        emit_many(None, [ORDER, {**ORDER, "type": ""}])
    assert events == []


def test_a_misspelt_part_is_refused() -> None:
    with capture(write=False), pytest.raises(OutboxUsageError, match="agregate_id"):
        emit_many(None, [{**ORDER, "agregate_id": 5}])


@pytest.mark.parametrize("columns", ["other", {"key": "x"}, {"id": "a:b"}, {"id": ""}])
def test_columns_that_cannot_be_named_so_are_refused(columns: Any) -> None:
    with pytest.raises(OutboxUsageError):
        Outbox(columns=columns)


def test_bytes_that_are_no_text_are_for_a_bytea() -> None:
    assert emitted(payload=b"\x00\xff", payload_type="bytea").payload == b"\x00\xff"


@pytest.mark.parametrize(
    ("given_id", "text"),
    [(42, "42"), ("42", "42"), ("", ""), (None, None), (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001")],
)
def test_an_aggregate_id_is_text(given_id: Any, text: str | None) -> None:
    assert emitted(aggregate_id=given_id).aggregate_id == text


class Plan(str, enum.Enum):  # noqa: UP042 - as they were written before there was StrEnum
    GOLD = "gold"


class Shop(int, enum.Enum):
    BERLIN = 7


def test_a_member_of_an_enum_is_its_value_and_not_its_name() -> None:
    event = emitted(aggregate_type=Plan.GOLD, aggregate_id=Plan.GOLD, type=Plan.GOLD, headers={"plan": Plan.GOLD})

    assert [event.aggregate_type, event.aggregate_id, event.type, event.headers["plan"]] == ["gold"] * 4
    assert {type(text) for text in (event.aggregate_type, event.aggregate_id, event.type)} == {str}
    assert emitted(aggregate_id=Shop.BERLIN).aggregate_id == "7"


NO_TEXT = {
    "a NUL": ("a\0b", r"NUL \(U\+0000\) at character 1"),
    "half a pair": ("ab\ud800", "surrogate .* at character 2"),
}


@pytest.mark.parametrize("text", NO_TEXT)
@pytest.mark.parametrize(
    "event",
    [
        lambda text: {"aggregate_type": text},
        lambda text: {"aggregate_id": text},
        lambda text: {"type": text},
        lambda text: {"payload": text},
        lambda text: {"payload": text, "payload_type": "text"},
        lambda text: {"headers": {"a": text}},
        lambda text: {"headers": {text: "a"}},
    ],
)
def test_what_no_database_takes_for_text_is_refused_with_its_place(event: Any, text: str) -> None:
    wrong, said = NO_TEXT[text]
    with pytest.raises(OutboxUsageError, match=said):
        emitted(**event(wrong))


def test_in_json_a_nul_is_escaped_and_half_a_pair_is_refused() -> None:
    assert emitted(payload={"a": "\0"}).payload == r'{"a":"\u0000"}'
    assert emitted(payload="\0", payload_type="bytea").payload == b"\0"
    for payload_type in ("json", "bytea"):
        with pytest.raises(OutboxUsageError, match="surrogate"):
            emitted(payload={"a": "\ud800"}, payload_type=payload_type)


def test_a_document_without_end_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(OutboxUsageError, match="cannot be made JSON"):
        emitted(payload=deep)


@pytest.mark.parametrize(
    "wrong",
    [
        {"aggregate_type": ""},
        {"aggregate_type": None},
        {"type": ""},
        {"type": 5},
        {"id": "not-a-uuid"},
        {"id": 5},
        {"columns": ["tenant"]},
        {"aggregate_id": 1.5},
        {"aggregate_id": True},
        {"headers": {5: "a"}},
        {"headers": {"a": b"x"}},
        {"headers": [("a", "b")]},
        {"headers": "a"},
        {"headers": []},
        {"aggregate_id": 10**5000},
        {"payload_type": "xml"},
        {"table": ""},
        {"table": None},
        {"table": "a.b.c"},
        {"table": "out box"},
        {"table": "outbox."},
        {"table": ".outbox"},
        {"table": '"outbox'},
        {"table": "outbox; DROP TABLE orders"},
        {"table": '"100%s"'},
        {"table": '"a:b"'},
        {"table": "x\0y"},
    ],
)
def test_what_is_no_event_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(OutboxUsageError):
        emitted(**wrong)


def test_headers_are_copied() -> None:
    headers: dict[str, str | None] = {"tenant": "acme", "nothing": None}
    event = emitted(headers=headers)
    headers["tenant"] = "other"

    assert event.headers == {"tenant": "acme", "nothing": None}
    assert emitted(headers={}).headers == emitted(headers=None).headers == {}


def test_a_tombstone_has_no_json() -> None:
    with pytest.raises(TypeError, match="tombstone"):
        emitted(payload=None).json()
