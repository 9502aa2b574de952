"""A polling worker as most teams have one: SELECT … FOR UPDATE SKIP LOCKED, produce, flush, DELETE or UPDATE, COMMIT.

In: the DSN in BENCH_DSN. Out: records, with the same key, value and headers as the relay's.
One worker, since several would break the order of a key.

    python -m benchmarks.polling_worker --brokers … --prefix … --finish delete
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Final

import psycopg
from confluent_kafka import Producer

BATCH_ROWS: Final = 1000
"""Rows of one transaction: fewer are slower, more are no faster."""

PAUSE_SECONDS: Final = 0.1
"""Between two looks at an empty table: ten queries a second."""

_FINISH: Final = {
    "delete": "DELETE FROM {table} WHERE seq = ANY (%s)",
    "update": "UPDATE {table} SET sent_at = clock_timestamp() WHERE seq = ANY (%s)",
}
_WANTED: Final = {"delete": "true", "update": "sent_at IS NULL"}


def main() -> None:
    """Poll until terminated."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--prefix", required=True)
    parser.add_argument("--table", default="public.outbox")
    parser.add_argument("--finish", choices=list(_FINISH), default="delete")
    options = parser.parse_args()
    producer = Producer(
        {"bootstrap.servers": options.brokers, "acks": "all", "enable.idempotence": True,
         "partitioner": "murmur2_random", "queue.buffering.max.messages": 100_000}
    )  # fmt: skip
    select = (
        f"SELECT seq, id::text, aggregatetype, aggregateid, type, payload::text FROM {options.table}"
        f" WHERE {_WANTED[options.finish]} ORDER BY seq LIMIT {BATCH_ROWS} FOR UPDATE SKIP LOCKED"
    )
    finish = _FINISH[options.finish].format(table=options.table)
    with psycopg.connect(os.environ["BENCH_DSN"]) as connection:
        while True:
            if not _batch(connection, producer, options.prefix, select, finish):
                time.sleep(PAUSE_SECONDS)


def _batch(connection: psycopg.Connection, producer: Producer, prefix: str, select: str, finish: str) -> int:
    rows = connection.execute(select).fetchall()
    refused: list[object] = []
    for _, event_id, kind, key, event_type, payload in rows:
        producer.produce(
            f"{prefix}.{kind}",
            payload.encode(),
            key.encode(),
            headers=[("id", event_id.encode()), ("type", event_type.encode())],
            on_delivery=lambda error, _message: refused.append(error) if error else None,
        )
    producer.flush()
    assert not refused, refused[0]
    if rows:
        connection.execute(finish, ([row[0] for row in rows],))
    connection.commit()
    return len(rows)


if __name__ == "__main__":
    main()
