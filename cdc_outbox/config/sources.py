"""Where a value came from: flag > environment > TOML file > preset > default.

In: nothing. Out: `Chosen`, which the command line makes and `config show` prints.
Never: a decision between two sources: the command line takes it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value and where it came from: flag, environment, file, preset or default; `place` is the variable or the path."""

    value: object
    origin: str
    place: str = ""
