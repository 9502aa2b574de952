"""The latest warnings of the log, kept for the status page.

In: log lines as they are written, masked and cut, at level warning or above. Out: the latest of them, newest first.
Never: a key, a payload, more than `KEPT` of them; equal ones are one, with how often it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KEPT: Final = 30
"""Different warnings: more than a person reads."""

LEVELS: Final = ("warning", "error", "critical")


@dataclass(frozen=True, slots=True)
class Warned:
    """One warning, as last logged."""

    timestamp: str
    level: str
    event: str
    error: str
    cure: str
    code: str
    """The error's stable code; empty where there is none."""
    times: int
    """Number of such lines, suppressed repeats included."""


class RecentWarnings:
    """A ring of them. Written under the logging handler's lock, read by others."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Warned] = {}

    def note(self, line: Mapping[str, object]) -> None:
        """Keep a line, if it is a warning. It has been masked."""
        if line.get("level") not in LEVELS:
            return
        event, error = _text(line.get("event")), _text(line.get("error") or line.get("message"))
        before = self._kept.pop((event, error), None)
        suppressed = line.get("suppressed")
        self._kept[event, error] = Warned(
            timestamp=_text(line.get("timestamp")),
            level=_text(line.get("level")),
            event=event,
            error=error,
            cure=_text(line.get("cure")),
            code=_text(line.get("code")),
            times=(before.times if before else 0) + 1 + (suppressed if isinstance(suppressed, int) else 0),
        )
        if len(self._kept) > KEPT:
            del self._kept[next(iter(self._kept))]

    def newest_first(self) -> list[Warned]:
        """All that are kept."""
        return list(reversed(list(self._kept.copy().values())))


def _text(value: object) -> str:
    return "" if value is None else str(value)
