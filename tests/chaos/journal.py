"""What happened in one seed, with its time: lines for a person, and the findings that make a seed fail."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Journal:
    """Written to a file as it happens, and to the terminal if `aloud`. Any thread may write."""

    def __init__(self, path: Path, *, aloud: bool = False) -> None:
        self.findings: list[str] = []
        """What should not have happened."""
        self._file = path.open("w", encoding="utf-8", buffering=1)
        self._aloud = aloud
        self._began = time.monotonic()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Times count from here."""
        self._began = time.monotonic()

    def note(self, words: str) -> None:
        """One line."""
        line = f"{time.monotonic() - self._began:8.3f}  {words}"
        with self._lock:
            self._file.write(f"{line}\n")
            if self._aloud:
                print(line, flush=True)

    def finding(self, words: str) -> None:
        """One line that makes the seed fail."""
        self.findings.append(words)
        self.note(f"FINDING: {words}")

    def close(self) -> None:
        """No more lines."""
        self._file.close()
