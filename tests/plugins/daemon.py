"""`cdc-outbox run` as a process: started, watched through its log lines, signalled, waited for.

Whoever uses it gets two promises checked on the side, for every relay of every test: no traceback reaches stderr, and
no password.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import pytest
from psycopg.conninfo import conninfo_to_dict

from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.reaper import ProcessReaper
from tests.plugins.fork_server import ForkedProcess, can_fork, fork_server
from tests.servers.standstill import stand_still

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

LogLine = dict[str, Any]

DEPLOYED: Final = Path(__file__).parent / "deployed"
"""Comes before the installed packages. Where a relay is deployed there is no rich, which is the demo's; where there is,
structlog imports it, and that is a quarter of what a relay takes to start.
"""

EXECUTED: Final = os.environ.get("CDC_OUTBOX_TEST_START") == "exec"
"""Start all relays as a user does: `make test-older` does so."""

_SAMPLE_SECONDS: Final = 0.1
"""How often the peak of memory is read: the kernel keeps it, but only until the process ends."""


class Relay:
    """A running relay. `http`: serve /metrics and the like on `http_port`, a free one.

    `executed`: start the interpreter anew, as a user does; otherwise it is a fork, which takes a third of the CPU.
    """

    def __init__(
        self, arguments: list[str], *, env: Mapping[str, str], cwd: Path, http: bool, executed: bool = False
    ) -> None:
        self.http_port = free_port() if http else None
        served = f"127.0.0.1:{self.http_port}" if http else "off"
        self.arguments = ["run", "--http", served, "--log-format", "json", *arguments]
        self.logs: list[LogLine] = []
        self._stderr: list[str] = []
        self._stdout: list[str] = []
        self._news = threading.Condition()
        self._peak = 0
        self._process: ForkedProcess | subprocess.Popen[str]
        if executed or EXECUTED or not can_fork(env):
            self._process = _executed(self.arguments, _environment(env), cwd)
        else:
            server = fork_server(tuple(_environment({}, _OWN_ENVIRONMENT).items()))
            self._process = server.start(self.arguments, env=_environment(env), cwd=cwd)
        self._guard = ProcessReaper(self._process.pid, by=signal.SIGKILL)
        self._threads = [
            threading.Thread(target=self._read_stderr, args=[self._process.stderr], daemon=True),
            threading.Thread(target=self._read_stdout, args=[self._process.stdout], daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # -- what it says

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def stderr_text(self) -> str:
        """All of stderr so far."""
        return "".join(self._stderr)

    @property
    def stdout_text(self) -> str:
        """All of stdout so far: data, so nothing for `run`."""
        return "".join(self._stdout)

    @property
    def http_url(self) -> str:
        """Where its HTTP server listens."""
        assert self.http_port is not None, "started without http=True"
        return f"http://127.0.0.1:{self.http_port}"

    def log_lines(self, event: str, **fields: Any) -> list[LogLine]:
        """Lines of this event so far, with these fields."""
        return [line for line in list(self.logs) if _is(line, event, fields)]

    def wait_for_log(self, event: str, timeout: float = 20.0, *, nth: int = 1, **fields: Any) -> LogLine:
        """The `nth` line of this event with these fields, waited for. AssertionError when the relay ends, or is late."""

        def there() -> bool:
            return len(self.log_lines(event, **fields)) >= nth or self._ended()

        with self._news:
            self._news.wait_for(there, timeout)
        found = self.log_lines(event, **fields)
        if len(found) < nth:
            how = f"the relay ended with {self._process.returncode}" if self._ended() else f"{timeout:g} s have passed"
            msg = f"{how}, and log event {event!r} {fields or ''} came {len(found)} times instead of {nth}"
            raise AssertionError(f"{msg}\n{self.stderr_text}")
        return found[nth - 1]

    # -- what is done to it

    def terminate(self) -> None:
        """SIGTERM: drain and stop."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> int:
        """SIGKILL, waited for. Returns the exit code, -9."""
        self.send_signal(signal.SIGKILL)
        return self.wait()

    def stop(self) -> None:
        """SIGSTOP: the process stands still, its connections stay open."""
        stand_still(self.pid)

    def cont(self) -> None:
        """SIGCONT after `stop()`."""
        self.send_signal(signal.SIGCONT)

    def send_signal(self, number: signal.Signals) -> None:
        """Any signal; none is sent to a relay that has ended."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit code (negative: the signal), once it has ended and all its output is read. AssertionError when late."""
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                raise AssertionError(f"the relay has not ended within {timeout:g} s\n{self.stderr_text}")
        code = self._process.returncode
        assert code is not None
        return code

    @property
    def running(self) -> bool:
        """Whether the process lives (a stopped one does)."""
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Resident memory now."""
        return _status_bytes(self.pid, "VmRSS")

    def peak_rss_bytes(self) -> int:
        """The most resident memory it ever had; after its end, as of the last tenth of a second."""
        with contextlib.suppress(OSError, LookupError):
            self._peak = max(self._peak, _status_bytes(self.pid, "VmHWM"))
        return self._peak

    def close(self) -> None:
        """End it, however."""
        if self.running:
            self.send_signal(signal.SIGKILL)
        self._process.wait()
        self._guard.release()
        for thread in self._threads:
            thread.join(10.0)

    # -- threads

    def _ended(self) -> bool:
        """Ended, and its stderr read to the end."""
        return not self._threads[0].is_alive()

    def _read_stderr(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self._stderr.append(line)
                with contextlib.suppress(ValueError):
                    parsed = json.loads(line)
                    if isinstance(parsed, dict):
                        self.logs.append(parsed)
                with self._news:
                    self._news.notify_all()

    def _read_stdout(self, pipe: IO[str]) -> None:
        with pipe:
            self._stdout.extend(pipe)

    def _watch(self) -> None:
        while self._process.poll() is None:
            self.peak_rss_bytes()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_SAMPLE_SECONDS)
        self._threads[0].join()
        with self._news:
            self._news.notify_all()


def _executed(arguments: list[str], env: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=env,
        cwd=cwd,
        start_new_session=True,
    )


_OWN_ENVIRONMENT: Final = dict(os.environ)
"""As it was before tests changed it."""


def _environment(extra: Mapping[str, str], own: Mapping[str, str] = os.environ) -> dict[str, str]:
    """A developer's own settings of cdc-outbox and libpq must not reach the relay under test."""
    kept = {name: value for name, value in own.items() if not re.match(r"CDC_OUTBOX_(?!NATIVE$)|PG[A-Z]", name)}
    path = os.pathsep.join(filter(None, (str(DEPLOYED), kept.get("PYTHONPATH"))))
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONPATH": path, **extra}


def _is(line: LogLine, event: str, fields: Mapping[str, Any]) -> bool:
    return line.get("event") == event and all(line.get(name) == value for name, value in fields.items())


def _status_bytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    raise LookupError(field)  # a zombie has no memory


_TELLING: Final = 8
"""Characters: a shorter password may well be a word of the log."""

_RELAYS: Final = pytest.StashKey[list[Relay]]()
_FAILED: Final = pytest.StashKey[bool]()


@pytest.fixture
def relay(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Relay]]:
    """Starts relays: `relay("--topic", "{aggregatetype}", database=database, kafka=kafka, env={...}, http=True)`.

    `database` and `kafka` become --dsn and --brokers; leave them out to say it another way. `dsn` and `brokers` override them.
    """
    for server in {"database", "kafka", "own_postgres", "own_kafka", "proxy"} & set(request.fixturenames):
        request.getfixturevalue(server)  # set up before the relay, so taken down after it, however the test lists them
    started: list[Relay] = []
    secrets: set[str] = set()
    request.node.stash[_RELAYS] = started

    def start(
        *arguments: str,
        database: Database | None = None,
        kafka: KafkaCluster | None = None,
        dsn: str | None = None,
        brokers: str | None = None,
        env: Mapping[str, str] | None = None,
        http: bool = False,
        executed: bool = False,
    ) -> Relay:
        dsn = dsn or (database.dsn if database else None)
        brokers = brokers or (kafka.brokers if kafka else None)
        given = [*(("--dsn", dsn) if dsn else ()), *(("--brokers", brokers) if brokers else ()), *arguments]
        if dsn and len(password := str(conninfo_to_dict(dsn).get("password", ""))) >= _TELLING:
            secrets.add(password)
        started.append(Relay(given, env=env or {}, cwd=tmp_path, http=http, executed=executed))
        return started[-1]

    yield start
    for each in started:
        each.close()
    if request.node.stash.get(_FAILED, False):
        return  # said already, with the logs
    for each in started:
        assert "Traceback (most recent call last)" not in each.stderr_text, "a traceback reached stderr"
        assert not [secret for secret in secrets if secret in each.stderr_text], "a password reached stderr"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The logs of a failed test's relays are part of its report."""
    report = yield
    if report.failed and _RELAYS in item.stash:
        item.stash[_FAILED] = True
        relays = item.stash[_RELAYS]
        for number, each in enumerate(relays, start=1):
            report.sections.append((f"relay {number}: {' '.join(_masked(each.arguments))}", each.stderr_text))
    return report


def _masked(arguments: list[str]) -> list[str]:
    return [
        "(dsn)" if before == "--dsn" else argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]
