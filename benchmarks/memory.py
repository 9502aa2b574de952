"""Scenario: memory over time, through an outage of Kafka while the backlog grows, and the catching up after it.

In: a contender, a number of rows. Out: `Memory`: RSS over time and its peak in each phase. Verified: every id, order per key.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.contenders import Contender, Place
from benchmarks.drain import wait_for
from benchmarks.rig import Rig

FIRST_ROWS: Final = 10
"""Relayed before the outage: the contender is up."""

POINTS: Final = 200
"""Of the curve, at most."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes of RSS."""

    contender: str
    rows: int
    idle: float
    """Before the outage."""
    outage: float
    """The peak while Kafka is down."""
    catching_up: float
    """The peak after it."""
    curve: tuple[tuple[float, float], ...]
    """(seconds since the outage began, megabytes)."""


def memory(rig: Rig, contender: Contender, rows: int, payload_bytes: int, outage_seconds: float, seed: int) -> Memory:
    """Take Kafka away, write `rows`, wait, give it back, wait until all is there."""
    rig.install()
    slot, prefix, topic = rig.next_turn()
    rig.make_slot(slot)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contender.start(Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder))) as child,
        ):
            rig.fill(FIRST_ROWS, 10, payload_bytes, seed)
            wait_for(child, topic, FIRST_ROWS)
            down = time.time()
            rig.kafka.stop()
            until = time.monotonic() + outage_seconds
            rig.fill(rows, 10, payload_bytes, seed, first=FIRST_ROWS)
            time.sleep(max(0.0, until - time.monotonic()))
            child.require_alive()
            up = time.time()
            rig.kafka.start()
            wait_for(child, topic, rows + FIRST_ROWS)
            child.terminate()
            samples = [(sample.at, sample.rss / 1e6) for sample in child.samples]
        topic.read(rows + FIRST_ROWS)
    finally:
        rig.drop_slot(slot)
        topic.delete()
    step = max(1, len(samples) // POINTS)
    return Memory(
        contender.name,
        rows,
        max(rss for at, rss in samples if at < down),
        max(rss for at, rss in samples if down <= at < up),
        max(rss for at, rss in samples if at >= up),
        tuple((round(at - down, 2), round(rss, 1)) for at, rss in samples[::step]),
    )
