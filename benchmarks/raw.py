"""The yardstick: one slot's messages read as fast as the server sends them, with nothing decoded and nothing sent on.

In: a backlog. Out: what `pg_recvlogical` to /dev/null takes for it, and what a bare loop of psycopg.pq does, eager and lazy.
PostgreSQL manual: pg_recvlogical (--endpos: ends by itself when it is there).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from benchmarks.child import Child, tree_cpu
from benchmarks.drained import Drained
from benchmarks.rig import Backlog, Rig

DRAIN_SECONDS: Final = 600.0

EAGER: Final = ("pg_recvlogical", "bare loop")
"""Awake for each packet of the walsender, which makes the walsender slower: it wakes its reader with each of them."""

LAZY: Final = "lazy loop"
"""The same bare loop, asleep until 64 KiB wait in its socket (SO_RCVLOWAT)."""

READERS: Final = (*EAGER, LAZY)


def drain(rig: Rig, backlog: Backlog, reader: str) -> Drained:
    """Read the backlog from a slot of its own."""
    slot, _, topic = rig.next_turn()
    topic.delete()
    rig.copy_slot(slot)
    server = tree_cpu(rig.postgres.pid)
    try:
        with Child(_arguments(rig, backlog, reader, slot), {"BENCH_DSN": rig.dsn, **libpq_environment(rig)}) as child:
            child.wait(DRAIN_SECONDS)
            ended = time.time()
            first, last = _span(child, reader, ended)
            used = child.cpu_between(first, last)
            whole = child.samples[-1].cpu if child.samples else 0.0
            peak, began = child.peak_rss, child.began
    finally:
        rig.drop_slot(slot)
    return Drained(
        contender=reader,
        per_transaction=backlog.per_transaction,
        topics=backlog.topics,
        rows=backlog.rows,
        rows_per_second=backlog.rows / (last - first),
        cpu_microseconds_per_row=used / backlog.rows * 1e6,
        cpu_microseconds_per_row_with_start=whole / backlog.rows * 1e6,
        server_cpu_microseconds_per_row=(tree_cpu(rig.postgres.pid) - server) / backlog.rows * 1e6,
        peak_rss_megabytes=peak / 1e6,
        first_record_seconds=first - began,
        sent_twice=0,
        confirmed_seconds=None,
    )


def _arguments(rig: Rig, backlog: Backlog, reader: str, slot: str) -> list[str]:
    if reader != "pg_recvlogical":
        lazy = ("--lazy",) if reader == LAZY else ()
        return [sys.executable, "-m", "benchmarks.bare_reader", "--slot", slot, "--rows", str(backlog.rows), *lazy]
    end = f"{backlog.end >> 32:X}/{backlog.end & 0xFFFFFFFF:X}"
    return [
        *(str(Path(rig.postgres.bin_dir) / "pg_recvlogical"), "--dbname", "postgres", "--slot", slot, "--start"),
        *("--file", "/dev/null", "--endpos", end, "--no-loop", "--option", "proto_version=1"),
        *("--option", "publication_names=cdc_outbox"),
    ]


def libpq_environment(rig: Rig) -> dict[str, str]:
    """How PostgreSQL's own clients find the server, without a password among their arguments."""
    server = urlsplit(rig.dsn)
    return {
        "PGHOST": server.hostname or "",
        "PGPORT": str(server.port),
        "PGUSER": unquote(server.username or ""),
        "PGPASSWORD": unquote(server.password or ""),
    }


def _span(child: Child, reader: str, ended: float) -> tuple[float, float]:
    """When the first and the last row came. pg_recvlogical does not report it: from its start to its end, some 20 ms more."""
    if reader != "pg_recvlogical":
        reported = json.loads(child.output)
        return float(reported["first"]), float(reported["last"])
    return child.began, ended
