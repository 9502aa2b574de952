"""A part of a core for one process, as a container with a CPU limit has it: a control group of Linux.

In: cores, a process. Out: the process in a group of its own, which ends with the `with`.
Never: a quota that is not kept: what cannot be limited here is Failed, with what is missing.

Linux: Documentation/admin-guide/cgroup-v2.rst (cpu.max), cgroup-v1/cpu (cpu.cfs_quota_us). Both need root.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.child import Failed

ROOT: Final = Path("/sys/fs/cgroup")

PERIOD_MICROSECONDS: Final = 100_000
"""Of a quota: the kernel's default, and Kubernetes'. A quota that is used up is waited for until the next one begins."""

REMOVE_SECONDS: Final = 5.0
"""For the kernel to release the group: its process has ended, and is reaped."""

REMOVE_PAUSE_SECONDS: Final = 0.05
"""Between two attempts: there is no event to wait for in version 1 of control groups."""


@contextlib.contextmanager
def limited(pid: int, cores: float) -> Iterator[None]:
    """Limit all threads of a process, and what it starts, to `cores`. Raises Failed when that is not possible here."""
    quota = int(cores * PERIOD_MICROSECONDS)
    unified = (ROOT / "cgroup.controllers").exists()
    group = (ROOT if unified else ROOT / "cpu") / f"cdc-outbox-bench-{os.getpid()}"
    try:
        group.mkdir()
        if unified:
            (group / "cpu.max").write_text(f"{quota} {PERIOD_MICROSECONDS}")
        else:
            (group / "cpu.cfs_period_us").write_text(str(PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        with contextlib.suppress(OSError):
            group.rmdir()
        raise Failed(f"--cores needs root and the cpu controller of control groups: {error}") from error
    try:
        yield
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(REMOVE_PAUSE_SECONDS)
