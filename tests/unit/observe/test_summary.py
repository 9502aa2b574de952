"""The line a minute."""

from __future__ import annotations

from cdc_outbox.counters import Counters, State, TopicCounters
from cdc_outbox.observe.summary import Summary

from .conftest import Lines


class Clock:
    now = 500.0

    def __call__(self) -> float:
        return self.now


def summary_of(counters: Counters, clock: Clock) -> Summary:
    return Summary(counters, monotonic=clock, wall=lambda: 1000.0)


def test_one_line_a_minute_has_the_rate_since_the_last(json_lines: Lines) -> None:
    clock = Clock()
    counters = Counters(
        state=State.STREAMING, topics={"a": TopicCounters(delivered=40), "b": TopicCounters(delivered=2)}
    )
    summary = summary_of(counters, clock)
    for _ in range(125):
        clock.now += 1
        counters.topics["a"].delivered += 5
        summary.tick(clock.now)

    first, second = json_lines()
    assert (first["event"], first["level"], first["state"]) == ("summary", "info", "streaming")
    assert (first["events_per_second"], first["events_published"]) == (5.0, 342)
    assert (second["events_per_second"], second["events_published"]) == (5.0, 642)


def test_the_line_has_state_rate_and_positions(json_lines: Lines) -> None:
    counters = Counters(
        oldest_unacknowledged_timestamp=997.5, in_flight_events=9, confirmed_lsn=0x16B3748, received_lsn=0x16B3800
    )
    clock = Clock()
    summary = summary_of(counters, clock)
    clock.now += 60
    summary.tick(clock.now)

    [line] = json_lines()
    assert line["lag_seconds"] == 2.5
    assert line["in_flight_events"] == 9
    assert (line["confirmed_lsn"], line["received_lsn"]) == ("0/16B3748", "0/16B3800")


def test_nothing_before_a_minute_is_over(json_lines: Lines) -> None:
    clock = Clock()
    summary = summary_of(Counters(), clock)
    summary.tick(clock.now + 59.9)

    assert json_lines() == []


def test_a_line_on_demand_comes_at_once_and_does_not_move_the_next(json_lines: Lines) -> None:
    clock = Clock()
    counters = Counters(topics={"a": TopicCounters()})
    summary = summary_of(counters, clock)
    clock.now += 30
    counters.topics["a"].delivered = 60
    summary.log_now()
    clock.now += 30
    summary.tick(clock.now)

    asked, regular = json_lines()
    assert asked["events_per_second"] == 2.0
    assert regular["events_per_second"] == 0.0


def test_a_line_in_the_same_instant_divides_by_nothing(json_lines: Lines) -> None:
    summary = summary_of(Counters(), Clock())
    summary.log_now()

    assert json_lines()[0]["events_per_second"] == 0.0
