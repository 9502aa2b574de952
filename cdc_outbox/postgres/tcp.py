"""TCP options of a replication connection: a dead peer is noticed within its server's own timeout.

In: the descriptor of a socket. Out: nothing but its options. A Unix socket stays as it is.
Never: an error because a system does not have an option; another size of a buffer: a small one that messages of some bytes fill
drops what its window has promised, and the server sends that again only after seconds.

Linux manual: tcp(7), socket(7).
"""

from __future__ import annotations

import os
import socket


def watch(descriptor: int, wal_sender_timeout: float) -> None:
    """Let the kernel notice a dead peer within `wal_sender_timeout` seconds: keepalives, and a limit on unacknowledged data."""
    interval = max(1, int(wal_sender_timeout / 6))
    with socket.socket(fileno=os.dup(descriptor)) as tcp:
        if tcp.family not in {socket.AF_INET, socket.AF_INET6}:
            return
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", interval),
            ("TCP_KEEPINTVL", interval),
            ("TCP_KEEPCNT", 3),
            ("TCP_USER_TIMEOUT", int(wal_sender_timeout * 1000)),
        ):
            option = getattr(socket, name, None)  # macOS has other names for some
            if option is not None:
                tcp.setsockopt(socket.IPPROTO_TCP, option, value)
