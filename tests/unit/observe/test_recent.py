"""The last warnings: few, different, newest first."""

from __future__ import annotations

from cdc_outbox.observe.recent import KEPT, RecentWarnings


def line(event: str, level: str = "warning", **fields: object) -> dict[str, object]:
    return {"timestamp": "2026-01-05T09:30:00Z", "level": level, "event": event, **fields}


def test_warnings_and_errors_are_kept_and_nothing_else() -> None:
    recent = RecentWarnings()
    recent.note(line("streaming", "info"))
    recent.note(line("waiting", error="no answer", cure="wait"))
    recent.note(line("stopped", "error"))
    recent.note(line("library", message="a warning of librdkafka", logger="confluent_kafka"))

    assert [(each.event, each.error, each.cure) for each in recent.newest_first()] == [
        ("library", "a warning of librdkafka", ""),
        ("stopped", "", ""),
        ("waiting", "no answer", "wait"),
    ]


def test_equal_ones_are_one_with_how_often_it_came_the_suppressed_included() -> None:
    recent = RecentWarnings()
    recent.note(line("waiting", error="no answer"))
    recent.note(line("kafka.unreachable", error="refused"))
    recent.note({**line("waiting", error="no answer", suppressed=7), "timestamp": "2026-01-05T09:31:00Z"})

    assert [(each.event, each.times, each.timestamp) for each in recent.newest_first()] == [
        ("waiting", 9, "2026-01-05T09:31:00Z"),
        ("kafka.unreachable", 1, "2026-01-05T09:30:00Z"),
    ]


def test_no_key_of_an_event_is_kept() -> None:
    recent = RecentWarnings()
    recent.note(line("poison", error="no id", key="customer-4711", id="1", table="public.outbox"))

    assert "customer-4711" not in str(recent.newest_first())


def test_warnings_that_all_differ_do_not_fill_the_memory() -> None:
    recent = RecentWarnings()
    for number in range(10 * KEPT):
        recent.note(line("waiting", error=f"attempt {number}"))

    kept = recent.newest_first()
    assert len(kept) == KEPT
    assert kept[0].error == f"attempt {10 * KEPT - 1}"
