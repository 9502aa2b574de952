"""The servers of a run, and what is put into them: an outbox, a backlog, slots that have it all before them.

In: sizes and a seed. Out: a PostgreSQL and a Kafka on this machine, which end with the `with`.
Never: another server than its own: figures of a shared one have no meaning.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import psycopg
from confluent_kafka import Producer

from benchmarks.arrivals import Topic
from cdc_outbox.commands.install import InstallOptions, render_install
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.servers.kafka import Kafka

KEYS: Final = 10_000
"""Aggregates that the events are about."""

MASTER_SLOT: Final = "bench_backlog"
"""Stays before the backlog; each reader gets a copy of it."""

DROP_PAUSE_SECONDS: Final = 0.1
"""Between two attempts to drop a slot: its walsender notices the end of a relay within some milliseconds."""

CONFIRM_PAUSE_SECONDS: Final = 0.02
"""Between two looks at a slot's confirmed position."""

PRODUCER_ID_SECONDS: Final = 20.0
"""For a new broker to take its first record: two seconds at most, measured."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows that wait in the WAL behind `MASTER_SLOT`."""

    rows: int
    per_transaction: int
    payload_bytes: int
    end: int
    """LSN behind the last commit."""
    topics: int = 1
    """How many topics the rows go to, in turns."""


class Rig:
    """Both servers. Topics and slots are numbered, so that no turn finds what another left."""

    def __init__(self, postgres: EmbeddedPostgres, kafka: Kafka) -> None:
        self.postgres = postgres
        self.kafka = kafka
        self._turn = 0

    @property
    def dsn(self) -> str:
        """Of the superuser."""
        return self.postgres.dsn

    def next_name(self) -> tuple[str, str]:
        """A slot's name, and a topic template's beginning."""
        self._turn += 1
        return f"bench_{self._turn}", f"bench{self._turn}"

    def next_turn(self, topics: int = 1) -> tuple[str, str, Topic]:
        """A slot's name, a topic template's beginning, and the topics that rows of `fill` go to."""
        slot, prefix = self.next_name()
        return slot, prefix, Topic(self.kafka.brokers, f"{prefix}.order", topics)

    def run(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        """Run one statement, by itself; its rows, if it has any."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def lsn(self) -> int:
        """Where the WAL ends now."""
        ((found,),) = self.run("SELECT (pg_current_wal_insert_lsn() - '0/0')::int8")
        return int(str(found))

    def install(self) -> None:
        """An outbox, empty."""
        self.run("DROP TABLE IF EXISTS public.outbox CASCADE")
        self.run("DROP PUBLICATION IF EXISTS cdc_outbox")
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(render_install(InstallOptions()))

    def make_slot(self, name: str) -> None:
        """Begin at the end of the WAL."""
        self.run("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", name)

    def copy_slot(self, name: str) -> None:
        """Begin where the backlog does."""
        self.run("SELECT pg_copy_logical_replication_slot(%s, %s)", MASTER_SLOT, name)

    def drop_slot(self, name: str) -> None:
        """Wait for its walsender to be gone, and drop it."""
        deadline = time.monotonic() + 10
        while True:
            try:
                self.run(
                    "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = %s", name
                )
                return
            except psycopg.errors.ObjectInUse:
                if time.monotonic() > deadline:
                    raise
                time.sleep(DROP_PAUSE_SECONDS)

    def confirmed(self, slot: str, end: int, seconds: float) -> float | None:
        """Seconds until the slot's confirmed position has reached `end`; None when it does not within `seconds`."""
        began = time.monotonic()
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while time.monotonic() < began + seconds:
                row = connection.execute(
                    "SELECT (confirmed_flush_lsn - '0/0')::int8 FROM pg_replication_slots WHERE slot_name = %s", (slot,)
                ).fetchone()
                if row is not None and int(row[0]) >= end:
                    return time.monotonic() - began
                time.sleep(CONFIRM_PAUSE_SECONDS)
        return None

    def fill(
        self, rows: int, per_transaction: int, payload_bytes: int, seed: int, *, first: int = 0, topics: int = 1
    ) -> None:
        """Write rows, numbered from `first`, `per_transaction` in each transaction, to `topics` topics in turns. The seed draws
        the keys.
        """
        kind = "'order'" if topics == 1 else f"'order' || (i * {per_transaction} + g) % {topics}"
        pad = "x" * max(0, payload_bytes - len('{"n": 123456, "pad": ""}'))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT setseed(%s)", (seed % 1000 / 1000,))
            connection.execute(
                f"""
                DO $$ BEGIN
                  FOR i IN 0..{rows // per_transaction - 1} LOOP
                    INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
                    SELECT {kind}, floor(random() * {KEYS})::int::text, 'OrderPlaced',
                           ('{{"n": ' || ({first} + i * {per_transaction} + g) || ', "pad": "{pad}"}}')::json
                      FROM generate_series(0, {per_transaction - 1}) g;
                    COMMIT;
                  END LOOP;
                END $$"""
            )

    def backlog(self, rows: int, per_transaction: int, payload_bytes: int, seed: int, topics: int = 1) -> Backlog:
        """A new outbox with this backlog before `MASTER_SLOT`."""
        self.drop_slot(MASTER_SLOT)
        self.install()
        return self.fill_backlog(rows, per_transaction, payload_bytes, seed, topics)

    def fill_backlog(self, rows: int, per_transaction: int, payload_bytes: int, seed: int, topics: int = 1) -> Backlog:
        """This backlog before `MASTER_SLOT`, in the outbox that is there."""
        self.make_slot(MASTER_SLOT)
        whole = rows // per_transaction * per_transaction
        self.fill(whole, per_transaction, payload_bytes, seed, topics=topics)
        end = self.lsn()
        self.run("CHECKPOINT")
        return Backlog(whole, per_transaction, payload_bytes, end, topics)


@contextmanager
def servers(*, durable: bool = False) -> Iterator[Rig]:
    """Start both, stop both. `durable`: PostgreSQL waits for its disk at each commit, as in production."""
    settings = {"max_wal_size": "8GB", "checkpoint_timeout": "1h", "shared_buffers": "256MB"}
    with EmbeddedPostgres(settings=settings, durable=durable) as postgres, Kafka() as kafka:
        await_producer_ids(kafka.brokers)
        yield Rig(postgres, kafka)


def await_producer_ids(brokers: str) -> None:
    """A broker that has just been started has no block of producer ids yet: the first idempotent producer asks twice, half a
    second apart (librdkafka, GETPID), and the first contender of a run would pay for it.
    """
    producer = Producer({"bootstrap.servers": brokers, "enable.idempotence": True})
    producer.produce("bench.warm", b"")
    assert producer.flush(PRODUCER_ID_SECONDS) == 0, "the broker gives no producer id"
