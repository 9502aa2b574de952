"""Scenario: an application inserts at a fixed rate, a consumer waits for the records: how late is each, and what does it cost?

In: a contender, rates, numbers of topics. Out: `Steady` for each combination, for the first event after silence, and `Rest`.
Latency is counted from the moment at which the row was to be inserted (open loop) to the moment at which the consumer has the
record. CPU is that of all threads, from the scheduler's own nanoseconds, between the first and the last counted event.
Never: a late insert that hides the ones behind it (no coordinated omission).
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.arrivals import Topics, consume, number_of
from benchmarks.child import Child, Failed, precise_cpu, tree_cpu
from benchmarks.contenders import Contender, Place
from benchmarks.quota import limited
from benchmarks.rig import Rig

WARM_UP_SECONDS: Final = 2.0
"""Of each rate, not counted: connections are made, a JVM compiles, topics become known."""

STALL_SECONDS: Final = 30.0
"""Without a record for this long, the rest will not come."""

SILENCE_SECONDS: Final = 1.0
"""Before each single event at an idle outbox."""

REST_SECONDS: Final = 5.0
"""How long a contender is watched while nothing happens."""

_AT: Final = re.compile(rb'"at": (\d+)')


@dataclass(frozen=True, slots=True)
class Steady:
    """INSERT to consumer, in milliseconds. `rate`: single-row transactions a second; 0: single events after silence."""

    contender: str
    topics: int
    rate: float
    events: int
    p50: float
    p99: float
    max: float
    cpu_microseconds_per_event: float | None
    """All threads of the contender; None for single events."""
    growth: float | None = None
    """The median of the last quarter of the events less that of the first, in milliseconds; None for single events."""


@dataclass(frozen=True, slots=True)
class Rest:
    """What waiting for nothing costs, in percent of a core."""

    contender: str
    cpu_percent: float
    server_cpu_percent: float


class Listener:
    """A consumer at the end of the topics."""

    def __init__(self, brokers: str, topics: Topics) -> None:
        self._consumer = consume(brokers, *topics.names)
        self.seen: set[int] = set()
        self._newest: dict[bytes, int] = {}

    def listen(self, events: int, child: Child, uncounted: int = 0) -> tuple[list[float], float]:
        """Milliseconds from each event's intended insert to now, by number; CPU seconds of `child` after `uncounted` events.

        Raises Failed when the child ends or nothing more comes; AssertionError unless each key's events come in order.
        """
        late: dict[int, float] = {}
        cpu = precise_cpu(child.pid)
        deadline = time.monotonic() + STALL_SECONDS
        while len(late) < events:
            message = self._consumer.poll(1.0)
            now = time.time_ns()
            if message is None:
                child.require_alive()
                if time.monotonic() > deadline:
                    raise Failed(f"{child.name}: {len(late)} events of {events} came:\n{child.errors[-3000:]}")
                continue
            assert not message.error(), message.error()
            deadline = time.monotonic() + STALL_SECONDS
            value, key = message.value() or b"", message.key()
            number, found = number_of(value), _AT.search(value)
            assert found is not None
            assert isinstance(key, bytes)
            if number in self.seen:
                continue
            self.seen.add(number)
            assert number > self._newest.get(key, -1), f"key {key!r} out of order"
            self._newest[key] = number
            late[number] = (now - int(found[1])) / 1e6
            if len(late) == uncounted:
                cpu = precise_cpu(child.pid)
        return [late[number] for number in sorted(late)], precise_cpu(child.pid) - cpu

    def close(self) -> None:
        """End the consumer."""
        self._consumer.close()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one turn goes through."""

    rates: Sequence[float]
    topics: int
    seconds: float
    """At each rate."""
    probes: int
    """Single events after silence."""
    seed: int
    cores: float | None = None
    """The most CPU that the contender may use; None: all there is."""


def steady(rig: Rig, contender: Contender, plan: Plan) -> tuple[list[Steady], Rest]:
    """Run one contender through all rates, then at rest, then with single events after silence."""
    rig.install()
    contender.prepare(rig.run, "public.outbox")
    slot, prefix = rig.next_name()
    topics = Topics(rig.kafka.brokers, prefix, plan.topics)
    if not contender.polls:
        rig.make_slot(slot)
    listener = Listener(rig.kafka.brokers, topics)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder))
            quota = contextlib.ExitStack()  # a group is removed once its process has ended
            with quota, contender.start(place) as child:
                if plan.cores is not None:
                    quota.enter_context(limited(child.pid, plan.cores))
                _write(
                    rig, listener, child, plan, 100, max(0.1, plan.topics / 25)
                )  # until it is up, and knows its topics
                found = [_at_rate(rig, listener, child, contender.name, plan, rate) for rate in plan.rates]
                rest = _rest(rig, child, contender.name)
                single = [_single(rig, listener, child, plan) for _ in range(plan.probes)]
                if single:
                    found.append(summary(contender.name, plan.topics, 0, single, None))
                child.require_alive()
                child.terminate()
    finally:
        listener.close()
        rig.drop_slot(slot)
        topics.delete()
    return found, rest


def _at_rate(rig: Rig, listener: Listener, child: Child, name: str, plan: Plan, rate: float) -> Steady:
    uncounted = int(rate * WARM_UP_SECONDS)
    late, cpu = _write(rig, listener, child, plan, rate, plan.seconds + WARM_UP_SECONDS, uncounted)
    return summary(name, plan.topics, rate, late[uncounted:], cpu)


def _single(rig: Rig, listener: Listener, child: Child, plan: Plan) -> float:
    time.sleep(SILENCE_SECONDS)
    return _write(rig, listener, child, plan, 20, 0.05)[0][0]


def _write(
    rig: Rig, listener: Listener, child: Child, plan: Plan, rate: float, seconds: float, uncounted: int = 0
) -> tuple[list[float], float]:
    """Have the writer write, and listen meanwhile."""
    arguments = [
        *(sys.executable, "-m", "benchmarks.writer", "--rate", str(rate), "--seconds", str(seconds)),
        *("--topics", str(plan.topics), "--seed", str(plan.seed), "--first", str(len(listener.seen))),
    ]
    with Child(arguments, {"BENCH_DSN": rig.dsn}) as writer:
        found = listener.listen(int(rate * seconds), child, uncounted)
        writer.wait(STALL_SECONDS)
    return found


def _rest(rig: Rig, child: Child, name: str) -> Rest:
    time.sleep(SILENCE_SECONDS)
    used, server = precise_cpu(child.pid), tree_cpu(rig.postgres.pid)
    time.sleep(REST_SECONDS)
    return Rest(
        name,
        (precise_cpu(child.pid) - used) / REST_SECONDS * 100,
        (tree_cpu(rig.postgres.pid) - server) / REST_SECONDS * 100,
    )


def summary(name: str, topics: int, rate: float, late: list[float], cpu: float | None) -> Steady:
    """Milliseconds to median, p99 and maximum, and CPU seconds to microseconds per event."""
    ordered = sorted(late)
    each = growth = None
    if cpu is not None:
        each = cpu / len(late) * 1e6
        part = max(1, len(late) // 4)
        growth = _quantile(sorted(late[-part:]), 0.5) - _quantile(sorted(late[:part]), 0.5)
    p50, p99 = _quantile(ordered, 0.5), _quantile(ordered, 0.99)
    return Steady(name, topics, rate, len(late), p50, p99, ordered[-1], each, growth)


def _quantile(ordered: list[float], part: float) -> float:
    """The least value that this part of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * round(part * 100) // 100) - 1)]
