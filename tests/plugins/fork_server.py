"""Starts `cdc-outbox` by a fork of a process that has imported it already.

The interpreter and the imports are two thirds of the CPU of a short relay, and the tests start a thousand of them. Apart from
that, a forked relay is like any other process: its own session, descriptors, environment, folder and exit code.

In: arguments, environment, folder. Out: a `ForkedProcess`, which has what the tests use of `subprocess.Popen`.
Never: a thread or a connection in the server, so that its children inherit neither; a server that outlives this process.
Where there is no os.pidfd_open (not Linux), and for variables that an interpreter reads at its start, use Popen.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).resolve().parent.parent.parent

MESSAGE_BYTES: Final = 1 << 17
"""The longest request: arguments and environment. Linux limits a message of a local socket to 200 kB by default."""

READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "LD_", "TZ", "MALLOC_")
"""Beginnings of the names of variables that take effect when an interpreter starts, so not in a fork."""

IMPORTED: Final = ("cdc_outbox.cli.run", "cdc_outbox.service", "cdc_outbox.kafka.producer", "http.server")
"""What `run` imports, now or later."""

START_SECONDS: Final = 60.0
"""The server's start on a busy machine."""


def can_fork(extra: Mapping[str, str]) -> bool:
    """Whether a process with these variables, beside the server's own, can be a fork."""
    return hasattr(os, "pidfd_open") and not any(name.startswith(READ_AT_START) for name in extra)


class ForkedProcess:
    """A started process. As of Popen: `pid`, `returncode`, `poll`, `wait`, `send_signal`, and its output as text."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: IO[str]
        self.stderr: IO[str]
        self._over = threading.Event()

    def poll(self) -> int | None:
        """The exit code (negative: the signal), None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code. Raises subprocess.TimeoutExpired after `timeout` seconds."""
        if not self._over.wait(timeout):
            raise subprocess.TimeoutExpired("cdc-outbox", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def over(self, code: int) -> None:
        """Called by the server's reader."""
        self.returncode = code
        self._over.set()


class ForkServer:
    """The server's side in this process. Any thread may start a process."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=env,
                cwd=ROOT,
                start_new_session=True,
            )
        self._running: dict[int, ForkedProcess] = {}
        self._started: queue.SimpleQueue[ForkedProcess] = queue.SimpleQueue()
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: list[str], *, env: Mapping[str, str], cwd: Path) -> ForkedProcess:
        """Start `cdc-outbox` with these arguments and this environment."""
        out, err = os.pipe(), os.pipe()
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}).encode()
        assert len(request) < MESSAGE_BYTES
        with self._one_at_a_time:
            socket.send_fds(self._socket, [request], [out[1], err[1]])
            os.close(out[1])
            os.close(err[1])
            process = self._started.get(timeout=START_SECONDS)
        process.stdout, process.stderr = (open(end, encoding="utf-8") for end in (out[0], err[0]))  # noqa: PTH123, SIM115
        return process

    def close(self) -> None:
        """End the server: it reads the end of the connection."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while message := self._socket.recv(MESSAGE_BYTES):
                pid, code = json.loads(message)
                if code is None:
                    self._running[pid] = ForkedProcess(pid)
                    self._started.put(self._running[pid])
                else:
                    self._running.pop(pid).over(code)


@functools.cache
def fork_server(environment: tuple[tuple[str, str], ...]) -> ForkServer:
    """The server whose interpreter was started with this environment, for the rest of this process."""
    server = ForkServer(dict(environment))
    atexit.register(server.close)
    return server


def _serve(connection: socket.socket) -> None:
    """Start what is asked for and report what ends. Returns at the end of the connection, or as the child."""
    poller = select.poll()
    poller.register(connection, select.POLLIN)
    children: dict[int, int] = {}
    while True:
        for ready, _ in poller.poll():
            if ready != connection.fileno():
                pid = children.pop(ready)
                poller.unregister(ready)
                os.close(ready)
                _send(connection, pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                continue
            request, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 2)
            if not request:
                sys.exit()
            pid = os.fork()
            if pid == 0:
                connection.close()
                for each in children:
                    os.close(each)
                _become(json.loads(request), descriptors)
                return
            for each in descriptors:
                os.close(each)
            _send(connection, pid, None)
            descriptor = os.pidfd_open(pid)
            children[descriptor] = pid
            poller.register(descriptor, select.POLLIN)


def _send(connection: socket.socket, pid: int, code: int | None) -> None:
    with contextlib.suppress(BrokenPipeError):
        connection.send(json.dumps([pid, code]).encode())


def _become(request: dict[str, object], descriptors: list[int]) -> None:
    """Take the session, output, folder, environment and arguments of the process that is asked for."""
    os.setsid()
    for number, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.path[0] = str(request["cwd"])
    sys.argv[:] = [str(ROOT / "cdc_outbox" / "__main__.py"), *request["arguments"]]  # type: ignore[misc]


def _main() -> NoReturn:
    import setproctitle

    from cdc_outbox.cli import main

    for each in IMPORTED:
        importlib.import_module(each)
    setproctitle.getproctitle()  # finds the arguments by the environment beside them, so before the environment changes
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        _serve(connection)
    main()


if __name__ == "__main__":
    _main()
