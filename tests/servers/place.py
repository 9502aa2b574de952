"""Where the servers of the tests keep their data: in memory where there is room, else in a temporary folder.

A run makes and deletes some thousand databases of 300 files each, which costs a file system on a disk a fifth of the run.

In: `CDC_OUTBOX_TEST_DATA`, a folder that every account can enter; without it /dev/shm, if enough of it and of the memory is
free. Out: that folder, or None for the usual temporary one. Only data goes there: /dev/shm may be mounted noexec.
Never: removes the data of a server that runs. A server's own guard removes its data; `sweep` is for those whose guard was
killed too.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import time
from pathlib import Path
from typing import Final

ENVIRONMENT: Final = "CDC_OUTBOX_TEST_DATA"

SHARED_MEMORY: Final = Path("/dev/shm")

ROOM: Final = 2 << 30
"""Bytes that have to be free in /dev/shm: four workers were seen to need 1.2 GB at the peak. Containers often have 64 MB."""

MEMORY: Final = 4 << 30
"""Bytes of memory that have to be available: the data, and as much again for the servers and the tests themselves."""

LEFT_BEHIND_SECONDS: Final = 3600.0
"""A folder younger than this may be one whose server is about to start. No test runs for an hour."""

PREFIX: Final = "cdc-outbox-"


@functools.cache
def data_folder() -> Path | None:
    """The folder for data folders, as of the first call. None: the usual one."""
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    if not _room_in_memory():
        return None
    sweep(SHARED_MEMORY)
    return SHARED_MEMORY


def sweep(folder: Path) -> None:
    """Remove what servers left whose guards were killed: folders that no living process has on its command line."""
    old = time.time() - LEFT_BEHIND_SECONDS
    found = [each for each in folder.glob(f"{PREFIX}*") if each.is_dir() and each.stat().st_mtime < old]
    used = _command_lines() if found else b""
    for each in found:
        if os.fsencode(each) not in used:
            shutil.rmtree(each, ignore_errors=True)


def _room_in_memory() -> bool:
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    return (
        os.access(SHARED_MEMORY, os.W_OK | os.X_OK)
        and room.f_bavail * room.f_frsize >= ROOM
        and _available_memory() >= MEMORY
    )


def _available_memory() -> int:
    """Bytes, as proc(5) estimates them; none where it does not."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    return 0


def _command_lines() -> bytes:
    lines = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            lines.append(each.read_bytes())
    return b"\0".join(lines)
