"""The order in which files go to the workers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

from tests.plugins.order import taking_turns

if TYPE_CHECKING:
    import pytest

ROOT = Path("/tests")


def ordered(*tests: str) -> list[str]:
    """`folder/file::test`, the items of a run in the order of their shuffle."""
    items = [SimpleNamespace(path=ROOT / test.partition("::")[0], nodeid=test) for test in tests]
    return [item.nodeid for item in taking_turns(cast("list[pytest.Item]", items), ROOT)]


def test_long_files_take_turns_with_others_and_short_ones_come_last() -> None:
    shuffled = (
        "unit/u::1",
        "docs/d::1",
        "end_to_end/e::1",
        "unit/v::1",
        "integration/i::1",
        "faults/f::1",
        "unit/w::1",
    )
    assert [test[0] for test in ordered(*shuffled)] == ["f", "d", "e", "i", "u", "u", "u"]


def test_more_long_files_than_others_are_all_there() -> None:
    assert ordered("unit/u::1", "faults/f::1", "faults/g::1") == ["faults/f::1", "unit/u::1", "faults/g::1"]


def test_tests_of_a_file_stay_together_in_the_order_of_the_shuffle() -> None:
    assert ordered("faults/f::2", "unit/u::1", "faults/f::1") == ["faults/f::2", "faults/f::1", "unit/u::1"]
