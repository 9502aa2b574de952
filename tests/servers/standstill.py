"""SIGSTOP that has taken effect: the signal only asks, and a busy thread may still answer a request or two."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Final

_STOPPED: Final = "Tt"
"""Thread states of proc(5): stopped, and stopped by a tracer."""

_PATIENCE: Final = 10.0


def stand_still(pid: int) -> None:
    """Stop a process, and return once each of its threads has."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + _PATIENCE
    while not all(state in _STOPPED for state in _thread_states(pid)):
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} does not stand still")
        time.sleep(0.002)


def _thread_states(pid: int) -> list[str]:
    stats = (stat.read_text(encoding="ascii", errors="replace") for stat in Path(f"/proc/{pid}/task").glob("*/stat"))
    return [stat.rpartition(")")[2].split()[0] for stat in stats]
