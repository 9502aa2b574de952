"""The content of a logical message becomes the event that a row would be, or says what it lacks."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config.librdkafka import MESSAGE_MAX_BYTES
from cdc_outbox.config.settings import Columns
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.records.events import OutboxEvent
from cdc_outbox.records.logical_messages import MessagePlan

PLAN = MessagePlan("outbox", Columns(), ("aggregatetype",), (), MESSAGE_MAX_BYTES)

HEAD = b'{"id":"7","aggregatetype":"order","aggregateid":"42","type":"Placed"'


def read(content: bytes, plan: MessagePlan = PLAN) -> OutboxEvent:
    event, error = plan.read(content)
    assert error is None, error
    return event


def reason(content: bytes, plan: MessagePlan = PLAN) -> object:
    _, error = plan.read(content)
    assert error is not None
    return error.where["reason"]


@pytest.mark.parametrize(
    ("rest", "payload"),
    [
        (b"}\n{}", b"{}"),
        (b"} \t\r\n{}", b"{}"),
        (b"}\n", b""),
        (b"}\n\n", b"\n"),
        (b"}\n a\n\nb ", b" a\n\nb "),
        (b"}\n\x00\xff", b"\x00\xff"),
        (b',"n":1}\n\x00\xff\n', b"\x00\xff\n"),
        (b',"payload":null}', None),
        (b',"payload":null}\n', None),
        (b',"payload":"text \\u00fc\\n"}', "text ü\n".encode()),
        (b',"payload":""}', b""),
        (b',"payload": { "a" : 1.10 } }', b'{ "a" : 1.10 }'),
        (b',"payload":{"a":\n 1.10}}\n', b'{"a":\n 1.10}'),
        (b',"payload":[1, 2]}', b"[1, 2]"),
        (b',"payload":12345678901234567890}', b"12345678901234567890"),
        (b',"payload":true}', b"true"),
        (b',\n "n": {"a": 1}\n}\n{"b": 2}', b'{"b": 2}'),
        (b',\n "n": "a"\n} \r\n\xff', b"\xff"),
    ],
)
def test_the_payload_is_what_follows_a_newline_else_the_member_verbatim(rest: bytes, payload: bytes | None) -> None:
    event = read(HEAD + rest)
    assert event == OutboxEvent(b"7", b"42", b"Placed", payload, None, None, None, (b"order",), (None, None))


def test_members_are_strings_or_the_json_text_that_was_written() -> None:
    columns = Columns(timestamp="at", partition="part")
    plan = MessagePlan("p", columns, ("a", "b"), (HeaderColumn("tenant", "x-tenant"),), MESSAGE_MAX_BYTES)
    content = (
        b'{"id":1.10,"aggregateid":null,"type":true,"a":"\\ud83d\\ude00","b":5,"headers":{"h": [1]},"at":"2026","part":3,'
        b'"tenant":{"t": 1},"traceparent":"00-ab"}\n{}'
    )
    assert read(content, plan) == OutboxEvent(
        b"1.10",
        None,
        b"true",
        b"{}",
        b'{"h": [1]}',
        b"2026",
        b"3",
        ("😀".encode(), b"5"),
        (b'{"t": 1}', b"00-ab", None),
    )
    assert plan.extra_names == ("x-tenant", "traceparent", "tracestate")
    assert plan.table == "message:p"


def test_the_first_of_several_names_that_is_there_counts() -> None:
    plan = MessagePlan("p", Columns(id=("event_id", "id"), payload=("body", "payload")), (), (), MESSAGE_MAX_BYTES)
    content = b'{"id":"old","event_id":"new","aggregateid":null,"type":null,"payload":"old","body":"new"}'
    assert read(content, plan)[:4] == (b"new", None, None, b"new")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"null",
        b"[1]",
        b'"text"',
        HEAD,
        HEAD + b"} {}",
        HEAD + b"}}\n{}",
        HEAD + b",}\n{}",
        HEAD + b',"a":NaN}\n{}',
        HEAD + b',"a":"\xff"}\n{}',
        HEAD + b',"a":"\\ud800"}\n{}',
        HEAD + b',"\\u0000":1}\n{}',
        HEAD + b',"payload":{}}\n{}',
    ],
)
def test_what_is_no_object_or_has_two_payloads_is_poison_and_kept_for_the_dead_letter(content: bytes) -> None:
    event, error = PLAN.read(content)
    assert error is not None
    assert error.where == {"reason": "bad-message", "table": "message:outbox"}
    assert event.payload in {content, b"{}"}
    assert len(str(error)) < 300


@pytest.mark.parametrize("name", ["id", "aggregatetype", "aggregateid", "type"])
def test_a_member_that_an_event_needs_may_be_null_but_not_missing(name: str) -> None:
    members = {**json.loads(HEAD + b"}"), name: None}
    read(json.dumps(members).encode() + b"\n{}")
    del members[name]
    assert reason(json.dumps(members).encode() + b"\n{}") == "missing-member"


def test_a_message_without_a_payload_is_no_tombstone() -> None:
    assert reason(HEAD + b"}") == "missing-member"


@given(st.binary(max_size=40), st.booleans())
def test_any_bytes_behind_the_newline_are_the_payload(payload: bytes, spread: bool) -> None:
    head = HEAD.replace(b",", b",\n") if spread else HEAD
    assert read(head + b"}\n" + payload).payload == payload


@given(st.binary(max_size=60))
def test_any_bytes_are_an_event_or_poison(content: bytes) -> None:
    PLAN.read(content)


@given(st.lists(st.sampled_from(['{"a":', "[", "1.10", "null", '"ü\\""', "]", "}", ",", " ", "\t"]), max_size=8))
def test_any_json_as_payload_is_verbatim_and_what_is_none_is_poison(pieces: list[str]) -> None:
    text = "".join(pieces)
    event, error = PLAN.read(HEAD + b',"payload":' + text.encode() + b"}")
    try:
        value = json.loads(text)
    except ValueError:
        assert error is not None
    else:
        assert error is None
        assert event.payload == (
            None if value is None else value.encode() if isinstance(value, str) else text.strip().encode()
        )


def test_nesting_of_any_depth_is_stepped_over() -> None:
    nested = b"[" * 100_000 + b"]" * 100_000
    assert read(HEAD + b',"a":' + nested + b"}\n{}").payload == b"{}"
    assert read(HEAD + b',"payload":' + nested + b"}").payload == nested


@pytest.mark.parametrize("spread", [False, True])
def test_an_object_that_is_larger_than_a_record_is_refused_before_it_is_parsed(spread: bool) -> None:
    plan = MessagePlan("outbox", Columns(), ("aggregatetype",), (), 1000)
    content = HEAD + (b",\n" if spread else b",") + b'"a":"' + b"x" * 1000 + b'"}\n{}'
    event, error = plan.read(content)
    assert error is not None
    assert error.where["reason"] == "msg-size-too-large"
    assert error.where["limit"] == 1000
    assert (event.id, event.payload) == (None, content)


def test_a_payload_behind_the_newline_of_any_size_is_read() -> None:
    """Whether Kafka takes it is known when the record is made; the id and the key are known then."""
    plan = MessagePlan("outbox", Columns(), ("aggregatetype",), (), 1000)
    event = read(HEAD + b"}\n" + b"x" * 5000, plan)
    assert (event.id, event.key, len(event.payload or b"")) == (b"7", b"42", 5000)
