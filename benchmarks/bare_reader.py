"""The slot read with psycopg.pq and nothing decoded: how fast Python can be handed the messages at all.

In: the DSN in BENCH_DSN. Out: one JSON object: rows, and when the first and the last came (Unix seconds).

    python -m benchmarks.bare_reader --slot … --rows … [--lazy]
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import time
from typing import Final

from psycopg import conninfo, pq

_INSERT = ord("I")
_TYPE_AT = 25
"""Offset of the pgoutput type byte in an XLogData message."""

_LAZY_BYTES: Final = 64 * 1024
"""Below which a lazy reader is not woken: some 150 rows, and a quarter of the socket's buffer."""

_LAZY_SECONDS: Final = 0.01
"""After which it looks for less: the end of a backlog."""


def main() -> None:
    """Read until this number of rows came."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--slot", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--lazy", action="store_true")
    options = parser.parse_args()
    wanted = conninfo.make_conninfo(os.environ["BENCH_DSN"], replication="database")
    connection = pq.PGconn.connect(wanted.encode())
    assert connection.status == pq.ConnStatus.OK, connection.error_message
    started = connection.exec_(
        f"START_REPLICATION SLOT \"{options.slot}\" LOGICAL 0/0 (proto_version '1', publication_names 'cdc_outbox')".encode()
    )
    assert started.status == pq.ExecStatus.COPY_BOTH, started.error_message
    if options.lazy:
        with socket.socket(fileno=os.dup(connection.socket)) as tcp:
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, _LAZY_BYTES)
    print(json.dumps(_read(connection, options.rows, _LAZY_SECONDS if options.lazy else 1.0)))


def _read(connection: pq.abc.PGconn, wanted: int, patience: float) -> dict[str, float]:
    poller = select.poll()
    poller.register(connection.socket, select.POLLIN)
    get = connection.get_copy_data
    rows, first = 0, 0.0
    while rows < wanted:
        poller.poll(patience * 1000)
        connection.consume_input()
        while True:
            length, view = get(1)
            if length <= 0:
                assert length == 0, "the server ended the copy"
                break
            if length > _TYPE_AT and view[_TYPE_AT] == _INSERT:
                rows += 1
        first = first or time.time()
    return {"rows": rows, "first": first, "last": time.time()}


if __name__ == "__main__":
    main()
