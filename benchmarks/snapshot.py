"""Scenario: a first start over a table that has rows already.

In: a contender that reads a snapshot, rows. Out: `Snapshot`, beside what the server needs to hand over the same table (COPY).
Verified: every id, and each key's order.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks.contenders import Contender, Place
from benchmarks.drain import wait_for
from benchmarks.rig import Rig


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One first start."""

    contender: str
    rows: int
    rows_per_second: float
    cpu_microseconds_per_row: float
    peak_rss_megabytes: float
    first_record_seconds: float


def copy(rig: Rig, rows: int) -> Snapshot:
    """The yardstick: COPY … TO STDOUT, thrown away as it comes."""
    with psycopg.connect(rig.dsn) as connection, connection.cursor() as cursor:
        began, used = time.monotonic(), time.process_time()
        with cursor.copy("COPY (SELECT * FROM public.outbox ORDER BY seq) TO STDOUT") as stream:
            for _ in stream:
                pass
        elapsed, cpu = time.monotonic() - began, time.process_time() - used
    return Snapshot("COPY", rows, rows / elapsed, cpu / rows * 1e6, 0.0, 0.0)


def snapshot(rig: Rig, contender: Contender, rows: int) -> Snapshot:
    """Start without a slot, and wait until all rows are there."""
    slot, prefix, topic = rig.next_turn()
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contender.start(Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder)), snapshot=True) as child,
        ):
            wait_for(child, topic, rows)
            child.terminate()
            arrival = topic.read(rows)
            return Snapshot(
                contender.name,
                rows,
                arrival.per_second,
                child.cpu_between(arrival.first, arrival.last) / (arrival.records - arrival.with_first) * 1e6,
                child.peak_rss / 1e6,
                arrival.first - child.began,
            )
    finally:
        rig.drop_slot(slot)
        topic.delete()
