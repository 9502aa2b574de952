"""docs/guarantees.md names tests that exist, for every promise that it makes and that README.md makes."""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest

from tests.docs.pages import ROOT, headings, links, read, section

PAGE: Final = "docs/guarantees.md"

NOT_A_PROMISE: Final = "Not promised"

PROMISES: Final = [heading for heading in headings(PAGE, 2) if heading != NOT_A_PROMISE]

_FILE: Final = re.compile(r"`(tests/[\w/]+\.py)`:((?:[\s,]*`test_\w+`)+)")


def named_tests(promise: str) -> list[tuple[str, str]]:
    """File and name of each test below a heading."""
    found = _FILE.findall(section(PAGE, promise))
    return [(file, name) for file, names in found for name in re.findall(r"`(test_\w+)`", names)]


def written_in(file: str) -> set[str]:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_names_tests_and_all_of_them_exist(promise: str) -> None:
    named = named_tests(promise)
    assert named
    assert [f"{file}: {name}" for file, name in named if name not in written_in(file)] == []


@pytest.mark.parametrize("promise", PROMISES)
def test_no_test_is_named_without_its_file(promise: str) -> None:
    written = re.findall(r"`(test_\w+)`", section(PAGE, promise))
    assert written == [name for _, name in named_tests(promise)]


def test_every_promise_of_the_readme_is_here() -> None:
    table = re.findall(r"^\| ([A-Z][\w ]+) \| .+ \| .*tests/.+ \|$", read("README.md").prose, re.MULTILINE)
    assert len(table) == 6
    here = {
        "Nothing lost": "Nothing is lost",
        "Nothing invented": "Nothing is invented",
        "The database": "The database is left alone",
    }
    assert [row for row in table if here.get(row, row) not in PROMISES] == []


def test_every_test_file_that_the_readme_shows_proves_something_here() -> None:
    shown = {link for link in links("README.md") if link.startswith("tests/") and link.endswith(".py")}
    assert shown
    assert shown <= {file for promise in PROMISES for file, _ in named_tests(promise)}
