"""The guard: a child does not outlive its parent, and nothing else is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.reaper import ProcessReaper

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 15.0
"""Seconds for what has to happen."""

PARENT = """
import signal, subprocess, sys, time
from pathlib import Path
from cdc_outbox.demo.reaper import ProcessReaper
child = subprocess.Popen(sys.argv[2:])
ProcessReaper(child.pid, by=signal.SIGTERM, folder=Path(sys.argv[1]), patience=0.5)
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def parent_of(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    parents: list[subprocess.Popen[str]] = []

    def start(*child: str) -> tuple[subprocess.Popen[str], int]:
        folder = tmp_path / "data"
        folder.mkdir()
        command = [sys.executable, "-c", PARENT, str(folder), *child]
        parents.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        assert parents[-1].stdout is not None
        return parents[-1], int(parents[-1].stdout.readline())

    yield start
    for parent in parents:
        parent.kill()
        parent.communicate()


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while _lives(pid):
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    """A zombie that waits for its new parent is no life."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_killed_parent_takes_its_child_and_the_childs_folder_along(
    parent_of: Callable[..., tuple[subprocess.Popen[str], int]], tmp_path: Path
) -> None:
    parent, child = parent_of("sleep", "600")
    assert _lives(child)
    parent.kill()
    wait_until_gone(child)
    deadline = time.monotonic() + PATIENCE
    while (tmp_path / "data").exists():
        assert time.monotonic() < deadline, "the folder is still there"
        time.sleep(0.02)


def test_a_stopped_child_goes_too(parent_of: Callable[..., tuple[subprocess.Popen[str], int]]) -> None:
    parent, child = parent_of("sleep", "600")
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    wait_until_gone(child)


def test_a_child_that_ignores_the_signal_is_killed(
    parent_of: Callable[..., tuple[subprocess.Popen[str], int]],
) -> None:
    parent, child = parent_of("sh", "-c", "trap '' TERM; while :; do sleep 0.1; done")
    parent.kill()
    wait_until_gone(child)


def test_a_released_guard_touches_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with subprocess.Popen(["sleep", "600"]) as child:
        reaper = ProcessReaper(child.pid, by=signal.SIGTERM, folder=folder)
        reaper.release()
        reaper.release()
        assert child.poll() is None
        assert folder.exists()
        child.kill()
