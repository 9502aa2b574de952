"""Each how-to page begins with its goal and ends with what can go wrong, in fewer than 120 lines."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

PAGES: Final = sorted((ROOT / "docs" / "how-to").glob("*.md"))

LINES: Final = 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_begins_with_its_goal_and_ends_with_what_can_go_wrong(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    title, goal = text.split("\n\n")[:2]
    assert title.startswith("# ")
    assert goal.startswith("Goal: ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings[-1].startswith("What can go wrong")
    assert len(text.splitlines()) < LINES
