"""The container's question: is the relay alive? 0 or 1, quickly, whatever the answer is."""

from __future__ import annotations

import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

FAST_SECONDS = 1.0
"""Ten times what it takes on an idle machine (measured: 0.07 s), so that a busy one does not fail the test."""


class Livez(http.server.BaseHTTPRequestHandler):
    status: ClassVar[int] = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/livez" else 404)
        self.end_headers()
        self.wfile.write(b"ok\nmore\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(params=["127.0.0.1", "::1"])
def relay(request) -> Iterator[http.server.HTTPServer]:
    class Server(http.server.HTTPServer):
        address_family = socket.AF_INET6 if request.param == "::1" else socket.AF_INET

    try:
        server = Server((request.param, 0), Livez)
    except OSError:
        pytest.skip(f"no {request.param} here")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def address(server: http.server.HTTPServer, host: str | None = None) -> str:
    host = host or str(server.server_address[0])
    return f"[{host}]:{server.server_port}" if ":" in host else f"{host}:{server.server_port}"


def test_a_relay_that_is_alive_is_healthy(relay, invoke) -> None:
    result = invoke("healthcheck", "--http", address(relay))
    assert (result.exit_code, result.stdout) == (0, "ok\n")
    assert invoke("healthcheck", CDC_OUTBOX_HTTP=address(relay)).exit_code == 0


def test_the_address_that_means_all_is_asked_on_the_loopback(relay, invoke) -> None:
    everywhere = "::" if ":" in str(relay.server_address[0]) else "0.0.0.0"
    assert invoke("healthcheck", "--http", address(relay, everywhere)).exit_code == 0


def test_a_relay_that_answers_503_is_not_healthy(relay, invoke, monkeypatch) -> None:
    monkeypatch.setattr(Livez, "status", 503)
    result = invoke("healthcheck", "--http", address(relay))
    assert (result.exit_code, result.stdout) == (1, "")


def test_no_relay_is_not_healthy(invoke) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = invoke("healthcheck", "--http", f"127.0.0.1:{unused.getsockname()[1]}")
    assert result.exit_code == 1
    assert "no answer from 127.0.0.1" in result.stderr


def test_a_relay_that_does_not_answer_is_not_healthy(invoke, monkeypatch) -> None:
    monkeypatch.setattr("cdc_outbox.cli.healthcheck.TIMEOUT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert invoke("healthcheck", "--http", f"127.0.0.1:{silent.getsockname()[1]}").exit_code == 1


def test_what_answers_something_else_is_not_healthy(invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            client, _ = server.accept()
            with client:
                client.recv(1000)
                client.sendall(b"this is no HTTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        result = invoke("healthcheck", "--http", f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert result.exit_code == 1
    assert "Traceback" not in result.output


def test_the_healthcheck_takes_a_fraction_of_a_second(relay) -> None:
    """The best of three, as a process, from start to end."""
    executable = str(Path(sys.executable).with_name("cdc-outbox"))
    took = []
    for _ in range(3):
        begun = time.monotonic()
        subprocess.run([executable, "healthcheck", "--http", address(relay)], check=True, capture_output=True)
        took.append(time.monotonic() - begun)
    assert min(took) < FAST_SECONDS
