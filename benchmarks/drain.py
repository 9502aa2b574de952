"""Scenario: a backlog waits, a contender starts, and is watched until the last record is at the broker.

In: a backlog, a contender. Out: `Drained`. Verified each time: every id, each key's order, the confirmed position at the end.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

from benchmarks.arrivals import Topic
from benchmarks.child import Child, Failed, tree_cpu
from benchmarks.contenders import Contender, Place
from benchmarks.drained import Drained
from benchmarks.rig import Backlog, Rig

LOOK_SECONDS: Final = 0.1
"""Between two looks at the topic's end: cheap, and no part of the measurement, which takes the broker's own timestamps."""

STALL_SECONDS: Final = 60.0
"""Nothing more at the broker for so long: the rest will not come."""

CONFIRM_SECONDS: Final = 3.0
"""How long is waited for the confirmed position: cdc-outbox needs a tenth, others confirm at their next interval."""

POLLED: Final = "public.polled"
"""The polling worker's table: it takes its rows away, and the others' backlog must stay."""


def drain(rig: Rig, backlog: Backlog, contender: Contender) -> Drained:
    """Let one contender send the backlog. Raises Failed, or AssertionError when what arrived is wrong."""
    slot, prefix, topic = rig.next_turn(backlog.topics)
    if contender.polls:
        copy_table(rig)
        contender.prepare(rig.run, POLLED)
    else:
        rig.copy_slot(slot)
    server = tree_cpu(rig.postgres.pid)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder), POLLED)
            if not contender.polls:
                place = Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder))
            with contender.start(place) as child:
                wait_for(child, topic, backlog.rows)
                confirmed = None if contender.polls else rig.confirmed(slot, backlog.end, CONFIRM_SECONDS)
                code = child.terminate()
                if contender.name.startswith("cdc-outbox"):
                    assert confirmed is not None, "the confirmed position does not follow"
                    assert code == 0, child.errors[-3000:]
                server = tree_cpu(rig.postgres.pid) - server
                return _judge(contender, backlog, topic, child, server, confirmed)
    finally:
        rig.drop_slot(slot)
        topic.delete()


def _judge(
    contender: Contender, backlog: Backlog, topic: Topic, child: Child, server: float, confirmed: float | None
) -> Drained:
    arrival = topic.read(backlog.rows)
    return Drained(
        contender=contender.name,
        per_transaction=backlog.per_transaction,
        topics=backlog.topics,
        rows=backlog.rows,
        rows_per_second=arrival.per_second,
        cpu_microseconds_per_row=child.cpu_between(arrival.first, arrival.last)
        / (arrival.records - arrival.with_first)
        * 1e6,
        cpu_microseconds_per_row_with_start=child.cpu_at(arrival.last) / backlog.rows * 1e6,
        server_cpu_microseconds_per_row=server / backlog.rows * 1e6,
        peak_rss_megabytes=child.peak_rss / 1e6,
        first_record_seconds=arrival.first - child.began,
        sent_twice=arrival.records - arrival.ids,
        confirmed_seconds=confirmed,
    )


def wait_for(child: Child, topic: Topic, records: int) -> None:
    """Wait until the topic has this number of records. Raises Failed when the contender ends, or nothing more comes."""
    seen, deadline = 0, time.monotonic() + STALL_SECONDS
    while (now := topic.count()) < records:
        child.require_alive()
        if now > seen:
            seen, deadline = now, time.monotonic() + STALL_SECONDS
        if time.monotonic() > deadline:
            raise Failed(f"{child.name} stalls at {now} of {records}:\n{child.errors[-3000:]}")
        time.sleep(LOOK_SECONDS)


def copy_table(rig: Rig) -> None:
    """Give the polling worker the backlog's rows in a table of its own."""
    rig.run(f"DROP TABLE IF EXISTS {POLLED}")
    rig.run(f"CREATE TABLE {POLLED} AS SELECT * FROM public.outbox ORDER BY seq")
    rig.run(f"ALTER TABLE {POLLED} ADD PRIMARY KEY (seq)")
    rig.run(f"VACUUM ANALYZE {POLLED}")
