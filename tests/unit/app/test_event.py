"""What `emit` takes for an event, and what it makes of it. No database: captured, not written."""

from __future__ import annotations

import collections
import datetime as dt
import enum
import json
import math
import types
import uuid
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.app import Event, OutboxUsageError, capture, emit

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
        ({"at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)}, "datetime is not JSON serializable"),
        ({"total": math.nan}, "Out of range float"),
        (5, "not int"),
        (object(), "not object"),
        ({"a"}, "not set"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_what_cannot_be_json_is_refused_with_the_reason(payload: Any, said: str) -> None:
    with pytest.raises(OutboxUsageError, match=said):
        emitted(payload=payload)


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
def test_what_no_database_takes_for_text_is_refused_and_where_it_stands_is_said(event: Any, text: str) -> None:
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
        {"aggregate_id": 1.5},
        {"aggregate_id": True},
        {"headers": {"a": 5}},
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
