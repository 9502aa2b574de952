"""One oracle for all load and fault tests: what was committed, in which order, against what a consumer has seen.

The truth comes from neither the relay nor the writers: a second slot of another plugin (test_decoding) tells which rows were
committed, in commit order; the writers tell which were rolled back.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import pytest

from tests.plugins.outbox import event_id, insert

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    import psycopg

    from tests.plugins.kafka import Record
    from tests.plugins.postgres import Database

SLOT: Final = "witness"


class Event(NamedTuple):
    """One event, by its identity and its key."""

    id: str
    key: str


class Transaction(NamedTuple):
    """Events that were committed together. `end_lsn`: where their commit record ends; who confirms that has delivered them."""

    end_lsn: int
    events: tuple[Event, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """Where records differ from what was committed."""

    ghosts: list[Event]
    """Rolled back, and sent."""
    lost: list[Event]
    """Committed, and not sent."""
    strangers: list[Event]
    """Sent, and never written, or under another key."""
    disorder: dict[str, tuple[str, str]]
    """By key, where it leaves commit order: the id whose turn it was, and the one that came."""
    duplicates: int
    """The same event more than once: allowed, and counted."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is allowed, counted: the same event more than once."""

    events: int
    duplicates: int


def judge(
    committed: Sequence[Event],
    records: Iterable[Record],
    *,
    rolled_back: Collection[str] = (),
    last_counts: bool = False,
) -> Verdict:
    """Hold the records against what was committed, in commit order. AssertionError unless

    every committed event was consumed; nothing else was, no rolled-back event above all; and the events of each key
    come in commit order once duplicates are dropped. The first of an id counts, or (after a batch that the broker
    refused) the last.
    """
    found = examine(committed, records, rolled_back=rolled_back, last_counts=last_counts)
    assert not found.ghosts, f"{len(found.ghosts)} rolled-back events were sent: {found.ghosts[:3]}"
    assert not found.lost, f"{len(found.lost)} of {len(committed)} committed events are lost: {found.lost[:3]}"
    assert not found.strangers, f"{len(found.strangers)} events were never committed: {found.strangers[:3]}"
    for key, (wanted, came) in found.disorder.items():
        raise AssertionError(f"key {key!r} is out of commit order from {wanted} on, where {came} came")
    return Verdict(len(committed), found.duplicates)


def examine(
    committed: Sequence[Event],
    records: Iterable[Record],
    *,
    rolled_back: Collection[str] = (),
    last_counts: bool = False,
) -> Findings:
    """All that `judge` would object to."""
    consumed = [Event(event_id(record), (record.key or b"").decode()) for record in records]
    regretted, once = set(rolled_back), set(consumed)
    kept = dict.fromkeys(consumed[::-1] if last_counts else consumed)
    got = _by_key(reversed(kept) if last_counts else kept)
    wanted = _by_key(event for event in committed if event in once)
    known = {event.id for event in committed}
    disorder = {}
    for key, ids in wanted.items():
        came = [id_ for id_ in got[key] if id_ in known]
        wrong = [pair for pair in zip(ids, came, strict=True) if pair[0] != pair[1]]
        if wrong:
            disorder[key] = wrong[0]
    return Findings(
        ghosts=[event for event in kept if event.id in regretted],
        lost=[event for event in committed if event not in once],
        strangers=sorted(once - set(committed)),
        disorder=disorder,
        duplicates=len(consumed) - len(kept),
    )


def _by_key(events: Iterable[Event]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = defaultdict(list)
    for event in events:
        keys[event.key].append(event.id)
    return keys


class Witness:
    """Sees every insert that is committed from now on."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: list[Transaction] = []
        database.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')")

    def committed(self) -> list[Event]:
        """Committed events, in commit order, from the beginning."""
        return [event for transaction in self.transactions() for event in transaction.events]

    def transactions(self) -> list[Transaction]:
        """Committed transactions that have events, in commit order, from the beginning."""
        query = f"SELECT lsn - '0/0', data FROM pg_logical_slot_get_changes('{SLOT}', NULL, NULL)"
        events: list[Event] = []
        for lsn, line in self._database.execute(query):
            if found := _INSERT.match(line):
                events.append(Event(*found.groups()))
            elif line.startswith("COMMIT") and events:
                self._seen.append(Transaction(int(lsn), tuple(events)))
                events = []
        return list(self._seen)

    def commit_times(self) -> list[int]:
        """When the transactions were committed that nobody has asked about yet, in milliseconds since 1970."""
        query = f"SELECT data FROM pg_logical_slot_get_changes('{SLOT}', NULL, NULL, 'include-timestamp', 'on')"
        found = [_COMMIT.fullmatch(line) for (line,) in self._database.execute(query)]
        moments = [datetime.fromisoformat(match[1]) for match in found if match]
        return [(moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1) for moment in moments]


_COMMIT: Final = re.compile(r"COMMIT \d+ \(at (.*)\)")
_INSERT: Final = re.compile(r"table \S+: INSERT: .*?\bid\[uuid\]:'([0-9a-f-]{36})'.*?\baggregateid\[text\]:'([^']*)'")


class Writers:
    """Threads that write into `table` at the same time: transactions that overlap, of one to five events over a few keys,
    some with a savepoint rolled back inside, some rolled back as a whole. Each writes at most `rate` transactions a second.
    """

    def __init__(
        self, database: Database, *, threads: int = 3, keys: int = 20, rate: float = 200.0, own_keys: bool = False
    ) -> None:
        """Begin to write. `stop()` at the end, or a `with` block.

        `own_keys`: no two writers share a key, so for a key the order of inserts is the order of commits.
        """
        self._database = database
        self._own_keys = own_keys
        self._keys = [f"key-{number}" for number in range(keys)]
        self._pause = 1.0 / rate
        self._enough = threading.Event()
        self.rolled_back: list[str] = []
        self.committed = 0
        """Events, for progress only: the witness knows better."""
        self._pool = ThreadPoolExecutor(threads)
        self._work = [self._pool.submit(self._write_on, seed) for seed in range(threads)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End, with every transaction finished. Raises what a writer met."""
        self._enough.set()
        self._pool.shutdown()
        for each in self._work:
            each.result()

    def _write_on(self, seed: int) -> None:
        chance = random.Random(seed)  # the mix is the same each time; how the threads interleave is not
        with self._database.connect(autocommit=False) as connection:
            while not self._enough.wait(self._pause):
                kept = [self._write(connection, chance, seed) for _ in range(chance.randint(1, 5))]
                if chance.random() < 0.1:
                    connection.execute("SAVEPOINT regret")
                    self.rolled_back.append(self._write(connection, chance, seed))
                    connection.execute("ROLLBACK TO regret")
                if chance.random() < 0.1:
                    self.rolled_back += kept
                    connection.rollback()
                else:
                    connection.commit()
                    self.committed += len(kept)

    def _write(self, connection: psycopg.Connection[Any], chance: random.Random, writer: int) -> str:
        key = chance.choice(self._keys) + (f"-{writer}" if self._own_keys else "")
        # ids of random bytes, and not from `chance`: two runs of one test must not write the same
        return insert(connection, "outbox", {"id": str(uuid.uuid4()), "aggregateid": key})


@pytest.fixture
def witness(database: Database) -> Witness:
    """A witness of everything that is committed from here on."""
    return Witness(database)


@pytest.fixture
def writers(database: Database) -> Iterator[Callable[..., Writers]]:
    """Starts writers into table `outbox`: `with writers(threads=4, rate=50) as load: …`."""
    with contextlib.ExitStack() as started:
        yield lambda **options: started.enter_context(Writers(database, **options))
