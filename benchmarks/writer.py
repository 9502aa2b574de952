"""An application that inserts single-row transactions at a fixed rate, whatever the rest of the world does.

In: the DSN in BENCH_DSN. Out: rows whose payload holds a number and the moment at which they were to be sent, in nanoseconds
of the machine's monotonic clock, which all its processes share. Open loop: one that is late does not delay the next's moment.

    python -m benchmarks.writer --rate 1000 --seconds 5
"""

from __future__ import annotations

import argparse
import os
import random
import time

import psycopg

KEYS = 10_000


def main() -> None:
    """Write, and say how late the last one was."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--payload-bytes", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="number of the first row")
    options = parser.parse_args()
    keys = random.Random(options.seed)
    pad = "x" * max(0, options.payload_bytes - 60)
    insert = (
        "INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', %s, 'OrderPlaced', %s)"
    )
    with psycopg.connect(os.environ["BENCH_DSN"], autocommit=True, prepare_threshold=0) as connection:
        connection.execute("SELECT 1")
        begin, late = time.monotonic_ns() + 50_000_000, 0
        for number in range(int(options.rate * options.seconds)):
            intended = begin + int(number * 1e9 / options.rate)
            ahead = intended - time.monotonic_ns()
            if ahead > 0:
                time.sleep(ahead / 1e9)
            payload = f'{{"n": {options.first + number}, "at": {intended}, "pad": "{pad}"}}'
            connection.execute(insert, (str(keys.randrange(KEYS)), payload))
            late = max(late, time.monotonic_ns() - intended)
    print(late / 1e6)


if __name__ == "__main__":
    main()
