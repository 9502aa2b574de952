"""Any `cdc-outbox` command as a subprocess: run to its end, or started and watched line by line."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from typing import IO, TYPE_CHECKING, Final

from tests.plugins.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TIMEOUT: Final = 60.0
"""Seconds after which a command that should have ended is killed."""

DSN: Final = "CDC_OUTBOX_DSN"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A developer's own settings of cdc-outbox and libpq do not reach the command, except CDC_OUTBOX_NATIVE."""
    kept = {name: value for name, value in os.environ.items() if not re.match(r"CDC_OUTBOX_(?!NATIVE$)|PG[A-Z]", name)}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "error", **(extra or {})}


def run_command(
    *arguments: str, dsn: str = "", env: Mapping[str, str] | None = None, timeout: float = TIMEOUT
) -> subprocess.CompletedProcess[str]:
    """Run to the end, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "cdc_outbox", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        env=environment({DSN: dsn, **(env or {})}),
        timeout=timeout,
    )


class Command:
    """A command that runs: its lines so far, and its end. Use `started_command`."""

    def __init__(self, arguments: tuple[str, ...], env: Mapping[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cdc_outbox", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment(env),
            start_new_session=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.stdout: list[str] = []
        self.stderr: list[str] = []
        self._readers = [
            threading.Thread(target=_read, args=[self.process.stdout, self.stdout], daemon=True),
            threading.Thread(target=_read, args=[self.process.stderr, self.stderr], daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def wait_for_stdout(self, pattern: str, *, seconds: float = PATIENCE) -> re.Match[str]:
        """The first line of stdout in which `pattern` is found."""
        return self._wait_for(self.stdout, pattern, seconds)

    def wait_for_stderr(self, pattern: str, *, seconds: float = PATIENCE) -> re.Match[str]:
        """The first line of stderr in which `pattern` is found."""
        return self._wait_for(self.stderr, pattern, seconds)

    def wait_for_lines(self, count: int, *, seconds: float = PATIENCE) -> list[str]:
        """So many lines of stdout, at least."""
        eventually(lambda: len(self.stdout) >= count or self.ended, f"{count} lines of stdout", seconds=seconds)
        assert len(self.stdout) >= count, self.report
        return list(self.stdout)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait(self, timeout: float = TIMEOUT) -> int:
        """Its exit code, all output read."""
        code = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return code

    @property
    def ended(self) -> bool:
        """Ended, and all its output read."""
        return not any(reader.is_alive() for reader in self._readers)

    @property
    def report(self) -> str:
        """What it said, for a failed assertion."""
        return f"exit code {self.process.poll()}\n{''.join(self.stdout)}\n{''.join(self.stderr)}"

    def _wait_for(self, lines: list[str], pattern: str, seconds: float) -> re.Match[str]:
        def found() -> re.Match[str] | bool | None:
            return next(filter(None, (re.search(pattern, line) for line in list(lines))), None) or self.ended

        match = eventually(found, f"a line with {pattern!r}", seconds=seconds)
        if isinstance(match, bool):
            match = next(filter(None, (re.search(pattern, line) for line in lines)), None)
        assert match is not None, f"no line with {pattern!r}\n{self.report}"
        return match


@contextlib.contextmanager
def started_command(*arguments: str, dsn: str = "", env: Mapping[str, str] | None = None) -> Iterator[Command]:
    """Start; killed at the end of the block if it still runs. No traceback may have reached stderr."""
    command = Command(arguments, {DSN: dsn, **(env or {})})
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.kill()
        command.wait()
    assert "Traceback" not in "".join(command.stderr), command.report


def _read(pipe: IO[str], lines: list[str]) -> None:
    with pipe:
        for line in pipe:
            lines.append(line)  # noqa: PERF402  (each is seen as soon as it is there)
