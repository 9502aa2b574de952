"""The last ten minutes, for the charts of the status page: they show what preceded an incident.

In: `Counters`, read at each `tick`, every two seconds. Out: columns of numbers, None where nothing is known.
Never: a thread or a timer of its own, memory that grows, anything per event.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from cdc_outbox.counters import LATENCY_BOUNDS, Counters
from cdc_outbox.observe.health import known_lag, slot_figures
from cdc_outbox.observe.topic_table import TopicTable

SAMPLE_SECONDS: Final = 2.0
"""Between two points: the interval at which the page polls."""

SAMPLES: Final = 300
"""Ten minutes: about 50 KB, and what fits in a chart of 300 pixels."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One point. Times in seconds, `at` as of `time.time()`; latencies None when nothing was delivered since the last one."""

    at: float
    rate: float
    """Events delivered a second."""
    lag: float | None
    retained: int | None
    p50: float | None
    p99: float | None


class History:
    """Stores points. One thread calls `tick`, others read."""

    def __init__(
        self,
        counters: Counters,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=SAMPLES)
        self.topics = TopicTable(counters)
        self.started_at = wall()
        self.state_since = self.started_at
        self._state = counters.state
        self._seen_at = monotonic()
        self._published = published(counters)
        self._buckets = counters.latency_buckets.copy()

    def tick(self, now: float) -> None:
        """Take a sample if one is due. `now` is the monotonic clock's, in seconds."""
        elapsed = now - self._seen_at
        if elapsed < SAMPLE_SECONDS:
            return
        counters, wall = self._counters, self._wall()
        self.topics.look(elapsed, wall)
        if counters.state is not self._state:
            self._state, self.state_since = counters.state, wall
        total, buckets = published(counters), counters.latency_buckets.copy()
        fresh = [after - before for after, before in zip(buckets, self._buckets, strict=True)]
        slot = slot_figures(counters, wall)
        self._samples.append(
            Sample(
                at=round(wall, 3),
                rate=round((total - self._published) / elapsed, 2),
                lag=known_lag(counters, wall),
                retained=None if slot is None else slot.retained_wal_bytes,
                p50=quantile(0.5, fresh),
                p99=quantile(0.99, fresh),
            )
        )
        self._seen_at, self._published, self._buckets = now, total, buckets

    def columns(self) -> dict[str, list[float | None]]:
        """All points, oldest first, by the names of their members."""
        samples = list(self._samples)
        return {name: [getattr(sample, name) for sample in samples] for name in Sample.__slots__}


def published(counters: Counters) -> int:
    """Events delivered since the start."""
    return sum(topic.delivered for topic in counters.topics.copy().values())


def quantile(share: float, counts: Sequence[int]) -> float | None:
    """The latency below which `share` of the events were, as Prometheus' histogram_quantile has it. None without events.

    `counts`: events by bucket of `LATENCY_BOUNDS`, the last for all above: of these only the last bound is known.
    """
    upto = list(accumulate(counts))
    if upto[-1] <= 0:
        return None
    rank = share * upto[-1]
    bucket = bisect_left(upto, rank)
    if bucket >= len(LATENCY_BOUNDS):
        return LATENCY_BOUNDS[-1]
    low = LATENCY_BOUNDS[bucket - 1] if bucket else 0.0
    below = upto[bucket] - counts[bucket]
    return round(low + (LATENCY_BOUNDS[bucket] - low) * (rank - below) / counts[bucket], 5)
