"""What happens in one seed, and when: a pure function of the seed.

In: a number. Out: a `Schedule`: faults with their times, how many relays and writers, and how patient the producer is.
Never: a look at a clock, or at what became of an earlier fault.

Faults of one mapping (one server, one relay, one piece of network) never overlap; at any time at most three faults are on.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

OVERLAPPING: Final = 3
"""Faults at the same time, at most: with more there is nobody left to break anything for."""

SHORTEST_SECONDS: Final = 6.0
LONGEST_SECONDS: Final = 10.0
"""How long faults happen: wal_sender_timeout (3 s here), a restart of Kafka (4 s) and a back-off fit in, some of them twice."""

ALONE_SECONDS: Final = 1.0
"""Before the one fault of `alone`: everything flows."""

DRAWS: Final = 60
"""Tries to place one more fault; what does not fit is dropped."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `seconds`: how long it may last; `takes`: what it needs beyond that, to be over, on a quiet machine."""

    name: str
    weight: int
    seconds: tuple[float, float] = (0.0, 0.0)
    takes: float = 0.0
    choices: tuple[str, ...] = ("",)
    amount: tuple[float, float] = (0.0, 0.0)
    impatient_only: bool = False
    """Only where the producer gives a request up early: else it is a minute until it notices."""

    @property
    def mapping(self) -> str:
        """What it happens to: `relay`, `postgres`, `kafka`, `cluster`, `network.postgres`, `network.kafka`."""
        return self.name.rpartition(".")[0]


_BRIEF: Final = (0.0, 1.5)
_FROZEN: Final = (0.2, 5.0)
"""Below and above wal_sender_timeout: some are noticed, some are not."""

_WAYS: Final = ("both ways", "to server", "to client")

KINDS: Final = (
    Kind("relay.kill", 6, _BRIEF, takes=1.0),
    Kind("relay.term", 4, _BRIEF, takes=1.5),
    Kind("relay.freeze", 4, _FROZEN),
    Kind("postgres.terminate-walsender", 3),
    Kind("postgres.checkpoint", 2),
    Kind("postgres.publish-more", 2, _BRIEF),
    Kind("postgres.restart-fast", 3, (0.0, 1.0), takes=1.0),
    Kind("postgres.restart-immediate", 3, (0.0, 1.0), takes=1.0),
    Kind("postgres.kill", 2, (0.0, 1.0), takes=1.0),
    Kind("kafka.restart", 2, (0.0, 1.5), takes=4.0),
    Kind("kafka.kill", 3, (0.0, 1.5), takes=4.0),
    Kind("kafka.pause", 4, _FROZEN),
    Kind("network.postgres.cut", 3, choices=("reset", "close")),
    Kind("network.postgres.cut-in-message", 3, (0.5, 1.0), choices=_WAYS[1:], amount=(1, 300_000)),
    Kind("network.postgres.refuse", 2, (0.2, 3.0)),
    Kind("network.postgres.freeze", 4, _FROZEN, choices=_WAYS),
    Kind("network.postgres.delay", 2, (1.0, 4.0), amount=(0.005, 0.15)),
    Kind("network.postgres.half-open", 3, choices=("client", "server")),
    Kind("network.postgres.forget", 2, (1.0, 4.0), amount=(0.05, 1.0)),
    Kind("network.kafka.cut", 3, choices=("reset", "close")),
    Kind("network.kafka.cut-in-message", 3, (0.5, 1.0), choices=_WAYS[1:], amount=(1, 300_000)),
    Kind("network.kafka.refuse", 2, (0.2, 3.0)),
    Kind("network.kafka.freeze", 4, _FROZEN, choices=_WAYS),
    Kind("network.kafka.delay", 2, (1.0, 4.0), amount=(0.005, 0.15)),
    Kind("network.kafka.half-open", 3, choices=("client", "server"), impatient_only=True),
    Kind("network.kafka.forget", 2, (1.0, 4.0), amount=(0.05, 1.0), impatient_only=True),
)
"""All faults of a stage with one broker behind a proxy, and how often each is drawn beside the others."""

_NODES: Final = ("1", "2", "3")

CLUSTER_KINDS: Final = (
    *(kind for kind in KINDS if "kafka" not in kind.name),
    Kind("cluster.kill", 8, (0.0, 4.0), takes=6.0, choices=_NODES),
    Kind("cluster.stop", 7, (0.0, 4.0), takes=8.0, choices=_NODES),
    Kind("cluster.freeze", 9, (0.2, 9.0), choices=_NODES),
    Kind("cluster.two-away", 7, (0.0, 3.0), takes=8.0, choices=_NODES),
)
"""The same for a stage with three brokers, each of which is chosen by its number; of `two-away` the one that stays. A frozen
broker is given up by the others after nine seconds."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `at`: seconds from the beginning. `choice`, `amount` (seconds, bytes): how. `relay`: which one."""

    at: float
    kind: Kind
    seconds: float
    choice: str
    amount: float
    relay: int

    @property
    def mapping(self) -> str:
        """What it happens to; relays are mappings of their own."""
        return f"relay {self.relay + 1}" if self.kind.mapping == "relay" else self.kind.mapping

    @property
    def until(self) -> float:
        """When it should be over."""
        return self.at + self.seconds + self.kind.takes

    def __str__(self) -> str:
        amount = {
            "delay": f"{self.amount * 1000:.0f} ms",
            "cut-in-message": f"after {self.amount:.0f} bytes",
            "forget": f"connections idle for {self.amount * 1000:.0f} ms",
        }
        words = (
            self.kind.name,
            f"(relay {self.relay + 1})" if self.kind.mapping == "relay" else "",
            self.choice,
            amount.get(self.kind.name.rpartition(".")[2], ""),
            f"for {self.seconds:.1f} s" if self.kind.seconds[1] else "",
        )
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One seed."""

    seed: int
    seconds: float
    writers: int
    relays: int
    """Two: the second stands by."""
    cold: bool
    """Faults begin with the first start, while rows are there and more come; else once a relay streams."""
    impatient: bool
    """The producer gives a request up after a second, and sends it again: what a broker did not answer in time comes twice."""
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        how = [f"{self.seconds:.1f} s", f"{self.writers} writers", f"{self.relays} relay{'s' * (self.relays > 1)}"]
        how += ["cold start"] * self.cold + ["impatient producer"] * self.impatient
        return ", ".join(how)


def schedule(seed: int, *, three_brokers: bool = False) -> Schedule:
    """What happens in this seed, on one broker or on three."""
    chance = random.Random(f"schedule {seed}{' on three' * three_brokers}")
    seconds = round(chance.uniform(SHORTEST_SECONDS, LONGEST_SECONDS), 1)
    writers = chance.randint(3, 4)
    relays = 2 if chance.random() < 0.3 else 1
    cold = chance.random() < 0.25
    impatient = chance.random() < 0.5
    wanted = chance.randint(2, 9)
    kinds = [kind for kind in (CLUSTER_KINDS if three_brokers else KINDS) if impatient or not kind.impatient_only]
    faults: list[Fault] = []
    for _ in range(DRAWS):
        if len(faults) == wanted:
            break
        fault = _draw(chance, kinds, seconds, relays)
        if fault.at + fault.seconds <= seconds and _fits(fault, faults):
            faults.append(fault)
    faults.sort(key=lambda fault: fault.at)
    return Schedule(seed, seconds, writers, relays, cold, impatient, tuple(faults))


def alone(kind: Kind, number: int) -> Schedule:
    """One fault of this kind and nothing else, as long as it may last: what does it take to recover from it?"""
    chance = random.Random(f"{kind.name} {number}")
    fault = Fault(
        at=ALONE_SECONDS,
        kind=kind,
        seconds=kind.seconds[1],
        choice=kind.choices[number % len(kind.choices)],
        amount=round(chance.uniform(*kind.amount), 3),
        relay=0,
    )
    return Schedule(number, ALONE_SECONDS, 3, 1, cold=False, impatient=kind.impatient_only, faults=(fault,))


def _draw(chance: random.Random, kinds: list[Kind], seconds: float, relays: int) -> Fault:
    kind = chance.choices(kinds, [kind.weight for kind in kinds])[0]
    return Fault(
        at=round(chance.uniform(0.2, seconds), 2),
        kind=kind,
        seconds=round(chance.uniform(*kind.seconds), 2),
        choice=chance.choice(kind.choices),
        amount=round(chance.uniform(*kind.amount), 3),
        relay=chance.randrange(relays),
    )


def _fits(fault: Fault, others: list[Fault]) -> bool:
    beside = [other for other in others if other.at <= fault.until and fault.at <= other.until]
    if any(other.mapping == fault.mapping for other in beside):
        return False
    moments = [fault.at, *(other.at for other in beside if other.at >= fault.at)]
    return all(sum(other.at <= moment <= other.until for other in beside) < OVERLAPPING for moment in moments)
