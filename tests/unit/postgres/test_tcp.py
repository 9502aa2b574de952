"""TCP options, on real sockets of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cdc_outbox.postgres import tcp


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """One end of a connection that has exchanged data."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            client.sendall(b"?")
            accepted.recv(1)
            accepted.sendall(b"!")
            client.recv(1)
            yield client


def test_a_dead_server_is_noticed_within_its_own_timeout(connection: socket.socket) -> None:
    tcp.watch(connection.fileno(), 60.0)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_a_unix_socket_stays_as_it_is() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        tcp.watch(ours.fileno(), 60.0)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
