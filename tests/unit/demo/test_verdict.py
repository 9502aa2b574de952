"""The demo's verdict: every way in which a promise can be broken is found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc_outbox.demo.tally import Event, Tally, digest_of
from cdc_outbox.demo.text import after
from cdc_outbox.demo.verdict import in_words, judge

PLACED = Event("1", "outbox.event.order", "7", "OrderPlaced", digest_of(b"{}"))
PAID = Event("2", "outbox.event.order", "7", "OrderPaid", digest_of(b"{}"))
OTHER = Event("3", "outbox.event.order", "8", "OrderPlaced", digest_of(b"{}"))
DECLINED = Event("4", "outbox.event.order", "9", "OrderPlaced", digest_of(b"{}"))


def tally(*received: Event) -> Tally:
    """PLACED, PAID and OTHER are committed, in this order; DECLINED is rolled back."""
    books = Tally()
    books.note_commit([PLACED])
    books.note_commit([PAID, OTHER])
    books.note_rollback([DECLINED])
    for event in received:
        books.note_arrival(event)
    return books


def test_all_in_order_is_good() -> None:
    verdict = judge(tally(PLACED, PAID, OTHER))
    assert verdict.good
    assert (verdict.committed, verdict.rolled_back, verdict.duplicates) == (3, 1, 0)


def test_order_between_keys_is_not_promised() -> None:
    assert judge(tally(OTHER, PLACED, PAID)).good


def test_duplicates_are_counted_and_forgiven_wherever_they_come() -> None:
    verdict = judge(tally(PLACED, PAID, PLACED, OTHER, PAID, PLACED))
    assert verdict.good
    assert verdict.duplicates == 3


@pytest.mark.parametrize(
    ("received", "broken"),
    [
        ([PLACED, PAID], "lost"),
        ([], "lost"),
        ([PAID, PLACED, OTHER], "out_of_order"),
        ([PLACED, PAID, OTHER, DECLINED], "leaked"),
        ([PLACED, PAID, OTHER, replace(OTHER, id="5")], "unknown"),
        ([PLACED, PAID, replace(OTHER, digest=digest_of(b"[]"))], "altered"),
        ([PLACED, PAID, replace(OTHER, topic="outbox.event.user")], "altered"),
        ([PLACED, PAID, replace(OTHER, key="9")], "altered"),
        ([PLACED, PAID, replace(OTHER, type="")], "altered"),
        ([PLACED, PAID, OTHER, replace(OTHER, type="")], "altered"),
    ],
)
def test_each_broken_promise_is_seen(received: list[Event], broken: str) -> None:
    verdict = judge(tally(*received))
    assert not verdict.good
    assert getattr(verdict, broken) >= 1
    assert "VERDICT: BAD" in after(verdict)


def test_nothing_committed_proves_nothing() -> None:
    assert not judge(Tally()).good


def test_the_words_have_the_numbers() -> None:
    words = "\n".join(in_words(judge(tally(PLACED, PAID, PLACED, DECLINED, replace(OTHER, id="5")))))
    for name, number in (
        ("committed", 3),
        ("lost", 1),
        ("duplicates", 1),
        ("rolled back", 1),
        ("and seen", 1),
        ("unknown", 1),
    ):
        assert f"{number}   " in words.partition(name)[2].splitlines()[0]


def test_undelivered_rows_are_reported_with_their_age() -> None:
    books = tally(PLACED)
    assert (books.waiting, books.delivered, books.duplicates) == (2, 1, 0)
    assert books.oldest_waiting() > 0
    books.note_arrival(OTHER)
    books.note_arrival(PAID)
    books.note_arrival(PAID)
    assert (books.waiting, books.delivered, books.duplicates) == (0, 3, 1)
    assert books.oldest_waiting() == 0


def test_an_event_that_arrives_before_its_writer_has_noted_it_leaves_no_negative_number() -> None:
    books = Tally()
    books.note_arrival(PLACED)
    assert books.waiting == 0
