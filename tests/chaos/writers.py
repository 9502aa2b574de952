"""Writers that never pause: threads that go on through restarts of the server, and know what became of each row.

In: a database, a seed. Out: what was surely committed, what was surely not, and what the server alone knows.
Never: a row written twice. A transaction whose COMMIT got no answer is not repeated: whether it took effect, the witness tells.

Most keys belong to one writer, who numbers their rows: their order is known without asking the server. Some keys are written
by all. Every key has one topic, since between topics there is no order.
"""

from __future__ import annotations

import json
import random
import threading
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

import psycopg

if TYPE_CHECKING:
    from tests.plugins.postgres import Database, Row

AGGREGATE_TYPES: Final = ("order", "payment", "customer")
"""Three topics."""

OWN_KEYS: Final = 12
"""Keys of each writer, so about fifty in all with the shared ones."""

SHARED_KEYS: Final = 6

THINK_SECONDS: Final = 0.012
"""Mean pause between two transactions of one writer, which leaves the relay its share of the machine. The others write
meanwhile: what never pauses is the stream of commits."""

HESITATION_SECONDS: Final = 0.03
"""The longest pause inside a transaction: commits then come in another order than the rows."""

RECONNECT_SECONDS: Final = 0.05
"""Between two attempts while the server is down."""

PADS: Final = ("", "x" * 200, "ä" * 900, "y" * 20_000)
"""What makes a payload longer; the last is stored out of line (TOAST)."""

PAD_WEIGHTS: Final = (60, 30, 9, 1)

_INSERT: Final = """
INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)
SELECT id, aggregatetype, aggregateid, 'Changed', payload::json
  FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[]) AS wanted (id, aggregatetype, aggregateid, payload)
"""
_BUSINESS: Final = "INSERT INTO business (writer, note) VALUES (%s, repeat('n', 300))"
"""WAL that is none of the relay's business."""


@dataclass(frozen=True, slots=True)
class Written:
    """A row that was inserted. `number`: among the rows of its key, for a key that has one writer; else 0."""

    id: str
    aggregate_type: str
    key: str
    payload: str
    number: int


class Writer:
    """One thread. What it knows may be read once it has stopped."""

    def __init__(
        self, database: Database, seed: int, number: int, stop: threading.Event, share: threading.Event
    ) -> None:
        self.written: dict[str, Written] = {}
        self.committed: set[str] = set()
        """COMMIT was answered."""
        self.rolled_back: set[str] = set()
        """By us, or since the connection broke before COMMIT was sent."""
        self.unknown: set[str] = set()
        """COMMIT was sent, and no answer came."""
        self.error: BaseException | None = None
        self._database = database
        self._number = number
        self._chance = random.Random(f"writer {seed} {number}")
        self._stop = stop
        self._share = share
        self._counters: dict[str, int] = {}
        self._thread = threading.Thread(target=self._work, name=f"writer {number}", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for its end. Raises what it met, if that was no lost connection."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"{self._thread.name} has not ended within {seconds:g} s"
        if self.error is not None:
            raise self.error

    def _work(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with psycopg.connect(self._database.dsn, connect_timeout=5) as connection:
                        while not self._stop.wait(self._chance.expovariate(1 / THINK_SECONDS)):
                            self._transaction(connection)
                except psycopg.OperationalError:  # the server is down or was just now; its other errors are ours
                    self._stop.wait(RECONNECT_SECONDS)
        except BaseException as error:  # noqa: BLE001  (join raises it)
            self.error = error

    def _transaction(self, connection: psycopg.Connection[Row]) -> None:
        chance = self._chance
        kept: set[str] = set()
        try:
            if chance.random() < 0.3:
                connection.execute(_BUSINESS, [self._number])
            for _ in range(chance.choice((1, 1, 2, 3))):
                kept |= self._rows(connection)
                if chance.random() < 0.2:
                    connection.execute("SAVEPOINT regret")
                    regretted = self._rows(connection)
                    if chance.random() < 0.5:
                        connection.execute("ROLLBACK TO regret")
                        self.rolled_back |= regretted
                    else:
                        kept |= regretted
                if chance.random() < 0.1:
                    self._stop.wait(chance.uniform(0, HESITATION_SECONDS))
        except psycopg.OperationalError:
            self.rolled_back |= set(self.written) - self.committed - self.unknown
            raise
        if chance.random() < 0.1:
            self.rolled_back |= kept
            connection.rollback()
            return
        self._commit(connection, kept)

    def _commit(self, connection: psycopg.Connection[Row], kept: set[str]) -> None:
        self.unknown |= kept
        connection.commit()
        self.unknown -= kept
        self.committed |= kept

    def _rows(self, connection: psycopg.Connection[Row]) -> set[str]:
        """Insert a few rows with one statement."""
        rows = [self._row() for _ in range(min(16, 1 + int(self._chance.expovariate(1 / 3))))]
        self.written.update((row.id, row) for row in rows)
        columns = [[getattr(row, name) for row in rows] for name in ("id", "aggregate_type", "key", "payload")]
        connection.execute(_INSERT, columns)
        return {row.id for row in rows}

    def _row(self) -> Written:
        chance = self._chance
        if self._share.is_set() and chance.random() < 0.15:
            place = chance.randrange(SHARED_KEYS)
            key, number = f"shared-{place}", 0
        else:
            place = chance.randrange(OWN_KEYS)
            key = f"writer-{self._number}-{place}"
            number = self._counters[key] = self._counters.get(key, 0) + 1
        payload = json.dumps(
            {"writer": self._number, "n": number, "pad": chance.choices(PADS, PAD_WEIGHTS)[0]}, ensure_ascii=False
        )
        # ids of random bytes, and not from `chance`: two runs of one seed must not write the same
        return Written(str(uuid.uuid4()), AGGREGATE_TYPES[place % len(AGGREGATE_TYPES)], key, payload, number)


class Writers:
    """All of them. `share`: from when on all may write to the shared keys."""

    def __init__(self, database: Database, seed: int, count: int) -> None:
        self.share = threading.Event()
        self._stop = threading.Event()
        self.all = [Writer(database, seed, number, self._stop, self.share) for number in range(count)]

    def __enter__(self) -> Self:
        for writer in self.all:
            writer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()

    def stop(self) -> None:
        """End, each after the transaction it is in. Raises what a writer met."""
        self._stop.set()
        for writer in self.all:
            writer.join(30.0)

    @property
    def written(self) -> dict[str, Written]:
        """All rows that were ever inserted, by id."""
        return {id_: row for writer in self.all for id_, row in writer.written.items()}

    @property
    def committed(self) -> set[str]:
        """Surely committed."""
        return set().union(*(writer.committed for writer in self.all))

    @property
    def rolled_back(self) -> set[str]:
        """Surely not."""
        return set().union(*(writer.rolled_back for writer in self.all))
