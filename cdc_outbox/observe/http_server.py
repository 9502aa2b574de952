"""HTTP server: one thread for each connection; limits on size, time and number of connections, and on the Host header.

In: GET and HEAD requests. Out: the answers of a function from target and `Accept` to status, type and body.
Never: another method, anything of the request in an answer, a version in the `Server` header, an answer on loopback to a
page of another site (DNS rebinding). A slow, wrong or hostile client loses its connection; the relay loses nothing.

RFC 9110 and 9112, HTTP/1.0: one request a connection.
"""

from __future__ import annotations

import contextlib
import io
import ipaddress
import re
import select
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias

import structlog

HEAD_BYTES: Final = 8192
"""Request line and headers together. A probe sends 200 bytes, Prometheus about 400, a browser 2,000."""

HEAD_SECONDS: Final = 5.0
"""Limit for the client to send the whole head, also byte by byte; and for it to read the answer."""

USUAL_HEAD_SECONDS: Final = 0.1
"""Clients send the head right after they connect. One that is later than this is closed first in favor of a new connection."""

MAX_CONNECTIONS: Final = 32
"""Connections at a time. Two probes, two scrapers and a browser need about ten."""

MAX_CONNECTIONS_PER_PEER: Final = 16
"""Connections of one address: half of all, so that one client cannot block all others."""

ANSWER_SECONDS: Final = 1.0
"""Limit for a new connection to wait for a place while the answers of others are made, which takes milliseconds."""

CHECK_SECONDS: Final = 0.02
"""How often it checks meanwhile whether a client has become late: nothing reports that."""

TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

METHODS: Final = ("GET", "HEAD")

Answer: TypeAlias = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""

View: TypeAlias = Callable[[str, str], Answer]
"""Function of the target and the `Accept` header (empty if there is none)."""

Request: TypeAlias = socket.socket | tuple[bytes, socket.socket]
"""The type in socketserver; the second form is for UDP."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class _Waits(IntEnum):
    """What a connection waits for."""

    HEAD = select.POLLIN
    """For the client to send the whole head."""
    TAKING = select.POLLOUT
    """For the client to read the answer."""
    NOTHING = 0
    """For the answer to be computed: milliseconds."""


class _Rank(IntEnum):
    """Which idle connections are closed first in favor of new ones."""

    LATE_HEAD = 0
    UNREAD_ANSWER = 1
    HEAD = 2


@dataclass(slots=True)
class _Connection:
    """An open connection. `since`: time.monotonic()."""

    socket: socket.socket
    peer: str
    since: float
    waits: _Waits = _Waits.HEAD

    @property
    def idle(self) -> bool:
        """Whether it waits for the client, and not for its own thread: to read what has arrived, or to send what is ready."""
        if self.waits is _Waits.NOTHING:
            return False
        poll = select.poll()
        poll.register(self.socket, self.waits)
        return not poll.poll(0)

    def rank(self, now: float) -> _Rank:
        """Its rank at `now`, while it is idle."""
        if self.waits is _Waits.TAKING:
            return _Rank.UNREAD_ANSWER
        return _Rank.LATE_HEAD if now - self.since > USUAL_HEAD_SECONDS else _Rank.HEAD


class _Connections:
    """All open connections, the oldest first."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._open: dict[Request, _Connection] = {}

    def add(self, request: Request, peer: str) -> bool:
        """Add a connection; at the limit, close another one, or wait for one to end. Returns False after ANSWER_SECONDS."""
        assert isinstance(request, socket.socket)
        with self._changed:
            until = time.monotonic() + ANSWER_SECONDS
            while not self._has_place(peer):
                if time.monotonic() > until:
                    return False
                self._changed.wait(CHECK_SECONDS)
            self._open[request] = _Connection(request, peer, time.monotonic())
            return True

    def waits(self, request: Request, what: _Waits) -> None:
        """Record what a connection waits for now."""
        with self._changed:
            if request in self._open:
                self._open[request].waits = what
            self._changed.notify()

    def remove(self, request: Request) -> None:
        """Remove a connection that has ended."""
        with self._changed:
            self._open.pop(request, None)
            self._changed.notify()

    def _has_place(self, peer: str) -> bool:
        """Whether `peer` may have one more connection; at the limit, another one is closed for it, if one may be."""
        peers = Counter(each.peer for each in self._open.values())
        if peers[peer] >= MAX_CONNECTIONS_PER_PEER:
            return self._give_way(peer)
        return len(self._open) < MAX_CONNECTIONS or self._give_way(peers.most_common(1)[0][0])

    def _give_way(self, peer: str) -> bool:
        """Close the oldest idle connection of `peer` of the lowest rank. One whose head is not late is closed only if all are
        idle: otherwise another one ends in milliseconds.
        """
        now = time.monotonic()
        own = [each for each in self._open.values() if each.peer == peer]
        idle = [each for each in own if each.idle]
        chosen = min(idle, key=lambda each: each.rank(now), default=None)
        if chosen is None or (chosen.rank(now) is _Rank.HEAD and len(idle) < len(own)):
            return False
        del self._open[chosen.socket]
        with contextlib.suppress(OSError):
            chosen.socket.shutdown(socket.SHUT_RDWR)  # wakes its thread, which closes it
        return True


class HttpServer(ThreadingHTTPServer):
    """A server on `address` that answers by `view`.

    `name`: the host in --http. `policy`: the Content-Security-Policy of HTML.
    """

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 1024
    """Connections that wait for `accept`: more than a flood opens while other threads hold the interpreter. One more than these
    is only made when its client asks again, a second later: as long as a kubelet waits for its probe. Linux takes no more
    than `net.core.somaxconn` (4096)."""

    def __init__(
        self, family: socket.AddressFamily, address: tuple[str, int], view: View, *, name: str, policy: str
    ) -> None:
        self.address_family = family
        self.view = view
        self.policy = policy
        self._name = name.lower()
        self._loopback = _is_loopback(address[0])
        self.connections = _Connections()
        super().__init__(address, _Handler)

    @property
    def address(self) -> str:
        """The address in use, as `host:port`."""
        host, port = self.server_address[:2]
        return f"[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def names_us(self, hosts: Iterable[str]) -> bool:
        """Whether these `Host` headers may be this server's. On loopback only names of loopback are: a page of another site
        whose name was made to resolve to 127.0.0.1 would read the answers. Beyond loopback every name may be right.
        """
        return not self._loopback or all(self._names_loopback(_host_name(host)) for host in hosts)

    def _names_loopback(self, name: str) -> bool:
        return name in {"localhost", self._name} or name.endswith(".localhost") or _is_loopback(name)

    def server_bind(self) -> None:
        """Bind without http.server's look-up of the host's name: a slow DNS must not delay a start."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "cdc-outbox", self.server_address[1]

    def process_request(self, request: Request, client_address: tuple[str, int]) -> None:
        """Answer in a thread. At the limit, close the oldest connection without a head."""
        if not self.connections.add(request, _peer(client_address[0])):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def shutdown_request(self, request: Request) -> None:
        """Close a connection. Afterwards its descriptor may belong to another one."""
        self.connections.remove(request)
        super().shutdown_request(request)

    def handle_error(self, _request: object, _client_address: object) -> None:
        """Ignore a disconnected client; log anything else as a bug."""
        log.error("http.failed", exc_info=sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """One request: read its head within limits, check method and host, send the answer."""

    server: HttpServer
    request_version = "HTTP/1.0"
    requestline = ""
    command = ""
    timeout = HEAD_SECONDS

    def handle(self) -> None:
        """Read the whole head first, so that http.server parses memory and never waits."""
        try:
            head = self._read_head()
            self.server.connections.waits(self.connection, _Waits.NOTHING)
            if len(head) > HEAD_BYTES:
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif head:
                self.rfile.close()
                self.rfile = io.BytesIO(head)
                self.handle_one_request()
        except (TimeoutError, ConnectionError):
            self.close_connection = True

    def parse_request(self) -> bool:
        """Refuse every other method, unknown ones included, and every other host."""
        if not super().parse_request():
            return False
        if self.command not in METHODS:
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
            return False
        if not self.server.names_us(self.headers.get_all("Host", [])):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return False
        return True

    def do_GET(self) -> None:
        """Answer a GET."""
        try:
            answer = self.server.view(self.path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("http.failed")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send(*answer)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server chose

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Send the status code's standard phrase; http.server's own text would quote the request."""
        self.close_connection = True
        known = HTTPStatus(code)
        self._send(known, TEXT, f"{known.phrase}\n".encode())

    def version_string(self) -> str:
        """The `Server` header."""
        return "cdc-outbox"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server chose
        """Log nothing: probes arrive every few seconds."""

    def _send(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.server.connections.waits(self.connection, _Waits.TAKING)
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if content_type == HTML:
            self.send_header("Content-Security-Policy", self.server.policy)
            self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Connection", "close")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", ", ".join(METHODS))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _read_head(self) -> bytes:
        """Bytes up to the empty line, to the end of the stream, or to one chunk past the limit."""
        deadline = time.monotonic() + HEAD_SECONDS
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= HEAD_BYTES:
            self.server.connections.waits(self.connection, _Waits.HEAD)
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = self.connection.recv(4096)
            if not chunk:
                break
            head += chunk
        self.connection.settimeout(HEAD_SECONDS)
        return head


_HOST: Final = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]@/\s]+)(?::\d*)?")
"""uri-host [ ":" port ] (RFC 9110, section 7.2), in lower case."""


def _host_name(host: str) -> str:
    """The name or address in a `Host` header, without port, brackets and the dot of the root; empty for anything else."""
    matched = _HOST.fullmatch(host.strip().lower())
    return "" if matched is None else matched[1].strip("[]").removesuffix(".")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _peer(host: str) -> str:
    """The address of a client; for IPv6 its /64 network, which one machine may own."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
