"""A process, watched: CPU of all its threads and its resident memory, over time.

In: a command. Out: samples (wall clock, CPU seconds, RSS), what it wrote, its exit code.
Never: a process that outlives this one by intention: use it in a `with`.

proc(5): /proc/PID/stat (utime, stime: all threads, dead ones included), /proc/PID/status (VmRSS, VmHWM).
"""

from __future__ import annotations

import bisect
import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

SAMPLE_SECONDS: Final = 0.02
"""Between two samples: a drain of one second has fifty, and reading two small files costs the machine 0.3 %."""

TICK: Final = 1 / os.sysconf("SC_CLK_TCK")
"""Seconds of one unit in /proc/PID/stat."""

STOP_SECONDS: Final = 30.0
"""For a contender to end on SIGTERM; then it is killed, and reported as killed."""


class Failed(Exception):
    """A contender ended when it should not have. Holds the end of what it wrote."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. `at`: Unix seconds; `cpu`: seconds so far; `rss`: bytes."""

    at: float
    cpu: float
    rss: int


class Child:
    """A running command. Samples come from a thread; everything else from the caller."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        self.name = Path(arguments[0]).name
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self.began = time.time()
        """Unix seconds of the start."""
        self._process = subprocess.Popen(
            arguments, env={**os.environ, **(environment or {})}, stdout=self._output, stderr=self._errors
        )
        self.samples: list[Sample] = []
        self.peak_rss = 0
        """Bytes, as the kernel keeps it."""
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._close_watch()
        self._output.close()
        self._errors.close()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it wrote to stdout so far."""
        return _text(self._output.fileno())

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        return _text(self._errors.fileno())

    def require_alive(self) -> None:
        """Raise Failed when it has ended."""
        if self._process.poll() is not None:
            raise Failed(f"{self.name} ended with {self._process.returncode}:\n{self.errors[-3000:]}")

    def wait(self, seconds: float) -> None:
        """Wait for a good end. Raises Failed for another one, or for none in time."""
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"{self.name} is still at it after {seconds:g} s:\n{self.errors[-3000:]}") from None
        self._close_watch()
        if code:
            raise Failed(f"{self.name} ended with {code}:\n{self.errors[-3000:]}")

    def terminate(self) -> int:
        """SIGTERM, and the exit code; a process that does not end is killed (-9)."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_watch()
        return self._process.returncode

    def cpu_at(self, moment: float) -> float:
        """CPU seconds used up to a moment (Unix seconds), between two samples as if it were even."""
        samples = self.samples
        after = bisect.bisect_left(samples, moment, key=lambda sample: sample.at)
        if after == 0:
            return 0.0
        if after == len(samples):
            return samples[-1].cpu
        left, right = samples[after - 1], samples[after]
        return left.cpu + (right.cpu - left.cpu) * (moment - left.at) / (right.at - left.at)

    def cpu_between(self, start: float, end: float) -> float:
        """CPU seconds used from one moment to another (Unix seconds)."""
        return self.cpu_at(end) - self.cpu_at(start)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            with contextlib.suppress(OSError, LookupError):  # it has ended
                cpu = process_cpu(self.pid)
                memory = _memory(self.pid)
                self.peak_rss = max(self.peak_rss, memory["VmHWM"])
                self.samples.append(Sample(time.time(), cpu, memory["VmRSS"]))

    def _close_watch(self) -> None:
        self._ended.set()
        self._watcher.join()


def process_cpu(pid: int, *, children: bool = False) -> float:
    """CPU seconds of a process, all its threads; with `children`, of those that have ended and were waited for as well."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    return sum(map(int, fields[11 : 15 if children else 13])) * TICK


def tree_cpu(pid: int) -> float:
    """CPU seconds of a server and the processes it started, the ended ones included."""
    total = process_cpu(pid, children=True)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    for child in children:
        with contextlib.suppress(OSError, IndexError):
            total += process_cpu(int(child), children=True)
    return total


def precise_cpu(pid: int) -> float:
    """CPU seconds of the living threads, to the nanosecond where the kernel counts them (for an idle process)."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text(encoding="ascii").split()[0]) for thread in threads) / 1e9
    except OSError:
        return process_cpu(pid)


def _memory(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    found = (line.split() for line in lines if line.startswith(("VmHWM:", "VmRSS:")))
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in found}


def _text(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0).decode(errors="replace")
