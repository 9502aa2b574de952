"""In which order the files go to the workers of `make test`: long ones early, so that no worker is left alone with one.

xdist's own order is by the number of tests, and the longest files have few: they break servers, and wait. Folders tell which
those are; files of them take turns with the others, because what waits and what computes go well together.
"""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from pathlib import Path

LONG: Final = ("faults", "end_to_end", "examples", "deploy")
"""Folders of tests/ whose files take half a minute on the average, the longest first."""

SHORTEST: Final = "unit"
"""The folder whose files take a second: they come last of all."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After the shuffle, which each worker does alike. What is not distributed stays as it is."""
    if hasattr(config, "workerinput"):
        items[:] = taking_turns(items, config.rootpath / "tests")


def taking_turns(items: list[pytest.Item], root: Path) -> list[pytest.Item]:
    """The same items, whole files at a time: one of a long folder, one of the others, and so on. `root`: the folder tests/."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    ranked = sorted(files, key=lambda path: _rank(path, root))
    long = [path for path in ranked if _rank(path, root) < len(LONG)]
    pairs = zip_longest(long, ranked[len(long) :])
    return [item for path in chain.from_iterable(pairs) if path for item in files[path]]


def _rank(path: Path, root: Path) -> int:
    folder = path.relative_to(root).parts[0] if path.is_relative_to(root) else ""
    if folder in LONG:
        return LONG.index(folder)
    return len(LONG) + (folder == SHORTEST)
