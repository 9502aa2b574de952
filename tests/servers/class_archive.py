"""The classes of a Java program as an archive, which later starts map into memory instead of loading them: half the CPU.

In: a folder that lasts, the path of java, a function that runs the program once with an option. Out: the option to start with.
Never: a start that fails for the archive: the machine ignores one that does not fit. (JEP 350, Dynamic CDS Archives.)
"""

from __future__ import annotations

import contextlib
import fcntl
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Callable


def archived(folder: Path, java: str, run_once: Callable[[str], None]) -> tuple[str, ...]:
    """The option that names the archive, made at the first call on this machine for this java. None if it cannot be made."""
    program = Path(java).resolve()
    archive = folder / f"classes-{crc32(f'{program} {program.stat().st_mtime_ns}'.encode()):08x}.jsa"
    if not archive.exists():
        with contextlib.suppress(OSError), (folder / "archive.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not archive.exists():
                draft = archive.with_suffix(".draft")
                run_once(f"-XX:ArchiveClassesAtExit={draft}")
                draft.touch()  # where the machine made none: an empty one is not tried again
                draft.rename(archive)
    usable = archive.exists() and archive.stat().st_size > 0
    return (f"-XX:SharedArchiveFile={archive}",) if usable else ()
