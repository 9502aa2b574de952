"""A reaper ends a child process when this process has died, by SIGKILL too.

In: the id of a child process. Out: signals to it once this process is gone; none after `release()`.
How: a shell waits on a pipe whose other end only this process holds. The kernel closes that end when this process is
gone; the shell reads end-of-file and acts. That needs no Linux-only call, and unlike PR_SET_PDEATHSIG it does not fire
when merely the *thread* that started the child ends, nor does it run Python between fork and exec.

Never: touches a process after `release()`. Call that only after the child was reaped, so that its id is still its own.
"""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import signal
    from pathlib import Path

PATIENCE: Final = 6.0
"""Seconds from the first signal to SIGKILL: PostgreSQL's own immediate shutdown takes up to 5."""

# $1 process id, $2 signal, $3 tenths of a second, $4 folder to remove, or empty. CONT: a stopped process cannot act.
_WATCH: Final = """
read -r _ && exit 0
kill -s "$2" "$1"; kill -s CONT "$1"
left=$3
while kill -s 0 "$1" && [ "$left" -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
kill -s KILL "$1"
[ -z "$4" ] || rm -rf -- "$4"
"""


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged account to run a child under, by number, without supplementary groups."""

    uid: int
    gid: int


class ProcessReaper:
    """Sends `by` to process `pid` once this process is gone, SIGKILL `patience` seconds later, then removes `folder`."""

    def __init__(
        self,
        pid: int,
        *,
        by: signal.Signals,
        folder: Path | None = None,
        account: Account | None = None,
        patience: float = PATIENCE,
    ) -> None:
        name = by.name.removeprefix("SIG")
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", _WATCH, "reaper", str(pid), name, str(round(patience * 10)), str(folder or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,  # what ends our terminal's process group must not end the reaper first
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=[] if account else None,
        )

    def release(self) -> None:
        """End the reaper: the child has ended. May be called again."""
        if self._shell.returncode is None:
            with contextlib.suppress(BrokenPipeError):
                self._shell.communicate(b"released\n")
