"""The proxy of the fault tests: what it does to a connection, and what it leaves alone."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.ports import free_port
from tests.servers.proxy import Direction, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database

PATIENCE = 5.0
"""Seconds for what has to happen."""
SILENCE = 0.2
"""Seconds in which nothing may happen."""


class Echo:
    """A server that sends back what it gets, and remembers how its connections ended."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.ends: list[str] = []
        self.ended = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()

    def wait_for_end(self) -> str:
        with self.ended:
            assert self.ended.wait_for(lambda: self.ends, PATIENCE), "the server's connection has not ended"
        return self.ends[-1]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self.listener.accept()[0]], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        end = "closed"
        with connection:
            try:
                while piece := connection.recv(65_536):
                    connection.sendall(piece)
            except OSError as error:
                end = type(error).__name__
        with self.ended:
            self.ends.append(end)
            self.ended.notify_all()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def middle(echo: Echo, proxy: Callable[[str], Proxy]) -> Proxy:
    return proxy(echo.address)


@pytest.fixture
def client(middle: Proxy) -> Iterator[socket.socket]:
    with _connect(middle) as connection:
        assert _ask(connection, b"hello") == b"hello"
        yield connection


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE)


def _ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    return _receive(connection, len(question))


def _receive(connection: socket.socket, size: int) -> bytes:
    answer = b""
    while len(answer) < size and (piece := connection.recv(65_536)):
        answer += piece
    return answer


def _is_silent(connection: socket.socket) -> bool:
    connection.settimeout(SILENCE)
    try:
        connection.recv(1)
    except TimeoutError:
        return True
    finally:
        connection.settimeout(PATIENCE)
    return False


def test_everything_passes_unchanged_and_in_order(client: socket.socket, middle: Proxy) -> None:
    text = bytes(range(256)) * 40_000
    sender = threading.Thread(target=client.sendall, args=[text])
    sender.start()
    assert _receive(client, len(text)) == text
    sender.join()
    assert middle.forwarded == dict.fromkeys(Direction, len(text) + len(b"hello"))


def test_the_end_of_one_direction_passes_and_the_other_goes_on(client: socket.socket, echo: Echo) -> None:
    client.sendall(b"last")
    client.shutdown(socket.SHUT_WR)
    assert _receive(client, 100) == b"last"
    assert echo.wait_for_end() == "closed"


def test_a_cut_resets_both_sides_and_the_next_connection_works(
    client: socket.socket, middle: Proxy, echo: Echo
) -> None:
    middle.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert echo.wait_for_end() == "ConnectionResetError"
    assert middle.connections == 0
    with _connect(middle) as again:
        assert _ask(again, b"again") == b"again"


def test_a_polite_cut_closes_both_sides(client: socket.socket, middle: Proxy, echo: Echo) -> None:
    middle.cut(how="close")
    assert client.recv(1) == b""
    assert echo.wait_for_end() == "closed"


def test_refuse_turns_clients_away_until_accept(client: socket.socket, middle: Proxy) -> None:
    middle.refuse()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionRefusedError):
        _connect(middle)
    middle.accept()
    with _connect(middle) as again:
        assert _ask(again, b"again") == b"again"


def test_a_frozen_connection_is_silent_and_gives_everything_once_thawed(client: socket.socket, middle: Proxy) -> None:
    middle.freeze()
    client.sendall(b"wait")
    assert _is_silent(client)
    with _connect(middle) as late:
        late.sendall(b"late")
        assert _is_silent(late)
        middle.thaw()
        assert _receive(client, 4) == b"wait"
        assert _receive(late, 4) == b"late"


def test_one_direction_can_be_frozen_alone(client: socket.socket, middle: Proxy) -> None:
    middle.freeze(Direction.TO_CLIENT)
    client.sendall(b"heard")
    assert _is_silent(client)
    assert middle.forwarded[Direction.TO_SERVER] == len(b"hello" + b"heard")
    middle.thaw()
    assert _receive(client, 5) == b"heard"


def test_a_delay_is_latency_and_not_a_lower_rate(client: socket.socket, middle: Proxy) -> None:
    middle.delay(0.2)
    text = b"x" * 1_000_000
    begun = time.monotonic()
    sender = threading.Thread(target=client.sendall, args=[text])
    sender.start()
    assert _receive(client, len(text)) == text
    sender.join()
    assert 0.4 <= time.monotonic() - begun < 4.0  # 16 pieces, each 0.2 s there and 0.2 s back, were 6.4 s one by one


def test_a_connection_ends_after_the_exact_number_of_bytes(client: socket.socket, middle: Proxy) -> None:
    middle.cut_after(1000, Direction.TO_CLIENT)
    client.sendall(b"y" * 3000)
    assert _receive(client, 3000) == b"y" * 1000
    with _connect(middle) as again:
        assert _ask(again, b"again") == b"again"


def test_a_server_gets_no_notice_that_its_client_is_gone(client: socket.socket, middle: Proxy, echo: Echo) -> None:
    middle.half_open(gone="client")
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with echo.ended:
        assert not echo.ended.wait_for(lambda: echo.ends, SILENCE)


def test_a_client_gets_no_notice_that_its_server_is_gone(client: socket.socket, middle: Proxy, echo: Echo) -> None:
    middle.half_open(gone="server")
    assert echo.wait_for_end() == "ConnectionResetError"
    client.sendall(b"anybody?")
    assert _is_silent(client)


def test_a_server_that_is_down_looks_like_a_reset(proxy: Callable[[str], Proxy]) -> None:
    with pytest.raises(ConnectionResetError), _connect(proxy(f"127.0.0.1:{free_port()}")) as connection:
        connection.recv(1)


def test_postgres_is_reached_through_a_proxy(database: Database, proxy: Callable[[str], Proxy]) -> None:
    middle = proxy(database.dsn)
    connection = database.connect(database.server.dsn_for(dbname=database.name, port=str(middle.port)))
    assert connection.execute("SELECT 1").fetchall() == [(1,)]
    middle.cut()
    with pytest.raises(Exception, match=r"closed|reset|SSL SYSCALL"):
        connection.execute("SELECT 1")


def test_an_idle_connection_is_forgotten_and_a_busy_one_is_not(
    echo: Echo, middle: Proxy, client: socket.socket
) -> None:
    middle.forget_idle(10 * SILENCE)
    idle_since = time.monotonic()
    with _connect(middle) as busy:
        while time.monotonic() - idle_since < 11 * SILENCE:
            assert _ask(busy, b"still here") == b"still here"
        client.sendall(b"into the void")
        client.settimeout(SILENCE)
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert middle.forgotten == 1
        assert not echo.ends, "the server was informed"
        assert _ask(busy, b"and here") == b"and here"
    middle.forget_idle()
    with _connect(middle) as fresh:
        assert _ask(fresh, b"hello again") == b"hello again"
