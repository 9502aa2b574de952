"""The HTTP side: `/livez`, `/readyz`, `/metrics`, `/status` and the status page, served by one daemon thread beside the loop.

In: the target of a GET request (`http_server` has the sockets). Out: what `health` and `metrics` make of the counters.
Never: SQL, anything of the request in an answer.

The probes' names and `?verbose` are those of the Kubernetes API server.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final, cast

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
from cdc_outbox.observe.http_server import HEAD_SECONDS, HTML, TEXT, Answer, HttpServer

OFF: Final = "off"

POLL_SECONDS: Final = 2.0
"""How often the server's thread checks for a stop where a closed socket does not wake it (macOS)."""

OPEN_METRICS: Final = "application/openmetrics-text"
log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


class Shared:
    """An answer that takes milliseconds to compute. Requests that wait for it at the same time share one computation, so that a
    flood of them leaves time for probes. It begins after they came: none gets an old answer.
    """

    def __init__(self, compute: Callable[[], Answer]) -> None:
        self._compute = compute
        self._lock = threading.Lock()
        self._begun = 0
        """Computations so far."""
        self._latest: tuple[int, Answer] | None = None
        """The number of the last computation that succeeded, and its answer."""

    def __call__(self) -> Answer:
        """Compute the answer, or take that of a computation that began during this call. Raises what the computation does."""
        begun_before = self._begun
        with self._lock:
            if self._latest is not None and self._latest[0] > begun_before:
                return self._latest[1]
            self._begun += 1
            answer = self._compute()
            self._latest = self._begun, answer
            return answer


class Views:
    """The answer of each path, without sockets."""

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
        text = Shared(lambda: self._metrics(""))
        open_metrics = Shared(lambda: self._metrics(f"{OPEN_METRICS}; version=1.0.0"))
        state, page = Shared(self._status), Shared(self._page)
        self._paths: dict[str, Callable[[str, str], Answer]] = {
            "/livez": self._livez,
            "/healthz": self._livez,
            "/readyz": self._readyz,
            "/metrics": lambda _query, accept: (open_metrics if OPEN_METRICS in accept else text)(),
            "/status": lambda _query, _accept: state(),
            "/": lambda _query, _accept: (HTTPStatus.OK, HTML, status_page.HTML),
            "/page.json": lambda _query, _accept: page(),
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
        return _probe(readiness(self._counters, self._wall(), self._monotonic()), query)

    def _metrics(self, accept: str) -> Answer:
        # The client library's content type repeats the requested version: `accept` is one of two constants.
        encode, content_type = choose_encoder(accept)
        return HTTPStatus.OK, content_type, encode(self._registry)

    def _status(self) -> Answer:
        document = status(self._counters, self._settings, self._wall(), self._monotonic())
        return HTTPStatus.OK, "application/json", orjson.dumps(document.members()) + b"\n"

    def _page(self) -> Answer:
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
    Raises ConfigurationError if the address is invalid, taken, or not permitted.
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
        with contextlib.suppress(OSError):  # macOS has no such call for a socket that listens
            server.socket.shutdown(socket.SHUT_RDWR)  # ends the wait for a connection
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
            code="http-address",
            cure="--http HOST:PORT, for example 127.0.0.1:8420; or --http off",
            http=address,
        )
    return bare, int(port)


def _bind(address: str, views: Views) -> HttpServer:
    host, port = parse_address(address)
    try:
        family, _, _, _, resolved = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return HttpServer(family, cast("tuple[str, int]", resolved), views.answer, name=host, policy=status_page.POLICY)
    except (OSError, UnicodeError) as error:  # the latter for a host that no DNS name can be
        raise ConfigurationError(
            f"the HTTP server cannot listen: {getattr(error, 'strerror', None) or error}",
            code="http-address",
            cure="choose another address with --http HOST:PORT (CDC_OUTBOX_HTTP), or --http off",
            http=address,
        ) from None


def _probe(checks: list[Check], query: str) -> Answer:
    well = passed(checks)
    code = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
    if "verbose" not in query.split("&"):
        return code, TEXT, b"ok\n" if well else b"failed; see ?verbose\n"
    lines = [f"[{_sign(check)}] {check.name}: {check.text}" for check in checks]
    return code, TEXT, "\n".join([*lines, "ok" if well else "failed", ""]).encode()


def _sign(check: Check) -> str:
    if check.ok:
        return "+"
    return "-" if check.decides else "i"
