"""A systemd of its own, in namespaces of its own: runs units as the real one does, knows nothing of the machine's.

It is a user manager (`systemd --user`), which needs no boot; what only a system manager can do (users, sandboxes) it cannot.
Ends with its process, and all that it started with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = Path("/lib/systemd/systemd")
STANDARD_UNITS: Final = Path("/usr/lib/systemd/user")

UP_SECONDS: Final = 10.0
CALL_SECONDS: Final = 30.0
"""The longest that one systemctl may take."""

CLEAN_SECONDS: Final = 2.0
"""Its processes are killed; until the kernel has buried them, their control group cannot be removed."""

_CGROUPS: Final = [Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")]

_SCRIPT: Final = f"""
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system && {PROGRAM} --user --unit=empty.target
"""
"""systemd looks for /run/systemd/system before it begins. It stays in the mount namespace."""


class CannotRun(Exception):
    """The kernel or the privileges of this machine do not allow it."""


class SystemdManager:
    """`folder` holds units (`folder/units`) and everything that it writes."""

    def __init__(self, folder: Path) -> None:
        self.units = folder / "units"
        self.units.mkdir()
        (self.units / "empty.target").write_text("[Unit]\nDescription=nothing\n")
        run = folder / "run"
        run.mkdir(mode=0o700)
        self._environment = {
            **os.environ,
            "XDG_RUNTIME_DIR": str(run),
            "HOME": str(folder),
            "SYSTEMD_UNIT_PATH": f"{self.units}:{STANDARD_UNITS}",
        }
        self._log = folder / "log"
        self._namespace = 0

    def __enter__(self) -> Self:
        if os.geteuid() != 0:
            raise CannotRun("namespaces need root")
        own = ["unshare", "--kill-child", "--pid", "--fork", "--mount", "--mount-proc", "--cgroup", "sh", "-c", _SCRIPT]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                own, env=self._environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + UP_SECONDS
        while not self._is_up():
            if time.monotonic() > deadline or self._process.poll() is not None:
                self.__exit__()
                raise CannotRun(self._log.read_text(errors="replace")[-500:] or "it does not answer")
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        deadline = time.monotonic() + CLEAN_SECONDS
        while any(_left_behind()) and time.monotonic() < deadline:
            time.sleep(0.02)

    def systemctl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One systemctl, in the manager's namespaces, to its end."""
        inside = ["nsenter", "--target", str(self._namespace), "--pid", "--mount", "systemctl", "--user", "--no-pager"]
        return subprocess.run(
            [*inside, *arguments],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=CALL_SECONDS,
        )

    def show(self, unit: str) -> dict[str, str]:
        """The unit's properties: ActiveState, SubState, Result, NRestarts, StatusText, …"""
        lines = self.systemctl("show", unit).stdout.splitlines()
        return {name: value for name, _, value in (line.partition("=") for line in lines)}

    def freeze(self, unit: str) -> None:
        """SIGSTOP to the unit's main process."""
        self.systemctl("kill", "--signal=STOP", "--kill-whom=main", unit)

    def _is_up(self) -> bool:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with contextlib.suppress(OSError, IndexError, subprocess.TimeoutExpired):
            self._namespace = int(children.read_text().split()[0])
            return self.systemctl("is-active", "empty.target").stdout.strip() == "active"
        return False


def _left_behind() -> Iterator[Path]:
    """Control groups of the manager that are still there; removes those that are empty."""
    for cgroup in _CGROUPS:
        scope = cgroup / "init.scope"
        with contextlib.suppress(OSError):
            scope.rmdir()
        if scope.exists():
            yield scope
