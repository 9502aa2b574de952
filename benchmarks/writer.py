"""An application that inserts single-row transactions at a fixed rate, however late the earlier ones are.

In: the DSN in BENCH_DSN. Out: rows whose payload holds a number and the moment at which they were to be inserted, in Unix
nanoseconds. Open loop: a late insert does not delay the next one's moment.

Up to CLIENT_RATE each transaction is a statement of this client. Above it the statements would cost more CPU than what is
measured: the server runs the loop, TICKS times a second the transactions of one tick, whose moment is that of the tick.

    python -m benchmarks.writer --rate 1000 --seconds 5
"""

from __future__ import annotations

import argparse
import os
import random
import time
from typing import Final

import psycopg

KEYS: Final = 10_000

CLIENT_RATE: Final = 3_000
"""Transactions a second that one client manages with a quarter of a core."""

TICKS: Final = 500
"""A second. pg_sleep() sleeps whole milliseconds."""


def kind(number: int, topics: int) -> str:
    """The aggregate type of a row: the topic's suffix, in turns."""
    return "order" if topics == 1 else f"order{number % topics}"


def main() -> None:
    """Write, and print how late the latest insert was, in milliseconds (nothing for a loop on the server)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--topics", type=int, default=1)
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first row")
    options = parser.parse_args()
    with psycopg.connect(os.environ["BENCH_DSN"], autocommit=True, prepare_threshold=0) as connection:
        (_on_server if options.rate > CLIENT_RATE else _from_here)(connection, options)


def _from_here(connection: psycopg.Connection, options: argparse.Namespace) -> None:
    keys = random.Random(options.seed)
    pad = "x" * max(0, options.payload_bytes - 60)
    insert = "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload) VALUES (%s, %s, 'OrderPlaced', %s)"
    connection.execute("SELECT 1")
    begin, late = time.time_ns() + 50_000_000, 0
    for index in range(int(options.rate * options.seconds)):
        intended = begin + int(index * 1e9 / options.rate)
        ahead = intended - time.time_ns()
        if ahead > 0:
            time.sleep(ahead / 1e9)
        key = keys.randrange(KEYS)
        payload = f'{{"n": {options.first + index}, "at": {intended}, "pad": "{pad}"}}'
        connection.execute(insert, (kind(key, options.topics), str(key), payload))
        late = max(late, time.time_ns() - intended)
    print(late / 1e6)


def _on_server(connection: psycopg.Connection, options: argparse.Namespace) -> None:
    pad = "x" * max(0, options.payload_bytes - 60)
    suffix = "''" if options.topics == 1 else f"k % {options.topics}"
    connection.execute("SELECT setseed(%s)", (options.seed % 1000 / 1000,))
    connection.execute(
        f"""
        DO $$
        DECLARE
          begun numeric := extract(epoch FROM clock_timestamp()) + 0.05;
          each int := {int(options.rate / TICKS)};
          tick numeric; ahead numeric; k int;
        BEGIN
          FOR t IN 0..{int(options.seconds * TICKS)} - 1 LOOP
            tick := begun + t::numeric / {TICKS};
            ahead := tick - extract(epoch FROM clock_timestamp());
            IF ahead > 0 THEN PERFORM pg_sleep(ahead::float8); END IF;
            FOR i IN 1..each LOOP
              k := floor(random() * {KEYS})::int;
              INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload)
              VALUES ('order' || {suffix}, k::text, 'OrderPlaced', ('{{"n": ' || {options.first} + t * each + i - 1
                || ', "at": ' || trunc(tick * 1000000000)::int8 || ', "pad": "{pad}"}}')::json);
              COMMIT;
            END LOOP;
          END LOOP;
        END $$"""
    )


if __name__ == "__main__":
    main()
