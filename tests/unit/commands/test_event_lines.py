"""A record as a line of JSON."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from cdc_outbox.commands.event_lines import event_line, poison_line
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.lsn import Lsn
from cdc_outbox.records.router import UNASSIGNED, Headers, KafkaRecord

TABLE = "public.outbox"


def line(
    value: bytes | None = b"{}", key: bytes | None = b"42", headers: Headers | None = None, *, timed: bool = True
) -> bytes:
    record = KafkaRecord("outbox.event.order", key, value, headers or [], 1_700_000_000_123, UNASSIGNED)
    return event_line(record, TABLE, Lsn(0x16_B374D848), timed=timed)


def test_every_part_of_the_record_has_its_name() -> None:
    assert json.loads(line(b'{"total":99}', headers=[("id", b"1"), ("type", b"OrderPlaced")])) == {
        "topic": "outbox.event.order",
        "key": "42",
        "headers": {"id": "1", "type": "OrderPlaced"},
        "value": {"total": 99},
        "value_format": "json",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "lsn": "16/B374D848",
        "table": "public.outbox",
    }


@pytest.mark.parametrize(
    ("payload", "shown", "form"),
    [
        (None, None, None),
        (b"null", None, "json"),
        (b'"text"', "text", "json"),
        ("grüße".encode(), "grüße", "text"),
        (b"", "", "text"),
        (b"{broken", "{broken", "text"),
        (b"\x00\xff", "AP8=", "base64"),
    ],
)
def test_each_kind_of_value_is_marked(payload: bytes | None, shown: object, form: str | None) -> None:
    parsed = json.loads(line(payload))
    assert (parsed["value"], parsed["value_format"]) == (shown, form)


def test_a_json_payload_keeps_every_digit_key_and_space() -> None:
    payload = b'{"b": 1.10,  "a": 123456789012345678901234567890, "b": "\\u00fc"}'
    assert payload in line(payload)


def test_a_payload_of_many_lines_is_one_line() -> None:
    printed = line(b'{\r\n  "a": [\n    1\n  ],\n  "text": "two\\nlines"\n}')
    assert printed.count(b"\n") == 1
    assert printed.endswith(b"\n")
    assert json.loads(printed)["value"] == {"a": [1], "text": "two\nlines"}


def test_bytes_that_are_no_text_are_marked() -> None:
    parsed = json.loads(line(key=b"\xff", headers=[("id", b"\xfe"), ("none", None)]))
    assert parsed["key"] == {"base64": "/w=="}
    assert parsed["headers"] == {"id": {"base64": "/g=="}, "none": None}


def test_a_header_that_comes_twice_has_both_values_in_order() -> None:
    parsed = json.loads(line(headers=[("a", b"1"), ("b", b"x"), ("a", None), ("a", b"3")]))
    assert parsed["headers"] == {"a": ["1", None, "3"], "b": "x"}


def test_a_row_of_the_table_does_not_pretend_to_know_its_commit() -> None:
    record = KafkaRecord("t", None, None, [], 0, UNASSIGNED)
    parsed = json.loads(event_line(record, TABLE, None, timed=False))
    assert (parsed["timestamp"], parsed["lsn"]) == (None, None)


def test_an_event_that_is_no_record_has_the_reason() -> None:
    error = PoisonEvent("the event has no id", reason="no-id", table="public.outbox", key="42", id=None)
    assert json.loads(poison_line(error, TABLE, Lsn(1))) == {
        "error": "the event has no id",
        "reason": "no-id",
        "key": "42",
        "lsn": "0/1",
        "table": "public.outbox",
    }


@pytest.mark.parametrize("piece", [b"[],", b'{"a":0},', b'"ab",'])
def test_a_payload_of_millions_of_values_takes_a_few_times_its_size(piece: bytes) -> None:
    payload = b"[" + piece * (300_000 // len(piece)) + b"0]"
    tracemalloc.start()
    try:
        shown = line(payload)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert payload in shown
    assert peak < 6 * len(payload)
