"""Prune under load, for as long as you like: no undelivered row may ever go.

Writers write at a low rate, some with a time of their own choosing, some in transactions that stay open for seconds, some
rolled back. A relay with `--prune-after 2s` streams, and is killed, frozen, left away, and started again; beside it, and also
while it is frozen or away, `cdc-outbox prune --older-than 0` tries to delete everything. Triggers note each row that is written
and each that goes, with the time. The broker stamps records with its own clock, which is the same machine's.

Promise: every row that went was in Kafka before it went; in the end every row that was committed is in Kafka.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cdc_outbox.commands.install import InstallOptions, render_install
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.plugins.command import run_command
from tests.plugins.daemon import Relay
from tests.plugins.kafka import KafkaCluster
from tests.plugins.outbox import event_id
from tests.plugins.postgres import Database, PostgresServer
from tests.servers.kafka import Kafka

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC: Final = "soak"

NOTES: Final = """
CREATE TABLE written (id uuid);
CREATE TABLE gone (id uuid, at timestamptz);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN INSERT INTO written VALUES (NEW.id);
    ELSE INSERT INTO gone VALUES (OLD.id, clock_timestamp()); END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR DELETE ON outbox FOR EACH ROW EXECUTE FUNCTION note();
"""


class Load:
    """Writers, until told to stop."""

    def __init__(self, database: Database, *, writers: int, rate: float) -> None:
        self._database = database
        self._pause = writers / rate
        self.enough = threading.Event()
        self._pool = ThreadPoolExecutor(writers)
        self.work = [self._pool.submit(self._write, number) for number in range(writers)]

    def stop(self) -> None:
        """End with every transaction finished. Raises what a writer met."""
        self.enough.set()
        for each in self.work:
            each.result()

    def _write(self, seed: int) -> None:
        chance = random.Random(seed)
        with self._database.connect(autocommit=False) as connection:
            while not self.enough.wait(self._pause):
                for _ in range(chance.randint(1, 3)):
                    age = chance.choice(["0 s", "0 s", "10 days", "-1 day"])
                    connection.execute(
                        "INSERT INTO outbox (id, aggregatetype, aggregateid, payload, created_at)"
                        " VALUES (%s, 'soak', %s, '{}', clock_timestamp() - %s::interval)",
                        [uuid.uuid4(), str(chance.randint(1, 20)), age],
                    )
                if chance.random() < 0.02:
                    self.enough.wait(chance.uniform(0.5, 4.0))
                connection.rollback() if chance.random() < 0.05 else connection.commit()


class Soak:
    """One run."""

    def __init__(self, database: Database, kafka: KafkaCluster, folder: Path) -> None:
        self._database = database
        self._kafka = kafka
        self._folder = folder
        self._chance = random.Random(1)
        self.counts: Counter[str] = Counter()
        self._relay = self._start()
        self._relay.wait_for_log("streaming", 60)

    def play(self, seconds: float, say: Callable[[str], None]) -> None:
        """Faults and prunes until the time is over."""
        until = time.monotonic() + seconds
        acts = [self._kill, self._freeze, self._away, self._nothing]
        minute = time.monotonic() + 60
        while time.monotonic() < until:
            self._chance.choice(acts)()
            if not self._relay.running:
                raise AssertionError(f"the relay ended by itself\n{self._relay.stderr_text}")
            if time.monotonic() >= minute:
                minute += 60
                say(self.told())

    def finish(self) -> str:
        """Deliver the rest; hold everything against everything. What was found."""
        self._stop()
        last = Relay(["--until", "caught-up", *self._arguments()], env={}, cwd=self._folder, http=False)
        assert last.wait(120) == 0, last.stderr_text
        stamps: dict[str, int] = {}
        for record in self._kafka.consume(TOPIC, 0, timeout=300):
            stamps.setdefault(event_id(record), record.timestamp)
        written = {str(row[0]) for row in self._database.execute("SELECT id FROM written")}
        gone = self._database.execute("SELECT id::text, extract(epoch FROM at) * 1000 FROM gone")
        lost = written - stamps.keys()
        early = [row_id for row_id, at in gone if row_id not in stamps or stamps[row_id] > at]
        assert not lost, f"{len(lost)} committed rows are not in Kafka"
        assert not early, f"{len(early)} rows went before they were in Kafka: {early[:3]}"
        assert gone, "nothing was pruned: this run shows nothing"
        return f"{len(written)} rows committed and in Kafka, {len(gone)} of them pruned, each after its record; {self.told()}"

    def told(self) -> str:
        """What was done so far."""
        return ", ".join(f"{name} {count}" for name, count in sorted(self.counts.items()))

    def _arguments(self) -> list[str]:
        return ["--dsn", self._database.dsn, "--brokers", self._kafka.brokers, "--topic", TOPIC]

    def _start(self) -> Relay:
        return Relay(["--prune-after", "2s", *self._arguments()], env={}, cwd=self._folder, http=False)

    def _stop(self) -> None:
        self.counts["prunes beside"] += len(self._relay.log_lines("pruned"))
        self._relay.close()

    def _prune(self, wait: str = "2s") -> None:
        done = run_command("prune", "--older-than", "0", "--wait", wait, dsn=self._database.dsn)
        assert done.returncode in {0, 75}, done.stderr
        self.counts[f"prune ended with {done.returncode}"] += 1

    def _kill(self) -> None:
        self.counts["kills"] += 1
        self._stop()
        self._relay = self._start()
        self._relay.wait_for_log("streaming", 60)
        self._prune("15s")

    def _freeze(self) -> None:
        self.counts["freezes"] += 1
        self._relay.stop()
        self._prune()
        self._relay.cont()
        self._prune("15s")

    def _away(self) -> None:
        self.counts["absences"] += 1
        self._stop()
        self._prune()
        time.sleep(self._chance.uniform(0, 5))
        self._relay = self._start()
        self._relay.wait_for_log("streaming", 60)

    def _nothing(self) -> None:
        time.sleep(self._chance.uniform(5, 15))
        self._prune("15s")


def main() -> int:
    """Run it. 0: the promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.prune", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=3600.0, help="how long (3600)")
    parser.add_argument("--rate", type=float, default=20.0, help="transactions a second (20)")
    options = parser.parse_args()
    logging.getLogger("psycopg").setLevel(logging.ERROR)
    with EmbeddedPostgres() as postgres, Kafka() as broker, tempfile.TemporaryDirectory() as folder:
        kafka = KafkaCluster(broker.brokers, broker)
        kafka.create_topic(TOPIC, partitions=3, config={"message.timestamp.type": "LogAppendTime"})
        database = PostgresServer(postgres.dsn, postgres).create_database()
        database.execute(render_install(InstallOptions()))
        database.execute(NOTES)
        began = time.monotonic()
        soak = Soak(database, kafka, Path(folder))
        load = Load(database, writers=4, rate=options.rate)
        try:
            soak.play(options.seconds, lambda words: print(f"{time.monotonic() - began:5.0f} s: {words}", flush=True))
        finally:
            load.stop()
        print(f"{time.monotonic() - began:.0f} s: {soak.finish()}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
