"""The HTTP side: `/livez`, `/readyz`, `/metrics`, `/status` and the status page, served by one daemon thread beside the loop.

In: GET requests, bounded in size, time and number. Out: what `health` and `metrics` say of the counters.
Never: SQL, another method, anything of the request in an answer, a version in the `Server` header. A client that is slow,
wrong or hostile costs a connection for a few seconds, and the relay nothing.

RFC 9110 and 9112, HTTP/1.0: one request a connection. The probes' names and `?verbose` are those of the Kubernetes API server.
"""

from __future__ import annotations

import contextlib
import io
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, TypeAlias, cast

import orjson
import structlog
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.observe import logs, status_page
from cdc_outbox.observe.health import Check, liveness, passed, readiness, status
from cdc_outbox.observe.history import History

OFF: Final = "off"

HEAD_BYTES: Final = 8192
"""Request line and headers together. A probe sends 200 bytes, Prometheus about 400, a browser 2,000."""

HEAD_SECONDS: Final = 5.0
"""In which the whole head has to be here, however it trickles; and in which an answer has to be taken."""

MAX_CONNECTIONS: Final = 16
"""At a time; more are closed unread. Two probes and two scrapers need four."""

POLL_SECONDS: Final = 0.5
"""How often the server's thread looks whether it shall end: a stop waits this long at most."""

OPEN_METRICS: Final = "application/openmetrics-text"
TEXT: Final = "text/plain; charset=utf-8"
HTML: Final = "text/html; charset=utf-8"

Answer: TypeAlias = tuple[HTTPStatus, str, bytes]
"""Status, content type, body."""

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Views:
    """What each path shows. Knows no socket."""

    def __init__(
        self,
        counters: Counters,
        settings: Settings,
        registry: CollectorRegistry,
        history: History,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._counters = counters
        self._history = history
        self._settings = settings
        self._registry = registry
        self._monotonic = monotonic
        self._wall = wall
        self._paths: dict[str, Callable[[str, str], Answer]] = {
            "/livez": self._livez,
            "/healthz": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/status": self._status,
            "/": lambda _query, _accept: (HTTPStatus.OK, HTML, status_page.HTML),
            "/page.json": self._page,
        }

    def answer(self, target: str, accept: str) -> Answer:
        """Status, content type and body for a GET of `target`; `accept` is the header of that name, or empty."""
        path, _, query = target.partition("?")
        view = self._paths.get(path)
        if view is None:
            return HTTPStatus.NOT_FOUND, TEXT, b"not found; there are " + " ".join(self._paths).encode() + b"\n"
        return view(query, accept)

    def _livez(self, query: str, _accept: str) -> Answer:
        return _probe(liveness(self._counters, self._monotonic()), query)

    def _readyz(self, query: str, _accept: str) -> Answer:
        return _probe(readiness(self._counters), query)

    def _metrics(self, _query: str, accept: str) -> Answer:
        # The client's negotiation repeats the version that was asked for; ours is one of two constants.
        encode, content_type = choose_encoder(f"{OPEN_METRICS}; version=1.0.0" if OPEN_METRICS in accept else "")
        return HTTPStatus.OK, content_type, encode(self._registry)

    def _status(self, _query: str, _accept: str) -> Answer:
        document = status(self._counters, self._settings, self._wall())
        return HTTPStatus.OK, "application/json", orjson.dumps(document.members()) + b"\n"

    def _page(self, _query: str, _accept: str) -> Answer:
        document = status_page.document(
            self._counters, self._settings, self._history, logs.RECENT, self._monotonic(), self._wall()
        )
        return HTTPStatus.OK, "application/json", orjson.dumps(document) + b"\n"


@contextlib.contextmanager
def serve(
    address: str,
    counters: Counters,
    settings: Settings,
    registry: CollectorRegistry,
    *,
    history: History | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Iterator[str | None]:
    """Serve on `address` (`host:port`, `[v6]:port`, `:port` for all, `off`) until the block ends.

    Gives the address in use (port 0 lets the system choose), or None for `off`. `history`: for the page's charts.
    Raises ConfigurationError when the address is none, is taken, or may not be used.
    """
    if address == OFF:
        yield None
        return
    server = _bind(address, Views(counters, settings, registry, history or History(counters), monotonic, wall))
    thread = threading.Thread(target=server.serve_forever, args=(POLL_SECONDS,), name="http", daemon=True)
    thread.start()
    try:
        log.info("http.listening", address=server.address)
        yield server.address
    finally:
        server.shutdown()
        server.server_close()
        thread.join(HEAD_SECONDS)


def parse_address(address: str) -> tuple[str, int]:
    """`host:port` in parts; the host may be in brackets, or empty for all interfaces. Raises ConfigurationError."""
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    bracketed = host != bare
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535 or (":" in bare and not bracketed):
        raise ConfigurationError(
            "not an address to listen on",
            cure="--http HOST:PORT, for example 127.0.0.1:8420; or --http off",
            http=address,
        )
    return bare, int(port)


def _bind(address: str, views: Views) -> _Server:
    host, port = parse_address(address)
    try:
        family, _, _, _, resolved = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _Server(family, cast("tuple[str, int]", resolved), views)
    except (OSError, UnicodeError) as error:  # the latter for a host that no DNS name can be
        raise ConfigurationError(
            f"the HTTP server cannot listen: {getattr(error, 'strerror', None) or error}",
            cure="choose another address with --http HOST:PORT (CDC_OUTBOX_HTTP), or --http off",
            http=address,
        ) from None


def _probe(checks: list[Check], query: str) -> Answer:
    well = passed(checks)
    code = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" not in query.split("&"):
        return code, TEXT, b"ok\n" if well else b"failed; ?verbose says why\n"
    lines = [f"[{_sign(check)}] {check.name}: {check.says}" for check in checks]
    return code, TEXT, "\n".join([*lines, "ok" if well else "failed", ""]).encode()


def _sign(check: Check) -> str:
    if check.ok:
        return "+"
    return "-" if check.decides else "i"


class _Server(ThreadingHTTPServer):
    """A thread for each connection, and a limit on both."""

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int], views: Views) -> None:
        self.address_family = family
        self.views = views
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        host, port = self.server_address[:2]
        return f"[{host!s}]:{port}" if self.address_family == socket.AF_INET6 else f"{host!s}:{port}"

    def server_bind(self) -> None:
        """Bind, without the look-up of our own name that http.server does: a slow DNS must not delay a start."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "cdc-outbox", self.server_address[1]

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Answer in a thread, or hang up when there are enough of them."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        """In the connection's thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, _request: object, _client_address: object) -> None:
        """A client that went away is no news; anything else is a bug of ours."""
        log.error("http.failed", exc_info=sys.exception())


class _Handler(BaseHTTPRequestHandler):
    """One request: read its head within limits, check the method, show the view."""

    server: _Server
    request_version = "HTTP/1.0"
    requestline = ""
    timeout = HEAD_SECONDS

    def handle(self) -> None:
        """Read the head at once, so that http.server parses memory and never waits."""
        try:
            head = self._read_head()
            if len(head) > HEAD_BYTES:
                self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            elif head:
                self.rfile.close()
                self.rfile = io.BytesIO(head)
                self.handle_one_request()
        except (TimeoutError, ConnectionError):
            self.close_connection = True

    def parse_request(self) -> bool:
        """Refuse every method but GET, also one that nobody has heard of."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self.send_error(HTTPStatus.METHOD_NOT_ALLOWED)
            return False
        return True

    def do_GET(self) -> None:
        """Show what the path stands for."""
        try:
            answer = self.server.views.answer(self.path, self.headers.get("Accept", ""))
        except Exception:
            log.exception("http.failed")
            self.send_error(HTTPStatus.INTERNAL_SERVER_ERROR)
        else:
            self._send(*answer)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:  # noqa: ARG002
        """Say the code's own phrase. http.server would quote the request."""
        self.close_connection = True
        known = HTTPStatus(code)
        self._send(known, TEXT, f"{known.phrase}\n".encode())

    def version_string(self) -> str:
        """The `Server` header."""
        return "cdc-outbox"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server chose
        """Nothing: a probe every few seconds is no event."""

    def _send(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if content_type == HTML:
            self.send_header("Content-Security-Policy", status_page.POLICY)
            self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Connection", "close")
        if code == HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "GET")
        self.end_headers()
        self.wfile.write(body)

    def _read_head(self) -> bytes:
        """Bytes up to the empty line, to the end of the stream, or to one chunk past the limit."""
        deadline = time.monotonic() + HEAD_SECONDS
        head = b""
        while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= HEAD_BYTES:
            self.connection.settimeout(max(deadline - time.monotonic(), 0.001))
            chunk = self.connection.recv(4096)
            if not chunk:
                break
            head += chunk
        self.connection.settimeout(HEAD_SECONDS)
        return head
