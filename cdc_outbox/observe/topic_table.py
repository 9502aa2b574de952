"""The table of topics on the status page: number of events, rate, and time of the last delivery.

In: `Counters`, read every two seconds with the history. Out: a row for each topic, the busiest first.
Never: anything per event. A delivery has the time of the read that detected it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from cdc_outbox.counters import Counters


@dataclass(frozen=True, slots=True)
class TopicRow:
    """A topic. `rate` in events a second since the last look; `last_delivery` as of `time.time()`."""

    topic: str
    rate: float
    delivered: int
    delivered_bytes: int
    last_delivery: float | None
    errors: int
    """Failed delivery reports."""


class TopicTable:
    """The topics. One thread updates, others read."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._rows: dict[str, TopicRow] = {}

    def look(self, elapsed: float, now: float) -> None:
        """Read the counters. `elapsed`: seconds since the last read, `now` as of `time.time()`."""
        errors: dict[str, int] = {}
        for (topic, _), count in self._counters.delivery_errors.copy().items():
            errors[topic] = errors.get(topic, 0) + count
        rows = {}
        counts = self._counters.topics.copy()
        for topic in {**counts, **errors}:
            known, before = counts.get(topic), self._rows.get(topic)
            delivered = known.delivered if known else 0
            fresh = delivered - (before.delivered if before else 0)
            last = now if fresh else before.last_delivery if before else None
            size = known.delivered_bytes if known else 0
            rows[topic] = TopicRow(topic, round(fresh / elapsed, 1), delivered, size, last, errors.get(topic, 0))
        self._rows = rows

    def rows(self) -> list[dict[str, object]]:
        """As JSON is to have them."""
        return [asdict(row) for row in sorted(self._rows.values(), key=lambda row: (-row.delivered, row.topic))]
