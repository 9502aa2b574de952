"""TCP options, on real sockets of this machine."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cdc_outbox.postgres import tcp

LINUX = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="TCP_INFO is Linux's")


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


def buffer(connection: socket.socket) -> int:
    return connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


@LINUX
def test_a_near_server_has_a_small_window_so_that_it_sends_in_larger_pieces(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
    tcp.tune(connection.fileno(), 60.0, near=60.0)
    assert buffer(connection) == 2 * tcp.WINDOW_BYTES, "Linux doubles what is asked for (socket(7))"


def test_a_distant_server_keeps_the_window_that_the_system_chooses(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
    before = buffer(connection)
    tcp.tune(connection.fileno(), 60.0, near=0.0)
    assert buffer(connection) == before


@LINUX
def test_a_kernel_that_does_not_tell_round_trips_leaves_the_window_alone(
    connection: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50_000)
    before = buffer(connection)
    monkeypatch.setattr(tcp, "MIN_RTT_AT", 900)
    tcp.tune(connection.fileno(), 60.0, near=60.0)
    assert buffer(connection) == before


def test_a_dead_server_is_noticed_within_its_own_timeout(connection: socket.socket) -> None:
    tcp.tune(connection.fileno(), 60.0)
    assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_a_unix_socket_stays_as_it_is() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        before = buffer(ours)
        tcp.tune(ours.fileno(), 60.0, near=60.0)
        assert buffer(ours) == before
