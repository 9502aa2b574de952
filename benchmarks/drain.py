"""Drain a backlog: the relay beside `pg_recvlogical` reading the same WAL to /dev/null, in the same run.

Real PostgreSQL (the embedded 18), real Apache Kafka (one broker, acks=all, idempotence), all on this machine. The backlog is
written first; then, in turns, `pg_recvlogical` and the relay read it, each from its own copy of one slot. What counts is the
ratio: these are the walsender's rate and ours on the same machine in the same minutes.

    python benchmarks/drain.py --rows 500000 --per-transaction 10 --repeat 3
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.operate.install import InstallOptions, render_install
from tests.servers.kafka import Kafka

KEYS = 10_000
TOPIC = "outbox.event.order"
MASTER_SLOT = "bench_backlog"


@dataclass(frozen=True, slots=True)
class Drain:
    """One reading of the whole backlog."""

    rows_per_second: float
    cpu_microseconds_per_row: float
    peak_rss_megabytes: float
    start_seconds: float
    """From the process's start to the beginning of the stream."""


def main() -> None:
    """Run the whole comparison."""
    options = _options()
    with servers() as (postgres, kafka):
        write_backlog(postgres.dsn, options.rows, options.per_transaction, options.payload_bytes)
        raw, relay = [], []
        for turn in range(options.repeat):
            raw.append(drain_raw(postgres, options.rows, f"raw_{turn}"))
            relay.append(drain_relay(postgres.dsn, kafka.brokers, options.rows, f"relay_{turn}"))
            verify(kafka.brokers, options.rows)
            delete_topic(kafka.brokers)
    report(options, raw, relay)


@contextmanager
def servers() -> Iterator[tuple[EmbeddedPostgres, Kafka]]:
    """Start both, stop both."""
    with EmbeddedPostgres() as postgres, Kafka() as kafka:
        yield postgres, kafka


def write_backlog(dsn: str, rows: int, per_transaction: int, payload_bytes: int) -> None:
    """Fill the outbox after a slot was made, so that the slot has it all to send."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(render_install(InstallOptions()))
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (MASTER_SLOT,))
        pad = "x" * max(0, payload_bytes - len('{"n": 123456, "pad": ""}'))
        connection.execute(
            f"""
            DO $$ BEGIN
              FOR i IN 0..{rows // per_transaction - 1} LOOP
                INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
                SELECT 'order', ((i * {per_transaction} + g) % {KEYS})::text, 'OrderPlaced',
                       ('{{"n": ' || (i * {per_transaction} + g) || ', "pad": "{pad}"}}')::json
                  FROM generate_series(0, {per_transaction - 1}) g;
                COMMIT;
              END LOOP;
            END $$"""
        )
        connection.execute("CHECKPOINT")


def copy_slot(dsn: str, name: str) -> str:
    """Copy the slot that has the whole backlog before it; give the position where the backlog ends."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", (MASTER_SLOT, name))
        row = connection.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


def drop_slot(dsn: str, name: str) -> None:
    """Drop it."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_drop_replication_slot(%s)", (name,))


def drain_raw(postgres: EmbeddedPostgres, rows: int, name: str) -> Drain:
    """Read the backlog with PostgreSQL's own client."""
    end = copy_slot(postgres.dsn, name)
    arguments = [
        str(Path(postgres.bin_dir) / "pg_recvlogical"), "--dbname", postgres.dsn, "--slot", name, "--start",
        "--file", "/dev/null", "--endpos", end, "--no-loop", "--option", "proto_version=1",
        "--option", "publication_names=cdc_outbox",
    ]  # fmt: skip
    began = time.monotonic()
    usage = _run(arguments, dict(os.environ))
    elapsed = time.monotonic() - began
    drop_slot(postgres.dsn, name)
    return Drain(rows / elapsed, usage.cpu / rows * 1e6, usage.rss / 1e6, 0.0)


def drain_relay(dsn: str, brokers: str, rows: int, name: str) -> Drain:
    """Read the backlog with the relay, as a user would start it."""
    copy_slot(dsn, name)
    environment = {**os.environ, "CDC_OUTBOX_DSN": dsn}
    arguments = [
        sys.executable, "-m", "cdc_outbox", "run", "--brokers", brokers, "--slot", name, "--until", "caught-up",
        "--http", "off", "--log-format", "json",
    ]  # fmt: skip
    began = time.time()
    usage = _run(arguments, environment)
    stamps = {line["event"]: _unix(line["timestamp"]) for line in map(json.loads, usage.stderr.splitlines())}
    drop_slot(dsn, name)
    elapsed = stamps["stopped"] - stamps["streaming"]
    return Drain(rows / elapsed, usage.cpu / rows * 1e6, usage.rss / 1e6, stamps["streaming"] - began)


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds of all threads, bytes of peak RSS, stderr."""

    cpu: float
    rss: int
    stderr: str


def _run(arguments: list[str], environment: dict[str, str]) -> Usage:
    process = subprocess.Popen(arguments, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        """Read the peak as the kernel keeps it: wait4's figure begins with that of the process that forked."""
        nonlocal peak
        while not ended.wait(0.05):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peak = int(line.split()[1]) * 1024

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    stderr = process.stderr.read()
    _, status, resources = os.wait4(process.pid, 0)
    ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments[0]} ended with {process.returncode}:\n{stderr}")
    return Usage(resources.ru_utime + resources.ru_stime, peak, stderr)


def verify(brokers: str, rows: int) -> None:
    """Count every id and check every key's order: a rate of something wrong is no rate."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "bench", "auto.offset.reset": "earliest",
                         "enable.partition.eof": False})  # fmt: skip
    partitions = list(consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions)
    consumer.assign([TopicPartition(TOPIC, partition, 0) for partition in partitions])
    ids: set[bytes] = set()
    last: dict[bytes, int] = {}
    deadline = time.monotonic() + 120
    while len(ids) < rows and time.monotonic() < deadline:
        for message in consumer.consume(10_000, 1.0):
            headers = dict(message.headers() or [])
            number = int((message.value() or b"").split(b",", 1)[0].rsplit(b" ", 1)[1])
            key = message.key()
            assert isinstance(key, bytes)
            assert number > last.get(key, -1), f"key {key!r} out of order"
            last[key] = number
            event_id = headers["id"]
            assert isinstance(event_id, bytes)
            ids.add(event_id)
    consumer.close()
    assert len(ids) == rows, f"{len(ids)} ids of {rows}"


def delete_topic(brokers: str) -> None:
    """Start the next turn with an empty topic."""
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient({"bootstrap.servers": brokers})
    for future in admin.delete_topics([TOPIC]).values():
        future.result(30)
    deadline = time.monotonic() + 30
    while TOPIC in admin.list_topics(timeout=10).topics and time.monotonic() < deadline:
        time.sleep(0.1)


def report(options: argparse.Namespace, raw: list[Drain], relay: list[Drain]) -> None:
    """Print one table; write JSON when asked."""
    ratio = statistics.median(
        ours.rows_per_second / theirs.rows_per_second for ours, theirs in zip(relay, raw, strict=True)
    )
    print(f"{options.rows} rows, {options.per_transaction} per transaction, {options.payload_bytes} B payload, "
          f"median of {options.repeat}")  # fmt: skip
    print(f"{'':16}{'rows/s':>10}{'CPU us/row':>12}{'peak RSS MB':>13}{'start s':>9}")
    for name, drains in (("pg_recvlogical", raw), ("cdc-outbox", relay)):
        print(
            f"{name:16}{_median(drains, 'rows_per_second'):>10,.0f}{_median(drains, 'cpu_microseconds_per_row'):>12.2f}"
            f"{_median(drains, 'peak_rss_megabytes'):>13.0f}{_median(drains, 'start_seconds'):>9.2f}"
        )
    print(f"drain rate / raw: {ratio:.2f}")
    if options.json:
        document = {"options": vars(options), "ratio": ratio,
                    "raw": [asdict(drain) for drain in raw], "relay": [asdict(drain) for drain in relay]}  # fmt: skip
        Path(options.json).write_text(json.dumps(document, indent=2) + "\n")


def _median(drains: list[Drain], name: str) -> float:
    return float(statistics.median(getattr(drain, name) for drain in drains))


def _unix(timestamp: str) -> float:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromisoformat(timestamp).timestamp()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--per-transaction", type=int, default=10)
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", help="write the figures to this file as well")
    return parser.parse_args()


if __name__ == "__main__":
    main()
