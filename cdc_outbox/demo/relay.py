"""The relay as users run it: `cdc-outbox run` in a process of its own, which can be killed.

In: a connection string and brokers. Out: a relay process, until it is stopped or killed, or this process ends.
Never: a password in its arguments, or a setting of the user's own environment in it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from typing import IO, Final

from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.reaper import ProcessReaper
from cdc_outbox.errors import CdcOutboxError

STOP_SECONDS: Final = 30.0
"""Seconds for a stop: more than --shutdown-timeout, 25 s by default."""

KILLED: Final = "KILLED"

LAST_LINES: Final = 5
"""Lines of its log to show if it ends unexpectedly."""


class RelayProcess:
    """One relay at a time, on the same slot at each start."""

    def __init__(self, dsn: str, brokers: str) -> None:
        self.http = f"127.0.0.1:{free_port()}"
        """The address of /metrics, /status, /livez and /readyz."""
        self.arguments = ["run", "--brokers", brokers, "--http", self.http, "--log-format", "json"]
        self._environment = {**clean_environment(), "CDC_OUTBOX_DSN": dsn}
        self.state = "not started"
        """Its state, for the view."""
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: ProcessReaper | None = None
        self._log: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; None when there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start it; returns at once."""
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in _ended)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdc_outbox", *self.arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
            env=self._environment,
            start_new_session=True,  # Ctrl-C on the terminal must not reach it
        )
        self._reaper = ProcessReaper(self._process.pid, by=signal.SIGKILL)
        self.state = f"(pid {self._process.pid})"

    def check(self) -> None:
        """Raise CdcOutboxError, with the end of its log, when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            code, text = self._process.returncode, self._last_lines()
            self._ended()
            raise CdcOutboxError(f"the relay ended by itself, with exit code {code}:\n{text}")

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        self._end(signal.SIGKILL)
        self.state = KILLED

    def stop(self) -> None:
        """SIGTERM: deliver what is in flight, confirm it, end with 0. Raises CdcOutboxError for any other end."""
        code, text = self._end(signal.SIGTERM)
        self.state = "stopped"
        if code:
            raise CdcOutboxError(f"the relay did not stop cleanly, its exit code is {code}:\n{text}")

    def close(self) -> None:
        """End the process, by SIGKILL if necessary."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> tuple[int, str]:
        """Its exit code and its last text."""
        process = self._process
        if process is None:
            return 0, ""
        process.send_signal(number)
        try:
            code = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        text = self._last_lines()
        self._ended()
        return code, text

    def _ended(self) -> None:
        self._process = None
        if self._reaper is not None:
            self._reaper.release()
        if self._log is not None:
            self._log.close()

    def _last_lines(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        return log_lines(self._log.read())


def log_lines(log: bytes) -> str:
    """The end of its log, as text for people."""
    lines = log.decode(errors="replace").splitlines()
    return "\n".join(_for_people(line) for line in lines[-LAST_LINES:])


def _for_people(line: str) -> str:
    """A line of its log."""
    try:
        fields = json.loads(line)
    except ValueError:
        return line
    shown = [f"{name}: {fields[name]}" for name in ("error", "cure") if name in fields]
    return "  ".join([str(fields.get("event")), *shown])


def clean_environment() -> dict[str, str]:
    """The environment without the user's own settings of a relay or a database."""
    return {name: value for name, value in os.environ.items() if not re.match(r"CDC_OUTBOX_|PG[A-Z]", name)}
