"""A TCP proxy that misbehaves on command: it stands between a client and a server and breaks what is between them.

In: where the server is. Out: a port, and acts: cut, refuse, freeze, delay, cut after so many bytes, half-open, forget.
An act has happened when its method returns. Never: changes a byte, or the order of bytes of one direction.

One thread does everything with poll(2); acts are carried out by that thread, so nothing needs a lock.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import struct
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, Literal, Self

from cdc_outbox.demo.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable

_CHUNK: Final = 65_536
_BUFFER: Final = 262_144
"""Bytes that the proxy holds in one direction; beyond it does not read, and TCP tells the sender to wait."""

_CONNECT_SECONDS: Final = 5.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: close(2) sends RST instead of FIN."""


class Direction(Enum):
    """Which way bytes go."""

    TO_SERVER = "to server"
    TO_CLIENT = "to client"


@dataclass(eq=False, slots=True)
class _Pipe:
    """One direction of one connection. `pending`: when each piece may go on, and the piece."""

    direction: Direction
    source: socket.socket
    sink: socket.socket
    pending: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    ended: bool = False
    done: bool = False
    stalled: bool = False
    """Whether it takes bytes and passes none on: a connection whose packets are late."""


@dataclass(eq=False, slots=True)
class _Connection:
    client: socket.socket
    server: socket.socket
    pipes: tuple[_Pipe, _Pipe]
    last_byte: float = field(default_factory=time.monotonic)
    forgotten: bool = False


class Proxy:
    """Forwards 127.0.0.1:`port` to `target`, until told otherwise. A context manager."""

    def __init__(self, target: tuple[str, int], *, port: int | None = None) -> None:
        self.target = target
        self.port = port or free_port()
        self.forwarded = dict.fromkeys(Direction, 0)
        """Bytes passed on, by direction."""
        self.accepted = 0
        """Connections taken so far."""
        self._listener: socket.socket | None = None
        self._connections: list[_Connection] = []
        self._orphans: list[socket.socket] = []
        self._frozen: set[Direction] = set()
        self._delay = 0.0
        self._budget: dict[Direction, float] = dict.fromkeys(Direction, math.inf)
        self._idle_seconds = math.inf
        self._acts: deque[Callable[[], None]] = deque()
        self._woken, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name=f"proxy {self.port}", daemon=True)
        self._running = True
        self._listen()

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def connections(self) -> int:
        """Connections that are forwarded at present."""
        return len(self._connections)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._act(self._finish)
        self._thread.join()
        for end in (self._woken, self._waker):
            end.close()

    # -- acts

    def cut(self, *, how: Literal["reset", "close"] = "reset") -> None:
        """End all connections on both sides, by RST or by FIN. New ones are welcome."""
        self._act(lambda: self._cut_all(reset=how == "reset"))

    def cut_after(self, size: int, direction: Direction) -> None:
        """End all connections once so many more bytes went this way: in the middle of a message, with the right number."""
        self._act(lambda: self._budget.__setitem__(direction, size))

    def refuse(self) -> None:
        """End all connections, and refuse new ones (RST on connect), as if the server were not running."""
        self._act(self._refuse)

    def accept(self) -> None:
        """Take connections again after `refuse()`."""
        self._act(self._listen)

    def freeze(self, *directions: Direction) -> None:
        """Pass nothing on (in these directions; both without any), and tell nobody: cables are pulled like this."""
        self._act(lambda: self._frozen.update(directions or Direction))

    def thaw(self, *directions: Direction) -> None:
        """Pass on again (in these directions; both without any) what was held, and what comes."""
        self._act(lambda: self._frozen.difference_update(directions or Direction))

    def stall(self, direction: Direction) -> None:
        """Hold what comes this way over the connections that are there, also after their client is gone. New ones pass."""
        self._act(lambda: self._stall(direction, stalled=True))

    def release(self, direction: Direction) -> None:
        """Pass on what `stall` has held."""
        self._act(lambda: self._stall(direction, stalled=False))

    def held(self, direction: Direction) -> int:
        """Bytes that `stall` holds at present."""
        pipes = [pipe for connection in tuple(self._connections) for pipe in connection.pipes]
        return sum(pipe.size for pipe in pipes if pipe.stalled and pipe.direction is direction)

    def delay(self, seconds: float) -> None:
        """Each piece waits so long from now on (latency in each direction; the rate stays)."""
        self._act(lambda: setattr(self, "_delay", seconds))

    def half_open(self, *, gone: Literal["client", "server"]) -> None:
        """The side that is `gone` sees its connections reset; the other is never told. New connections are welcome."""
        self._act(lambda: self._half_open(gone))

    def forget_idle(self, seconds: float = math.inf) -> None:
        """From now on a connection without a byte for so long is forgotten, as by a NAT: what is sent over it afterwards
        vanishes, neither side is informed, and no later act brings it back. New ones are welcome. Without `seconds`: no more.

        What counts are bytes. TCP keepalive probes are answered by the kernel on each side and do not pass the proxy.
        """
        self._act(lambda: setattr(self, "_idle_seconds", seconds))

    @property
    def forgotten(self) -> int:
        """Connections that are forgotten, and not ended yet."""
        return sum(connection.forgotten for connection in self._connections)

    # -- in the proxy's thread

    def _act(self, act: Callable[[], object]) -> None:
        done: Future[None] = Future()

        def carry_out() -> None:
            try:
                act()
                done.set_result(None)
            except BaseException as error:  # noqa: BLE001  (it belongs to the caller)
                done.set_exception(error)

        self._acts.append(carry_out)
        self._waker.send(b".")
        done.result(timeout=10.0)

    def _run(self) -> None:
        while self._running:
            ready = self._wait()
            if self._woken.fileno() in ready:
                self._woken.recv(_CHUNK)
            while self._acts:
                self._acts.popleft()()
            if self._listener is not None and self._listener.fileno() in ready:
                self._take()
            for connection in tuple(self._connections):
                if connection in self._connections:  # an earlier one's turn may have cut them all
                    self._serve(connection, ready)

    def _wait(self) -> set[int]:
        """File descriptors with something to do. One without interest is not watched: its hang-up would spin the loop."""
        poll, now, due = select.poll(), time.monotonic(), math.inf
        interest: dict[int, int] = {self._woken.fileno(): select.POLLIN}
        if self._listener is not None and not self._frozen:
            interest[self._listener.fileno()] = select.POLLIN
        for pipe in (pipe for connection in self._connections if not connection.forgotten for pipe in connection.pipes):
            if pipe.direction in self._frozen or pipe.done:
                continue
            if not pipe.ended and pipe.size < _BUFFER:
                fd = pipe.source.fileno()
                interest[fd] = interest.get(fd, 0) | select.POLLIN
            if pipe.stalled:
                continue
            if pipe.pending and pipe.pending[0][0] <= now:
                fd = pipe.sink.fileno()
                interest[fd] = interest.get(fd, 0) | select.POLLOUT
            elif pipe.pending:
                due = min(due, pipe.pending[0][0])
        for fd, events in interest.items():
            poll.register(fd, events)
        return {fd for fd, _ in poll.poll(None if due is math.inf else max(0.0, (due - now) * 1000))}

    def _take(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = self._listener.accept()
            self.accepted += 1
            try:
                server = socket.create_connection(self.target, timeout=_CONNECT_SECONDS)
            except OSError:
                _close(client, reset=True)
                return
            for end in (client, server):
                end.setblocking(False)
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            there = _Pipe(Direction.TO_SERVER, client, server)
            back = _Pipe(Direction.TO_CLIENT, server, client)
            self._connections.append(_Connection(client, server, (there, back)))

    def _serve(self, connection: _Connection, ready: set[int]) -> None:
        if ready & {connection.client.fileno(), connection.server.fileno()}:
            now = time.monotonic()
            connection.forgotten = connection.forgotten or now - connection.last_byte > self._idle_seconds
            connection.last_byte = now
        if connection.forgotten:
            return
        try:
            for pipe in connection.pipes:
                if pipe.direction in self._frozen or pipe.done:
                    continue
                if pipe.source.fileno() in ready and not pipe.ended and pipe.size < _BUFFER:
                    self._read(pipe)
                self._write(pipe)
        except OSError:
            self._drop(connection, reset=True)
            return
        if all(pipe.done for pipe in connection.pipes):
            self._drop(connection, reset=False)
        elif any(left <= 0 for left in self._budget.values()):
            self._budget = dict.fromkeys(Direction, math.inf)
            self._cut_all(reset=False)  # a reset could overtake the last bytes

    def _read(self, pipe: _Pipe) -> None:
        with contextlib.suppress(BlockingIOError):
            piece = pipe.source.recv(_CHUNK)
            pipe.ended = not piece
            if piece:
                pipe.pending.append((time.monotonic() + self._delay, piece))
                pipe.size += len(piece)

    def _write(self, pipe: _Pipe) -> None:
        if pipe.stalled:
            return
        while pipe.pending and pipe.pending[0][0] <= time.monotonic() and self._budget[pipe.direction] > 0:
            due, piece = pipe.pending[0]
            try:
                sent = pipe.sink.send(piece[: int(min(len(piece), self._budget[pipe.direction]))])
            except BlockingIOError:
                return
            pipe.pending[0] = (due, piece[sent:])
            if sent == len(piece):
                pipe.pending.popleft()
            pipe.size -= sent
            self.forwarded[pipe.direction] += sent
            self._budget[pipe.direction] -= sent
        if pipe.ended and not pipe.pending:
            pipe.done = True
            pipe.sink.shutdown(socket.SHUT_WR)

    def _stall(self, direction: Direction, *, stalled: bool) -> None:
        for pipe in (pipe for connection in self._connections for pipe in connection.pipes):
            if pipe.direction is direction:
                pipe.stalled = stalled

    def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
            self._listener.setblocking(False)

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        self._cut_all(reset=True)

    def _cut_all(self, *, reset: bool) -> None:
        for connection in tuple(self._connections):
            self._drop(connection, reset=reset)

    def _drop(self, connection: _Connection, *, reset: bool) -> None:
        self._connections.remove(connection)
        for end in (connection.client, connection.server):
            _close(end, reset=reset)

    def _half_open(self, gone: Literal["client", "server"]) -> None:
        for each in self._connections:
            told, untold = (each.client, each.server) if gone == "client" else (each.server, each.client)
            self._orphans.append(untold)
            _close(told, reset=True)
        self._connections.clear()

    def _finish(self) -> None:
        self._refuse()
        for orphan in self._orphans:
            _close(orphan, reset=True)
        self._running = False


def _close(end: socket.socket, *, reset: bool) -> None:
    if reset:
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()
