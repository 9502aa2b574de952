"""Runs Debezium's engine with its outbox event router on a real PostgreSQL and a real Kafka, and records what comes out.

    python -m tests.parity

Needs Java and Maven. The program that runs the engine is the benchmarks' (benchmarks/debezium). Afterwards the slot that
Debezium has used is handed to `cdc-outbox run`: a migration, with rows written while neither of them runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote, urlsplit

import psycopg

from benchmarks.contenders import build_debezium
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.parity.cases import CASES, DEFAULTS, RECORDING, TOPICS, Case, as_json, table_of
from tests.plugins.kafka import KafkaCluster
from tests.servers.kafka import VERSION, Kafka

if TYPE_CHECKING:
    from collections.abc import Callable

SLOT: Final = "debezium"
PUBLICATION: Final = "dbz_publication"
"""Both are Debezium's own defaults."""

START_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 3.0
"""Without a record more: then all have come. The engine's batches are ten times as frequent."""


def wait_for(what: str, condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"{what}: not within {START_SECONDS:g} s")
        time.sleep(0.1)


def connector(dsn: str, case: Case, brokers: str, folder: Path) -> dict[str, str]:
    """Settings of the engine, as a connector's JSON would have them."""
    server = urlsplit(dsn)
    return {
        "name": "outbox",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": str(folder / "offsets"),
        "offset.flush.interval.ms": "0",
        "database.hostname": server.hostname or "",
        "database.port": str(server.port),
        "database.user": unquote(server.username or ""),
        "database.password": unquote(server.password or ""),
        "database.dbname": server.path.strip("/"),
        "topic.prefix": "shop",
        "plugin.name": "pgoutput",
        "table.include.list": "public.outboxevent",
        "publication.autocreate.mode": "filtered",
        "snapshot.mode": "no_data",
        "transforms": "outbox",
        "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
        **case.connector,
        "producer.bootstrap.servers": brokers,
        "producer.acks": "all",
    }


def record(case: Case, postgres: EmbeddedPostgres, kafka: KafkaCluster) -> list[dict[str, Any]]:
    """Run one case. Its records, partition by partition."""
    with psycopg.connect(postgres.dsn, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        admin.execute("CREATE DATABASE shop")
    dsn = postgres.dsn_for(dbname="shop")
    with tempfile.TemporaryDirectory() as name, psycopg.connect(dsn, autocommit=True) as shop:
        folder = Path(name)
        shop.execute(case.table.encode())
        settings = folder / "engine.properties"
        lines = (f"{key}={value}\n" for key, value in connector(dsn, case, kafka.brokers, folder).items())
        settings.write_text("".join(lines), encoding="utf-8")
        with (folder / "log").open("w") as log:
            engine = subprocess.Popen(
                ["java", "-Xmx512m", "-cp", f"{build_debezium()}/*", "outbox.Engine", settings], stderr=log, stdout=log
            )
        try:
            active = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND active"
            wait_for("Debezium's slot", lambda: shop.execute(active).fetchall() or engine.poll() is not None)
            if engine.poll() is not None:
                sys.exit((folder / "log").read_text())
            for transaction in case.transactions:
                with shop.transaction():
                    shop.execute(transaction.encode())
            found = settled(kafka, lambda: engine.poll() is None or sys.exit((folder / "log").read_text()))
            if case is DEFAULTS:
                engine.terminate()
                engine.wait(30)
                take_over(dsn, kafka, shop, len(found))
        finally:
            engine.terminate()
            engine.wait(30)
        wait_for("the slot's release", lambda: not shop.execute(active).fetchall())
        shop.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")
    kafka.delete_topics(kafka.topics())
    return [each for _, records in sorted(table_of([as_json(each) for each in found]).items()) for each in records]


def settled(kafka: KafkaCluster, check: Callable[[], object]) -> list[Any]:
    """All records, once there are no more for a while."""
    wait_for("the first record", lambda: check() and kafka.consume(TOPICS, 0))
    while True:
        before = len(kafka.consume(TOPICS, 0))
        time.sleep(QUIET_SECONDS)
        found = kafka.consume(TOPICS, 0)
        if len(found) == before:
            return found


def take_over(dsn: str, kafka: KafkaCluster, shop: Any, before: int) -> None:
    """Debezium is stopped. A row is written; the relay takes the slot and the publication as they are."""
    shop.execute(
        "INSERT INTO outboxevent VALUES (gen_random_uuid(), 'parityOrder', '1', 'Between', '{\"between\": true}')"
    )
    slots = shop.execute("SELECT confirmed_flush_lsn, plugin FROM pg_replication_slots").fetchall()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "cdc_outbox", "run", "--dsn", dsn, "--brokers", kafka.brokers, "--http", "off"),
            *("--table", "outboxevent", "--slot", SLOT, "--publication", PUBLICATION, "--until", "caught-up"),
            *("--no-create-slot", "--log-format", "json"),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    records = kafka.consume(TOPICS, 0)
    new = [each for each in records if each.value == b'{"between": true}']
    sys.stdout.write(
        f"taken over at {slots}: exit code {done.returncode}, {len(new)} of 1 new rows,"
        f" {len(records) - before - len(new)} records that Debezium had sent already\n"
    )
    if done.returncode:
        sys.stdout.write(done.stderr)


def main() -> None:
    """Record every case."""
    cases = {}
    with EmbeddedPostgres() as postgres, Kafka() as server:
        kafka = KafkaCluster(server.brokers, server)
        for case in CASES:
            cases[case.name] = record(case, postgres, kafka)
            sys.stdout.write(f"{case.name}: {len(cases[case.name])} records\n")
        pom = (Path(__file__).parents[2] / "benchmarks/debezium/pom.xml").read_text(encoding="utf-8")
        versions = {
            "Debezium": pom.partition("<debezium>")[2].partition("<")[0],
            "PostgreSQL": postgres.version,
            "Apache Kafka": VERSION,
        }
    text = json.dumps({"versions": versions, "records": cases}, indent=1, ensure_ascii=True)
    RECORDING.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
