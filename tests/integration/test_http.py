"""The HTTP server on a real socket: what probes, scrapers and strangers get."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, State, TopicCounters
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.observe import Versions, http_server
from cdc_outbox.observe import http as http_side
from cdc_outbox.observe.http import parse_address, serve
from cdc_outbox.observe.http_server import HEAD_BYTES
from cdc_outbox.observe.metrics import build_registry

SETTINGS = Settings(brokers="kafka:9092")
DEADLINE_SECONDS = 10.0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Relay:
    """Counters with a server that shows them."""

    def __init__(self, counters: Counters, clock: Clock, address: str) -> None:
        self.counters = counters
        self.clock = clock
        host, _, port = address.rpartition(":")
        self.place = (host, int(port))

    def request(self, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, str]:
        connection = http.client.HTTPConnection(*self.place, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return response, response.read().decode()

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, str]:
        return self.request("GET", path, **headers)

    def send(self, data: bytes) -> bytes:
        """Raw bytes in, whatever comes back until the server hangs up."""
        with socket.create_connection(self.place, timeout=DEADLINE_SECONDS) as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(65536), b""))


def opened(
    counters: Counters, clock: Clock, address: str = "127.0.0.1:0"
) -> contextlib.AbstractContextManager[str | None]:
    registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
    return serve(address, counters, SETTINGS, registry, monotonic=clock)


@pytest.fixture(autouse=True)
def quick_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_side, "POLL_SECONDS", 0.02)


@pytest.fixture
def relay() -> Iterator[Relay]:
    counters = Counters(
        state=State.STREAMING, last_turn_monotonic=100.0, topics={"a": TopicCounters(delivered=1, delivered_bytes=10)}
    )
    clock = Clock()
    with opened(counters, clock) as address:
        assert address is not None
        yield Relay(counters, clock, address)


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_livez_turns_503_when_the_loop_is_stuck_and_back_when_it_turns(relay: Relay, path: str) -> None:
    assert relay.get(path)[0].status == 200
    relay.clock.now += 31
    assert relay.get(path)[0].status == 503
    assert "[-] loop: turned 31.0 s ago" in relay.get(f"{path}?verbose")[1]
    relay.counters.last_turn_monotonic = relay.clock.now
    assert relay.get(path)[0].status == 200


def test_readyz_follows_the_state(relay: Relay) -> None:
    assert relay.get("/readyz")[0].status == 200
    relay.counters.state = State.STANDBY
    assert relay.get("/readyz")[0].status == 200
    relay.counters.state = State.DRAINING
    response, body = relay.get("/readyz?verbose")
    assert response.status == 503
    assert body.splitlines()[0] == "[-] state: draining"


def test_readyz_stays_200_while_only_kafka_is_down_and_verbose_shows_it(relay: Relay) -> None:
    relay.counters.postgres_connected = True
    relay.counters.last_error = "no broker answers, sasl.password=s3cr3t"
    response, body = relay.get("/readyz?verbose")

    assert response.status == 200
    assert body.splitlines() == [
        "[+] state: streaming",
        "[+] postgres: connected",
        "[i] kafka: not connected",
        "[i] last_error: no broker answers, sasl.password=***",
        "[i] health: warning: Kafka does not answer",
        "ok",
    ]


def test_metrics_are_prometheus_text_by_default(relay: Relay) -> None:
    response, body = relay.get("/metrics")

    assert response.getheader("Content-Type") == "text/plain; version=0.0.4; charset=utf-8"
    assert "cdc_outbox_events_published" in {family.name for family in text_string_to_metric_families(body)}


def test_metrics_are_openmetrics_for_clients_that_accept_it(relay: Relay) -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
    response, body = relay.get("/metrics", Accept=accept)

    assert str(response.getheader("Content-Type")).startswith("application/openmetrics-text; version=1.0.0;")
    assert "cdc_outbox_events_published" in {family.name for family in parse_openmetrics(body)}


def test_status_is_json(relay: Relay) -> None:
    response, body = relay.get("/status")

    assert response.getheader("Content-Type") == "application/json"
    document = json.loads(body)
    assert (document["state"], document["slot"], document["wal_status"]) == ("streaming", "cdc_outbox", None)


def test_the_page_comes_with_its_policy_and_its_figures_apart(relay: Relay) -> None:
    response, body = relay.get("/")
    assert response.getheader("Content-Type") == "text/html; charset=utf-8"
    assert "default-src 'none'" in str(response.getheader("Content-Security-Policy"))
    assert body.startswith("<!doctype html>")

    response, body = relay.get("/page.json")
    figures = json.loads(body)
    assert (figures["published"], figures["status"]["alive"], figures["status"]["state"]) == (1, True, "streaming")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", ["/livez", "/status", "/nothing"])
def test_only_get_and_head_are_allowed(relay: Relay, method: str, path: str) -> None:
    response, _ = relay.request(method, path)

    assert (response.status, response.getheader("Allow")) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/livez", "/readyz?verbose", "/metrics", "/status", "/", "/nothing"])
def test_head_has_the_head_of_get_and_no_body(relay: Relay, path: str) -> None:
    head, body = relay.request("HEAD", path)
    get, _ = relay.get(path)

    assert body == ""
    assert head.status == get.status
    same = ("Content-Type", "Content-Security-Policy", "Cache-Control", "Server")
    assert [head.getheader(name) for name in same] == [get.getheader(name) for name in same]
    assert int(head.getheader("Content-Length") or 0) > 0


LOOPBACK_NAMES = [
    "localhost",
    "LOCALHOST:1",
    "localhost.:80",
    "relay.localhost",
    "127.0.0.1",
    "127.3.2.1:8420",
    "[::1]:8420",
]
OTHER_NAMES = [
    "evil.example", "evil.example:8420", "10.0.0.1", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]:8420",
    "evil.example:localhost", "localhost@evil.example", "", "[", "127.1.evil", "notlocalhost",
]  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/page.json", "/status", "/metrics", "/livez", "/nothing"])
@pytest.mark.parametrize("host", OTHER_NAMES)
def test_on_loopback_a_request_for_another_host_is_refused(relay: Relay, path: str, host: str) -> None:
    response, body = relay.get(path, Host=host)

    assert (response.status, body) == (421, "Misdirected Request\n")


def test_two_hosts_are_refused_when_either_is_another(relay: Relay) -> None:
    answer = relay.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")

    assert answer.startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize("host", LOOPBACK_NAMES)
def test_on_loopback_its_own_names_are_answered(relay: Relay, host: str) -> None:
    assert relay.get("/status", Host=host)[0].status == 200


def test_the_host_of_the_option_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kwargs: resolved)
    with opened(Counters(), Clock(), "This-Machine:0") as address:
        monkeypatch.undo()
        host, _, port = str(address).rpartition(":")
        relay = Relay(Counters(), Clock(), f"{host}:{port}")
        assert relay.get("/status", Host="this-machine:8420")[0].status == 200
        assert relay.get("/status", Host="evil.example")[0].status == 421


def test_beyond_loopback_every_host_is_answered() -> None:
    with opened(Counters(), Clock(), "0.0.0.0:0") as address:
        port = str(address).rpartition(":")[2]
        relay = Relay(Counters(), Clock(), f"127.0.0.1:{port}")
        assert relay.get("/status", Host="cdc-outbox.shop.svc:8420")[0].status == 200


def test_an_unknown_path_is_404(relay: Relay) -> None:
    response, body = relay.get("/nothing")

    assert response.status == 404
    assert "/metrics" in body


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /xyzzy HTTP/1.1\r\nHost: xyzzy\r\nX: xyzzy\r\n\r\n",
        b"GET /metrics?name[]=xyzzy HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.9xyzzy\r\n\r\n",
        b"GET /livez?xyzzy HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/xyzzy\r\n\r\n",
        b"xyzzy\r\n\r\n",
        b"XYZZY /xyzzy HTTP/1.1\r\n\r\n",
        b"\xffxyzzy \x00 HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nxyzzy\r\n\r\n",
    ],
)
def test_nothing_of_a_request_comes_back(relay: Relay, request_bytes: bytes) -> None:
    answer = relay.send(request_bytes)

    assert answer.startswith((b"HTTP/1.0 ", b"Bad Request"))
    assert b"xyzzy" not in answer.lower()


def test_no_answer_names_a_version_of_the_server(relay: Relay) -> None:
    response, _ = relay.get("/livez")

    assert response.getheader("Server") == "cdc-outbox"
    assert b"Python" not in relay.send(b"BREW / HTTP/1.1\r\n\r\n")


def test_a_head_that_is_too_long_is_refused(relay: Relay) -> None:
    head = b"GET /livez HTTP/1.1\r\nX: " + b"x" * (HEAD_BYTES + 1)

    assert relay.send(head).startswith(b"HTTP/1.0 431 ")


def test_a_head_in_pieces_is_put_together(relay: Relay) -> None:
    with socket.create_connection(relay.place, timeout=DEADLINE_SECONDS) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in (b"GET /li", b"vez HTTP/1.1\r\nHo", b"st: localhost\r\n\r", b"\n"):
            connection.sendall(piece)
        assert connection.recv(65536).startswith(b"HTTP/1.0 200 ")


def test_a_client_that_sends_its_head_slowly_is_disconnected(monkeypatch: pytest.MonkeyPatch, relay: Relay) -> None:
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.3)
    begun = time.monotonic()
    with socket.create_connection(relay.place, timeout=DEADLINE_SECONDS) as connection:
        connection.settimeout(0.05)
        ended = False
        while not ended and time.monotonic() - begun < DEADLINE_SECONDS:
            try:
                connection.sendall(b"x")
                ended = connection.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True

    assert ended
    assert time.monotonic() - begun < 5


def test_a_client_that_disconnects_early_is_not_logged(relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        socket.create_connection(relay.place, timeout=DEADLINE_SECONDS).close()

    assert relay.get("/livez")[0].status == 200
    assert caplog.records == []


def test_scrapes_from_several_sides_at_once_are_all_answered(relay: Relay) -> None:
    statuses: list[int] = []

    def scrape() -> None:
        statuses.extend(relay.get("/metrics")[0].status for _ in range(5))

    threads = [threading.Thread(target=scrape) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert statuses == [200] * 20


def test_the_port_is_free_again_after_the_end() -> None:
    with opened(Counters(), Clock()) as address:
        assert address is not None
    with opened(Counters(), Clock(), address) as again:
        assert again == address
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=DEADLINE_SECONDS)


def test_a_port_in_use_is_a_configuration_error_that_names_the_option() -> None:
    with opened(Counters(), Clock()) as address, pytest.raises(ConfigurationError) as caught:
        opened(Counters(), Clock(), str(address)).__enter__()

    assert caught.value.exit_code == 78
    assert "--http" in caught.value.cure
    assert str(address) in str(caught.value)


@pytest.mark.parametrize("address", ["203.0.113.1:8420", f"{'a' * 70}.invalid:8420"])
def test_an_address_of_another_machine_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        opened(Counters(), Clock(), address).__enter__()

    assert "--http" in caught.value.cure


def test_off_opens_nothing() -> None:
    with opened(Counters(), Clock(), "off") as address:
        assert address is None


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_it_listens_on_ipv6_too() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 loopback: {error}")
    with opened(Counters(), Clock(), "[::1]:0") as address:
        assert str(address).startswith("[::1]:")
        with socket.create_connection(("::1", int(str(address).rpartition(":")[2])), timeout=DEADLINE_SECONDS) as one:
            one.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert one.recv(100).startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize(
    ("address", "parts"),
    [("127.0.0.1:8420", ("127.0.0.1", 8420)), ("[::1]:0", ("::1", 0)), (":8420", ("", 8420)), ("db:1", ("db", 1))],
)
def test_addresses(address: str, parts: tuple[str, int]) -> None:
    assert parse_address(address) == parts


@pytest.mark.parametrize("address", ["", "8420", "localhost", "localhost:", "a:65536", "a:-1", "::1:80", "a:٣", "on"])
def test_what_is_no_address_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigurationError):
        parse_address(address)


def test_a_view_that_fails_is_logged_and_the_server_lives(relay: Relay) -> None:
    import structlog.testing

    relay.counters.latency_buckets.clear()
    with structlog.testing.capture_logs() as lines:
        answer = relay.send(b"GET /metrics HTTP/1.1\r\n\r\n")
        _until(lambda: bool(lines))

    assert answer.startswith(b"HTTP/1.0 500 ")
    assert lines[0]["event"] == "http.failed"
    assert relay.get("/livez")[0].status == 200


def _until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        threading.Event().wait(0.02)
