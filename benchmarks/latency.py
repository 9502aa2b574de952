"""Scenario: an application inserts at a fixed rate, a consumer waits for the records: how late is each?

In: a contender, rates. Out: `Latency` for each rate, for the first event after silence, and what it costs to wait for nothing.
Counted from the moment at which the row was to be inserted (open loop), to the moment at which the consumer has the record.
Never: a slow answer that hides the ones behind it: a late insert counts as late (no coordinated omission).
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.arrivals import consume, number_of
from benchmarks.child import Child, precise_cpu, tree_cpu
from benchmarks.contenders import Contender, Place
from benchmarks.rig import Rig

WARM_UP_SECONDS: Final = 2.0
"""Of each rate, not counted: connections are made, a JVM compiles."""

STALL_SECONDS: Final = 30.0
"""No record for so long: the rest will not come."""

SILENCE_SECONDS: Final = 1.0
"""Before each single event at an idle outbox."""

REST_SECONDS: Final = 5.0
"""How long a contender is watched while nothing happens."""

_AT: Final = re.compile(rb'"at": (\d+)')


@dataclass(frozen=True, slots=True)
class Latency:
    """INSERT to consumer, in milliseconds. `rate`: single-row transactions a second; 0: single events after silence."""

    contender: str
    rate: float
    events: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Rest:
    """What waiting for nothing costs, in percent of a core."""

    contender: str
    cpu_percent: float
    server_cpu_percent: float


class Listener:
    """A consumer at the end of a topic."""

    def __init__(self, brokers: str, topic: str) -> None:
        self._consumer = consume(brokers, topic)
        self.seen: set[int] = set()
        self._newest: dict[bytes, int] = {}

    def listen(self, events: int) -> list[float]:
        """Milliseconds from each event's intended insert to now, by number; every id once, each key's in order."""
        late: dict[int, float] = {}
        deadline = time.monotonic() + STALL_SECONDS
        while len(late) < events:
            message = self._consumer.poll(1.0)
            now = time.monotonic_ns()
            if message is None:
                assert time.monotonic() < deadline, f"{len(late)} events of {events} came"
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
        return [late[number] for number in sorted(late)]

    def close(self) -> None:
        """Let go."""
        self._consumer.close()


def latency(
    rig: Rig, contender: Contender, rates: Sequence[float], seconds: float, probes: int, seed: int
) -> tuple[list[Latency], Rest]:
    """Run one contender through all rates, then at rest, then with single events after silence."""
    rig.install()
    if contender.polls:
        rig.run("ALTER TABLE public.outbox ADD COLUMN sent_at timestamptz")
        rig.run("CREATE INDEX ON public.outbox (seq) WHERE sent_at IS NULL")
    slot, prefix, topic = rig.next_turn()
    if not contender.polls:
        rig.make_slot(slot)
    listener = Listener(rig.kafka.brokers, topic.name)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Place(rig.dsn, rig.kafka.brokers, slot, prefix, Path(folder))
            with contender.start(place) as child:
                _write(rig, listener, 100, 0.1, seed, 0)  # until it is up
                found = [_at_rate(rig, listener, contender.name, rate, seconds, seed) for rate in rates]
                rest = _rest(rig, child, contender.name)
                single = [_write(rig, listener, 20, 0.05, seed, _silence(listener))[0] for _ in range(probes)]
                found.append(summary(contender.name, 0, single))
                child.require_alive()
                child.terminate()
    finally:
        listener.close()
        rig.drop_slot(slot)
        topic.delete()
    return found, rest


def _at_rate(rig: Rig, listener: Listener, name: str, rate: float, seconds: float, seed: int) -> Latency:
    late = _write(rig, listener, rate, seconds + WARM_UP_SECONDS, seed, len(listener.seen))
    return summary(name, rate, late[int(rate * WARM_UP_SECONDS) :])


def _write(rig: Rig, listener: Listener, rate: float, seconds: float, seed: int, first: int) -> list[float]:
    """Have the writer write, and listen meanwhile."""
    arguments = [
        *(sys.executable, "-m", "benchmarks.writer", "--rate", str(rate), "--seconds", str(seconds)),
        *("--seed", str(seed), "--first", str(first)),
    ]
    with Child(arguments, {"BENCH_DSN": rig.dsn}) as writer:
        late = listener.listen(int(rate * seconds))
        writer.wait(STALL_SECONDS)
    return late


def _silence(listener: Listener) -> int:
    time.sleep(SILENCE_SECONDS)
    return len(listener.seen)


def _rest(rig: Rig, child: Child, name: str) -> Rest:
    time.sleep(SILENCE_SECONDS)
    used, server = precise_cpu(child.pid), tree_cpu(rig.postgres.pid)
    time.sleep(REST_SECONDS)
    return Rest(
        name,
        (precise_cpu(child.pid) - used) / REST_SECONDS * 100,
        (tree_cpu(rig.postgres.pid) - server) / REST_SECONDS * 100,
    )


def summary(name: str, rate: float, late: list[float]) -> Latency:
    """Milliseconds to median, p99 and maximum."""
    ordered = sorted(late)
    return Latency(name, rate, len(late), _quantile(ordered, 0.5), _quantile(ordered, 0.99), ordered[-1])


def _quantile(ordered: list[float], part: float) -> float:
    """The least value that this part of all do not exceed."""
    return ordered[max(0, -(-len(ordered) * round(part * 100) // 100) - 1)]
