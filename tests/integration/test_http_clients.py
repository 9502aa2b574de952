"""The HTTP server among many, slow, half-open and wrong clients: a probe is answered within a second all the while."""

from __future__ import annotations

import contextlib
import itertools
import socket
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, TopicCounters
from cdc_outbox.observe import Versions, http_server
from cdc_outbox.observe import http as http_side
from cdc_outbox.observe.http import Shared, serve
from cdc_outbox.observe.http_server import (
    HEAD_SECONDS,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_PEER,
    Answer,
    HttpServer,
    _Connection,
    _Waits,
)
from cdc_outbox.observe.metrics import build_registry
from tests.plugins.waiting import eventually

SETTINGS = Settings(brokers="kafka:9092")
PROBE_SECONDS = 1.0
"""What a probe waits for an answer: the kubelet's default."""

IDLE = 200
CONNECTS_PER_SECOND = 50
PROBED_SECONDS = 3.0
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"

Place = tuple[str, int]
Open = Callable[[], socket.socket]


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(http_side, "POLL_SECONDS", 0.02)
    topics = {f"topic-{number:0100}": TopicCounters(delivered=1) for number in range(200)}
    counters = Counters(state="streaming", topics=topics)
    registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
    with serve("127.0.0.1:0", counters, SETTINGS, registry) as address:
        host, _, port = str(address).rpartition(":")
        yield host, int(port)


def client(place: Place, sends: bytes = b"", *, window: int = 65536) -> socket.socket:
    """A connection that has sent this much. OSError when it is hung up on meanwhile."""
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        made.settimeout(PROBE_SECONDS)
        made.connect(place)
        made.sendall(sends)
    except BaseException:
        made.close()
        raise
    return made


def idle(place: Place) -> socket.socket:
    return client(place)


def half_a_head(place: Place) -> socket.socket:
    return client(place, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")


def reads_nothing(place: Place) -> socket.socket:
    """Asks for much and takes nothing: the answer does not fit into the smallest window."""
    return client(place, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", window=1)


def garbage(place: Place) -> socket.socket:
    return client(place, bytes(range(128, 256)))


def half_closed(place: Place) -> socket.socket:
    """Has no more to send, and keeps the connection."""
    made = half_a_head(place)
    with contextlib.suppress(OSError):
        made.shutdown(socket.SHUT_WR)
    return made


KINDS = [idle, half_a_head, reads_nothing, garbage, half_closed]


@pytest.mark.parametrize("kind", KINDS)
def test_probes_are_answered_within_a_second_amid_a_flood(place: Place, kind: Callable[[Place], socket.socket]) -> None:
    with flood(lambda: kind(place)):
        worst = max(answer_seconds(place) for _ in probes(PROBED_SECONDS))

    assert worst < PROBE_SECONDS


def test_probes_are_answered_within_a_second_amid_a_flood_of_all_kinds(place: Place) -> None:
    kinds = itertools.cycle(KINDS)
    with flood(lambda: next(kinds)(place)):
        worst = max(answer_seconds(place) for _ in probes(PROBED_SECONDS))

    assert worst < PROBE_SECONDS


def test_connections_are_made_while_the_server_has_no_time_to_accept_them() -> None:
    """One that does not fit into the queue is made when its client asks again, after a second."""
    server = HttpServer(
        socket.AF_INET, ("127.0.0.1", 0), lambda *_: pytest.fail("nothing is asked"), name="localhost", policy=""
    )
    with server, contextlib.ExitStack() as stack:
        for _ in range(2 * IDLE):
            begun = time.monotonic()
            stack.enter_context(socket.create_connection(server.server_address[:2], timeout=2 * PROBE_SECONDS))
            assert time.monotonic() - begun < PROBE_SECONDS


def test_requests_that_wait_together_share_one_computation_that_began_after_they_came() -> None:
    begun, goes_on = threading.Event(), threading.Event()
    state = itertools.count()

    def compute() -> Answer:
        body = b"%d" % next(state)
        begun.set()
        assert goes_on.wait(10)
        return HTTPStatus.OK, "text/plain", body

    shared = Shared(compute)
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(shared()[2])) for _ in range(10)]
    threads[0].start()
    assert begun.wait(10)
    for thread in threads[1:]:
        thread.start()
    eventually(lambda: all(is_in(thread, Shared.__call__) for thread in threads[1:]), "they wait")
    goes_on.set()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [b"0"] + 9 * [b"1"]
    assert shared()[2] == b"2", "nothing is kept for a later request"


def test_a_computation_that_fails_is_begun_again_for_the_next_request() -> None:
    outcomes: list[Answer | Exception] = [OSError("no"), (HTTPStatus.OK, "text/plain", b"well")]

    def compute() -> Answer:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    shared = Shared(compute)
    with pytest.raises(OSError, match="no"):
        shared()
    assert shared()[2] == b"well"


def is_in(thread: threading.Thread, function: types.FunctionType) -> bool:
    """Whether the thread runs, or waits in, this function."""
    assert thread.ident is not None
    frame = sys._current_frames().get(thread.ident)
    return frame is not None and frame.f_code is function.__code__


@contextlib.contextmanager
def computing(goes_on: threading.Event, number: int) -> Iterator[tuple[Place, list[socket.socket]]]:
    """A server, and this many connections whose answers are being computed until the event is set."""
    computed: list[str] = []

    def view(target: str, _accept: str) -> Answer:
        computed.append(target)
        assert goes_on.wait(20)
        return HTTPStatus.OK, "text/plain", b""

    with contextlib.ExitStack() as stack:
        server = stack.enter_context(HttpServer(socket.AF_INET, ("127.0.0.1", 0), view, name="localhost", policy=""))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        stack.callback(server.shutdown)
        there = (str(server.server_address[0]), int(server.server_address[1]))
        clients = [stack.enter_context(client(there, PROBE)) for _ in range(number)]
        eventually(lambda: len(computed) == number, "the answers are being computed")
        yield there, clients


@contextlib.contextmanager
def full(goes_on: threading.Event) -> Iterator[tuple[list[socket.socket], socket.socket, socket.socket]]:
    """An address without a free place: one client is silent, the answers of the others are computed. And one client more."""
    with (
        computing(goes_on, MAX_CONNECTIONS_PER_PEER - 1) as (there, clients),
        idle(there) as silent,
        client(there, PROBE) as one_more,
    ):
        yield clients, silent, one_more


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new connection waits for its place longer than a test takes."""
    monkeypatch.setattr(http_server, "ANSWER_SECONDS", 20.0)


@pytest.mark.usefixtures("patient")
def test_a_connection_waits_for_a_place_while_the_answers_of_all_others_are_computed() -> None:
    goes_on = threading.Event()
    with computing(goes_on, MAX_CONNECTIONS_PER_PEER) as (there, clients), client(there, PROBE) as one_more:
        with pytest.raises(TimeoutError):
            one_more.recv(1)
        goes_on.set()
        assert all(each.recv(65536).startswith(b"HTTP/1.0 200 ") for each in (*clients, one_more))


@pytest.mark.usefixtures("patient")
def test_a_client_that_is_about_to_send_its_head_keeps_its_place_while_answers_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_server, "USUAL_HEAD_SECONDS", 20.0)
    goes_on = threading.Event()
    with full(goes_on) as (clients, about_to, one_more):
        with pytest.raises(TimeoutError):
            about_to.recv(1)
        about_to.sendall(PROBE)
        goes_on.set()
        assert all(each.recv(65536).startswith(b"HTTP/1.0 200 ") for each in (*clients, about_to, one_more))


@pytest.mark.usefixtures("patient")
def test_a_late_head_gives_its_place_to_a_new_connection() -> None:
    goes_on = threading.Event()
    with full(goes_on) as (_clients, late, one_more):
        assert late.recv(1) == b""
        goes_on.set()
        assert one_more.recv(65536).startswith(b"HTTP/1.0 200 ")


def test_a_connection_is_idle_while_it_waits_for_its_client() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        head, answer = (_Connection(ours, "127.0.0.1", 0.0, waits) for waits in (_Waits.HEAD, _Waits.TAKING))
        assert head.idle
        assert not answer.idle, "its thread is about to send"
        theirs.sendall(b"GET")
        assert not head.idle, "its thread is about to read"
        with contextlib.suppress(BlockingIOError):
            while True:
                ours.send(bytes(65536))
        assert answer.idle


def test_the_oldest_connection_without_a_head_goes_first(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(idle(place)) for _ in range(MAX_CONNECTIONS_PER_PEER + 1)]
        assert clients[0].recv(1) == b""
        clients[1].sendall(PROBE)
        assert clients[1].recv(65536).startswith(b"HTTP/1.0 200 ")


def test_a_flood_from_one_address_leaves_the_connections_of_another(place: Place) -> None:
    with contextlib.ExitStack() as stack:
        other = stack.enter_context(
            socket.create_connection(place, timeout=PROBE_SECONDS, source_address=("127.0.0.9", 0))
        )
        for _ in range(2 * MAX_CONNECTIONS):
            stack.enter_context(idle(place))
        other.sendall(PROBE)
        assert other.recv(65536).startswith(b"HTTP/1.0 200 ")


def test_floods_from_many_addresses_leave_a_probe_its_answer(place: Place) -> None:
    addresses = itertools.cycle(range(2, 250))

    def from_another_address() -> socket.socket:
        return socket.create_connection(place, timeout=PROBE_SECONDS, source_address=(f"127.0.0.{next(addresses)}", 0))

    with flood(from_another_address):
        worst = max(answer_seconds(place) for _ in probes(PROBED_SECONDS))

    assert worst < PROBE_SECONDS


def test_a_flood_leaves_no_threads_and_no_descriptors(place: Place) -> None:
    before = threading.active_count(), descriptors()
    with flood(lambda: idle(place)):
        answer_seconds(place)
        assert threading.active_count() < before[0] + 3 * MAX_CONNECTIONS
    deadline = time.monotonic() + 2 * HEAD_SECONDS
    while (threading.active_count(), descriptors()) > before:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def probes(seconds: float) -> Iterator[None]:
    """One after the other, for so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield
        time.sleep(0.05)


def answer_seconds(place: Place) -> float:
    """How long a probe took. Fails unless the answer is 200."""
    begun = time.monotonic()
    with socket.create_connection(place, timeout=2 * PROBE_SECONDS) as client:
        client.sendall(PROBE)
        assert client.recv(65536).startswith(b"HTTP/1.0 200 ")
    return time.monotonic() - begun


@contextlib.contextmanager
def flood(open_one: Open) -> Iterator[None]:
    """`IDLE` connections that are kept, and `CONNECTS_PER_SECOND` more."""
    clients: list[socket.socket] = []
    over = threading.Event()

    def connect() -> None:
        while not over.wait(1 / CONNECTS_PER_SECOND):
            with contextlib.suppress(OSError):
                clients.append(open_one())

    for _ in range(IDLE):
        with contextlib.suppress(OSError):
            clients.append(open_one())
    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for client in clients:
            client.close()
