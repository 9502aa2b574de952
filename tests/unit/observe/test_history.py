"""Ten minutes of a relay, in little memory, with gaps where nothing was known."""

from __future__ import annotations

import pytest

from cdc_outbox.counters import LATENCY_BOUNDS, Counters, SlotCounters, State, TopicCounters
from cdc_outbox.observe.history import SAMPLE_SECONDS, SAMPLES, History, quantile


def history_of(counters: Counters) -> History:
    return History(counters, monotonic=lambda: 100.0, wall=lambda: 1000.0)


def test_a_point_has_the_rate_since_the_one_before() -> None:
    counters = Counters(topics={"orders": TopicCounters(delivered=1000)})
    history = history_of(counters)
    counters.topics["orders"].delivered += 50
    counters.topics["bills"] = TopicCounters(delivered=30)
    history.tick(104.0)
    history.tick(106.0)

    assert history.columns()["rate"] == [20.0, 0.0]


def test_points_are_taken_every_two_seconds_however_often_tick_is_called() -> None:
    history = history_of(Counters())
    for quarter in range(41):
        history.tick(100.0 + quarter / 4)

    assert len(history.columns()["at"]) == 10.0 / SAMPLE_SECONDS


def test_what_is_not_known_is_a_gap_and_not_a_0() -> None:
    counters = Counters(state=State.STANDBY, postgres_connected=True)
    history = history_of(counters)
    history.tick(102.0)

    assert {name: column[0] for name, column in history.columns().items()} == {
        "at": 1000.0, "rate": 0.0, "lag": None, "retained": None, "p50": None, "p99": None,
    }  # fmt: skip


def test_lag_latency_and_the_slot_are_as_they_are_at_that_moment() -> None:
    counters = Counters(state=State.STREAMING, postgres_connected=True, oldest_unacknowledged_timestamp=997.5)
    counters.slot = SlotCounters(True, "reserved", 500, 200, 400, None, seen_timestamp=990.0)
    history = history_of(counters)
    counters.latency_buckets[0] += 10
    history.tick(102.0)
    history.tick(104.0)

    columns = history.columns()
    assert (columns["lag"], columns["retained"]) == ([2.5, 2.5], [300, 300])
    assert (columns["p50"], columns["p99"]) == ([0.0005, None], [0.00099, None])


def test_the_oldest_points_go() -> None:
    history = history_of(Counters())
    for number in range(SAMPLES + 50):
        history.tick(102.0 + number * SAMPLE_SECONDS)

    assert all(len(column) == SAMPLES for column in history.columns().values())


@pytest.mark.parametrize(
    ("share", "counts", "expected"),
    [
        (0.5, {3: 10}, 0.0075),
        (0.5, {0: 1, 2: 1}, 0.001),
        (0.99, {0: 98, 5: 2}, 0.0375),
        (0.5, {len(LATENCY_BOUNDS): 1}, 60.0),
        (0.5, {}, None),
    ],
)
def test_a_quantile_is_found_within_its_bucket(share: float, counts: dict[int, int], expected: float | None) -> None:
    assert quantile(share, [counts.get(bucket, 0) for bucket in range(len(LATENCY_BOUNDS) + 1)]) == expected
