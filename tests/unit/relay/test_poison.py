"""The policy for events that can never be delivered, and the dead letter, whatever is known of the event."""

from __future__ import annotations

import pytest

from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.records.events import OutboxEvent
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.relay.poison import ENVELOPE_BYTES, PoisonPolicy, RejectedRecord, shrink_dead_letter

EVENT = OutboxEvent(b"e1", b"k", b"Placed", b"s3cret payload", b'{"a":1}', None, None, (b"order",), ())
RECORD = KafkaRecord("orders", b"k", b"s3cret payload", [("id", b"e1"), ("a", b"1")], 5, 3)
TABLE = "public.outbox"
POISON = PoisonEvent("the headers are no JSON object", reason="bad-headers")


def rejected(record: KafkaRecord | None = RECORD, event: OutboxEvent = EVENT, lsn: Lsn = Lsn(200)) -> RejectedRecord:  # noqa: B008
    return RejectedRecord(TABLE, event, record, Transaction(7, lsn))


def policy(words: str, counters: Counters | None = None, *, limit: int = 1_000_000) -> PoisonPolicy:
    return PoisonPolicy(words, "letters", limit, counters or Counters())


def letter_of(about: RejectedRecord, *, limit: int = 1_000_000) -> KafkaRecord:
    letter = policy("dead-letter", limit=limit).apply(POISON, about)
    assert letter is not None
    return letter


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (POISON, PoisonEvent),
        (ConfigurationError("topic orders does not exist", cure="create it"), ConfigurationError),
        (AccessRefused("not allowed to write to orders", cure="an ACL"), AccessRefused),
    ],
)
def test_stop_raises_the_error_with_all_that_is_known_of_the_event(
    error: CdcOutboxError, kind: type[CdcOutboxError]
) -> None:
    with pytest.raises(kind) as raised:
        policy("stop").apply(error, rejected())
    told = raised.value
    assert told.message == error.message
    assert told.where | {"reason": None} == {
        "reason": None,
        "table": "public.outbox",
        "id": "e1",
        "type": "Placed",
        "key": "k",
        "topic": "orders",
        "lsn": "0/C8",
    }
    assert error.cure in told.cure
    assert "--on-poison skip" in told.cure
    assert "--dead-letter-topic" in told.cure
    assert "s3cret" not in repr((vars(told), told.args))


def test_what_is_not_known_is_left_out() -> None:
    nothing = OutboxEvent(None, None, None, None, None, None, None, (), ())
    with pytest.raises(PoisonEvent) as raised:
        policy("stop").apply(POISON, rejected(None, nothing, UNSET))
    assert raised.value.where == {"reason": "bad-headers", "table": "public.outbox"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (POISON, "bad-headers"),
        (PoisonEvent("…"), "undeliverable"),
    ],
)
def test_what_is_left_out_is_counted_by_reason(error: CdcOutboxError, reason: str) -> None:
    counters = Counters()
    for _ in range(2):
        assert policy("skip", counters).apply(error, rejected()) is None
    assert policy("dead-letter", counters).apply(error, rejected()) is not None
    assert (counters.skipped, counters.dead_lettered) == ({reason: 2}, {reason: 1})


def test_a_dead_letter_about_a_record_has_its_headers() -> None:
    letter = letter_of(rejected())
    assert (letter.topic, letter.key, letter.value) == ("letters", b"k", b"s3cret payload")
    assert (letter.timestamp, letter.partition) == (7, -1)
    assert letter.headers == [
        ("id", b"e1"),
        ("a", b"1"),
        ("outbox.error.reason", b"bad-headers"),
        ("outbox.error.message", b"the headers are no JSON object"),
        ("outbox.source.table", b"public.outbox"),
        ("outbox.source.lsn", b"0/C8"),
        ("outbox.original.topic", b"orders"),
    ]
    assert RECORD.headers == [("id", b"e1"), ("a", b"1")]


def test_an_event_for_the_topic_of_the_dead_letters_becomes_a_dead_letter() -> None:
    about = rejected()
    assert about.record is not None
    event = about._replace(record=about.record._replace(topic="letters"))
    letter = letter_of(event)
    assert letter.topic == "letters"
    with pytest.raises(PoisonEvent):
        policy("dead-letter").apply(POISON, about._replace(record=letter))


def test_a_dead_letter_about_an_event_that_never_became_a_record_has_what_the_row_has() -> None:
    headers = dict(letter_of(rejected(None)).headers)
    assert (headers["id"], headers["type"], headers["outbox.headers"]) == (b"e1", b"Placed", b'{"a":1}')
    assert "outbox.original.topic" not in headers


def test_a_payload_that_does_not_fit_is_replaced_by_its_size() -> None:
    size = 100_000
    event = EVENT._replace(payload=b"x" * size)
    assert letter_of(rejected(event=event), limit=size + ENVELOPE_BYTES).value == event.payload
    letter = letter_of(rejected(event=event), limit=size + ENVELOPE_BYTES - 1)
    assert letter.value is None
    assert dict(letter.headers)["outbox.payload.bytes"] == b"100000"


def test_the_envelope_has_its_bounds_whatever_the_event_is() -> None:
    event = EVENT._replace(headers=b"h" * 1_000_000)
    error = PoisonEvent("w" * 1_000_000)
    letter = policy("dead-letter").apply(error, rejected(None, event))
    assert letter is not None
    assert sum(len(name) + len(value or b"") for name, value in letter.headers) < ENVELOPE_BYTES


def test_a_dead_letter_shrinks_by_its_payload_then_by_the_events_headers_and_keeps_id_and_key() -> None:
    first = shrink_dead_letter(letter_of(rejected()))
    assert first is not None
    assert (first.value, first.headers[-1]) == (None, ("outbox.payload.bytes", b"14"))
    assert ("a", b"1") in first.headers
    second = shrink_dead_letter(first)
    assert second is not None
    assert (second.key, second.headers) == (b"k", [header for header in first.headers if header[0] != "a"])
    assert shrink_dead_letter(second) is None


def test_an_event_that_comes_again_is_counted_and_logged_once() -> None:
    """A search for another rejected record, or a reconnect, brings it again."""
    counters = Counters()
    skip = PoisonPolicy("skip", None, 1_000_000, counters)
    for about in (rejected(), rejected(), rejected(lsn=Lsn(300)), rejected(event=EVENT._replace(id=b"e2"))):
        assert skip.apply(POISON, about) is None
    assert counters.skipped == {"bad-headers": 3}


def test_no_dead_letter_is_made_about_a_dead_letter() -> None:
    letter = letter_of(rejected())
    with pytest.raises(PoisonEvent):
        policy("dead-letter").apply(POISON, rejected(letter))


@pytest.mark.parametrize("topic", ["", "a b", "x" * 250, ".", "dead.{aggregatetype}"])
def test_a_topic_for_dead_letters_that_is_none_is_refused_at_start(topic: str) -> None:
    """A template is none: an event may be poison since its topic cannot be made."""
    with pytest.raises(ConfigurationError):
        PoisonPolicy("dead-letter", topic, 1_000_000, Counters())


def test_without_dead_letters_their_topic_does_not_matter() -> None:
    assert not PoisonPolicy("skip", "a b", 1_000_000, Counters()).stops
    assert PoisonPolicy("stop", None, 1_000_000, Counters()).stops
