"""TCP options of a replication connection: a dead peer is noticed, and a near server sends in larger pieces.

In: the descriptor of a socket. Out: nothing but its options. A Unix socket stays as it is.
Never: an error because a system does not have an option.

Linux manual: tcp(7), socket(7).
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Final

NEAR_SECONDS: Final = 0.0002
"""Round trip below which the window is limited, that of one machine or rack: 64 KiB in this time is 320 MB/s, five times
as much as a walsender decodes: enough if the round trip is five times as long under load.
"""

WINDOW_BYTES: Final = 64 * 1024
"""The limited window: some 150 rows. 32, 128 and 256 KiB were slower (docs/benchmarks.md)."""

MIN_RTT_AT: Final = 148
"""Offset of `tcpi_min_rtt` in Linux's `struct tcp_info`: the shortest round trip so far, in microseconds."""


def tune(descriptor: int, wal_sender_timeout: float, near: float = NEAR_SECONDS) -> None:
    """Set the options of a connection whose server waits `wal_sender_timeout` seconds for an answer. `near` in seconds."""
    with socket.socket(fileno=os.dup(descriptor)) as tcp:
        if tcp.family in {socket.AF_INET, socket.AF_INET6}:
            _watch(tcp, wal_sender_timeout)
            _limit_window(tcp, near)


def _watch(tcp: socket.socket, wal_sender_timeout: float) -> None:
    """Set keepalives and a limit on unacknowledged data, so that the kernel notices a dead peer within the timeout."""
    interval = max(1, int(wal_sender_timeout / 6))
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


def _limit_window(tcp: socket.socket, near: float) -> None:
    """Keep the receive buffer of a near server's connection small.

    A walsender sends each message separately. While the receiver has room, each costs it a transmission; once the receiver's
    buffer is full, the kernel collects messages in the sender's, and a small transaction takes the walsender about half
    the time. Over a longer distance a small buffer would limit the rate, since only so much can be on the way.
    """
    option = getattr(socket, "TCP_INFO", None)  # Linux only
    if option is None:
        return
    state = tcp.getsockopt(socket.IPPROTO_TCP, option, MIN_RTT_AT + 4)
    if len(state) < MIN_RTT_AT + 4:  # before Linux 4.6
        return
    (microseconds,) = struct.unpack_from("=I", state, MIN_RTT_AT)
    if microseconds < near * 1_000_000:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
