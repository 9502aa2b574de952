"""One transaction of millions of rows: what it costs the relay in memory and time, and whether all of it arrives in order.

Real PostgreSQL (the embedded 18), real Apache Kafka (one broker, acks=all, idempotence), all on this machine. PostgreSQL
spills the transaction to disk while it decodes; the relay sends rows on as they come, and confirms at the commit.

    python benchmarks/giant.py --rows 10000000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path

import psycopg
from confluent_kafka import Consumer, TopicPartition

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.installed import program
from cdc_outbox.commands.install import InstallOptions, render_install
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.servers.kafka import Kafka

KEYS = 10_000
TOPIC = "outbox.event.order"
SLOT = "cdc_outbox"

STALL_SECONDS = 60.0
"""No record for so long: the rest will not come."""


def main() -> None:
    """Write, relay, check, report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--payload-bytes", type=int, default=100)
    options = parser.parse_args()
    with EmbeddedPostgres(settings={"max_wal_size": "16GB"}) as postgres, Kafka() as kafka:
        began = time.monotonic()
        write(postgres.dsn, options.rows, options.payload_bytes)
        print(f"written in {time.monotonic() - began:.0f} s")
        peak, seconds = relay(postgres.dsn, kafka.brokers)
        arrived = check(kafka.brokers, options.rows)
    print(f"{arrived:,} rows in one transaction arrived, in order; {options.payload_bytes} B payload")
    print(f"{seconds:.1f} s from the start of the stream to the end: {options.rows / seconds:,.0f} rows/s")
    print(f"peak RSS of the relay: {peak / 1e6:.0f} MB")


def write(dsn: str, rows: int, payload_bytes: int) -> None:
    """Make the table and the slot, then commit everything at once."""
    pad = "x" * max(0, payload_bytes - len('{"n": 12345678, "pad": ""}'))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(render_install(InstallOptions()))
        connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (SLOT,))
        connection.execute(
            f"""
            INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
            SELECT 'order', (n % {KEYS})::text, 'OrderPlaced', ('{{"n": ' || n || ', "pad": "{pad}"}}')::json
              FROM generate_series(1, {rows}) n"""
        )


def relay(dsn: str, brokers: str) -> tuple[int, float]:
    """Run the relay until it has caught up. Peak RSS in bytes; seconds from the stream's start to the end."""
    process = subprocess.Popen(
        [str(program()), "run", "--brokers", brokers, "--slot", SLOT, "--until", "caught-up",
         "--http", "off", "--log-format", "json"],
        env={**os.environ, "CDC_OUTBOX_DSN": dsn}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    peak, ended = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.05):
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                    if line.startswith("VmHWM:"):
                        peak = int(line.split()[1]) * 1024

    threading.Thread(target=watch, daemon=True).start()
    stderr = process.stderr.read()
    code = process.wait()
    ended.set()
    if code:
        raise SystemExit(f"the relay ended with {code}:\n{stderr}")
    lines = [json.loads(line) for line in stderr.splitlines()]
    stamps = {line["event"]: datetime.fromisoformat(line["timestamp"]).timestamp() for line in lines}
    return peak, stamps["stopped"] - stamps["streaming"]


def check(brokers: str, rows: int) -> int:
    """Count the records, each number once, and each partition's in the order of the inserts."""
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": "check", "auto.offset.reset": "earliest"})
    consumer.assign(_partitions(consumer))
    last: dict[int, int] = {}
    count, deadline = 0, time.monotonic() + STALL_SECONDS
    while count < rows and time.monotonic() < deadline:
        for message in consumer.consume(10_000, 1.0):
            number = int((message.value() or b"").split(b",", 1)[0].rsplit(b" ", 1)[1])
            partition = message.partition()
            assert partition is not None
            assert number > last.get(partition, 0), f"partition {partition}: {number} came after {last[partition]}"
            last[partition] = number
            count += 1
            deadline = time.monotonic() + STALL_SECONDS
    consumer.close()
    assert count == rows, f"{count} records of {rows}"
    return count


def _partitions(consumer: Consumer) -> list[TopicPartition]:
    found = consumer.list_topics(TOPIC, timeout=10).topics[TOPIC].partitions
    return [TopicPartition(TOPIC, partition, 0) for partition in found]


if __name__ == "__main__":
    main()
