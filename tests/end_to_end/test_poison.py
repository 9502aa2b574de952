"""An event that can never be a record stops the relay: all before it is delivered and confirmed, nothing behind it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.plugins.outbox import ended, ids, no_slot_left

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

POISON: list[tuple[str, dict[str, Any], str]] = [
    ("a space in the topic", {"aggregatetype": "my order"}, "bad-topic"),
    ("no topic", {"aggregatetype": None}, "bad-topic"),
    ("no id", {"id": None}, "no-id"),
    ("headers that are an array", {"headers": "[1]"}, "bad-headers"),
    ("a header name with a NUL", {"headers": r'{"a\u0000b": "1"}'}, "bad-headers"),
]


@pytest.mark.parametrize(("columns", "reason"), [row[1:] for row in POISON], ids=[row[0] for row in POISON])
def test_poison_stops_the_relay_where_it_is(outbox: Outbox, columns: dict[str, Any], reason: str) -> None:
    outbox.create()
    outbox.create_slot()
    before = outbox.add_all([{}, {}])
    reached = outbox.current_lsn()
    outbox.add(**{"aggregateid": "the-rejected-one", "payload": '"hush-hush"', **columns})
    behind = outbox.current_lsn()
    outbox.add()
    relay = outbox.relay()
    last = ended(relay, 65, "the-rejected-one", "public.outbox", "--on-poison")
    assert last["reason"] == reason
    assert "hush-hush" not in relay.stderr_text
    assert ids(outbox.records()) == before
    assert outbox.confirmed_past(reached)
    assert not outbox.confirmed_past(behind)


def test_it_stops_again_until_the_cause_is_removed_and_sends_nothing_twice_meanwhile(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    before = outbox.add()
    outbox.add(headers="[1]")
    for _ in range(2):
        ended(outbox.relay(), 65, "headers")
    assert ids(outbox.records()) == [before]


def test_poison_in_the_middle_of_a_transaction_confirms_nothing_of_it(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    first, _, _ = outbox.add_all([{}, {"aggregatetype": "no/topic"}, {}])
    ended(outbox.relay(), 65, "no/topic")
    assert ids(outbox.records()) == [first]
    assert not outbox.confirmed_past(outbox.current_lsn())


def test_poison_among_the_rows_of_a_first_start_leaves_no_slot(outbox: Outbox) -> None:
    outbox.create()
    outbox.add_all([{}, {"headers": "[1]"}, {}])
    ended(outbox.relay(), 65, "headers")
    no_slot_left(outbox)


def test_a_payload_that_is_larger_than_kafka_takes(outbox: Outbox) -> None:
    outbox.create(payload="text")
    outbox.create_slot()
    before = outbox.add()
    reached = outbox.current_lsn()
    outbox.add(payload="x" * 2_000_000, aggregateid="the-rejected-one")
    last = ended(outbox.relay(), 65, "the-rejected-one", f"{outbox.prefix}order", "too large")
    assert last["size"] == 2_000_000
    assert ids(outbox.records()) == [before]
    assert outbox.confirmed_past(reached)


HALF_SURROGATE: Final = '{"a":1e400,"\\ud800":1}'
"""A number beyond a double leads around the parser that refuses the name; librdkafka would end the process."""


@pytest.mark.parametrize("way", ["row", "first start", "message", "span context"])
def test_a_name_of_a_header_that_is_no_text_is_poison_and_does_not_end_the_process(outbox: Outbox, way: str) -> None:
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox ALTER headers TYPE json USING NULL, ADD tracingspancontext text")
    if way != "first start":
        outbox.create_slot()
    before = outbox.add()
    if way == "message":
        content = (
            '{"id":"x","aggregatetype":"order","aggregateid":"k","type":"T","payload":"p","headers":'
            + HALF_SURROGATE
            + "}"
        )
        outbox.database.execute("SELECT pg_logical_emit_message(true, 'outbox', %s)", [content])
    elif way == "span context":
        outbox.add(tracingspancontext="a\\ud800=x")
    else:
        outbox.add(headers=HALF_SURROGATE)
    after = outbox.add()
    options = ("--span-context-column", "tracingspancontext", "--source", "both")
    relay = outbox.relay("--until", "caught-up", "--on-poison", "skip", *options)
    assert relay.wait() == 0, relay.stderr_text
    assert ids(outbox.records()) == [before, after]
    assert "bad-headers" in relay.stderr_text or "bad-message" in relay.stderr_text


@pytest.mark.parametrize("kind", ["json", "jsonb", "text"])
def test_headers_of_null_and_of_an_empty_array_are_no_headers(outbox: Outbox, kind: str) -> None:
    """Object mappers write null for "none", PHP an empty array."""
    outbox.create()
    outbox.database.execute(f"ALTER TABLE outbox ALTER headers TYPE {kind} USING NULL")
    outbox.create_slot()
    sent = [outbox.add(headers=headers) for headers in ("null", "[]", "[ ]", "{}", None)]
    relay = outbox.relay("--until", "caught-up")
    assert relay.wait() == 0, relay.stderr_text
    assert ids(outbox.records()) == sent
    assert [len(record.headers) for record in outbox.records()] == [2] * 5
