"""docs/design.md shows the code as it is: the rooms, the imports between them, the path of one row."""

from __future__ import annotations

import ast
import re
from functools import cache
from typing import Final

import grimp
import pytest

from tests.docs.pages import ROOT, read, section

PAGE: Final = "docs/design.md"

PACKAGE: Final = ROOT / "cdc_outbox"

FOUNDATION: Final = frozenset({"identifiers", "errors", "lsn", "shutdown"})
"""Modules that the picture shows as one node of this name: `foundation`."""

# --- the rooms ---------------------------------------------------------------------------------------------------------


def rooms() -> set[str]:
    """Packages and modules directly below cdc_outbox."""
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    return folders | {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"}


def test_the_table_has_every_room_once() -> None:
    rows = re.findall(r"^\| (`.+?) \|", section(PAGE, "The rooms"), re.MULTILINE)
    named = [name.removesuffix("/").removesuffix(".py") for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(rooms())


# --- the picture -------------------------------------------------------------------------------------------------------


def drawn() -> set[tuple[str, str]]:
    """Arrows of the picture."""
    pictures = [block.text for block in read(PAGE).blocks if block.first_line == "flowchart TD"]
    assert len(pictures) == 1, "the picture of the rooms is the one from top to bottom"
    arrows = set()
    for line in pictures[0].splitlines()[1:]:
        importer, _, imported = line.partition("-->")
        arrows |= {(importer.strip(), name.strip()) for name in imported.split("&")}
    return arrows


@cache
def imported() -> frozenset[tuple[str, str]]:
    """Imports between rooms, from the graph that import-linter checks."""
    graph = grimp.build_graph("cdc_outbox", cache_dir=None)
    arrows = {
        (_node(importer), _node(target))
        for importer in graph.modules
        for target in graph.find_modules_directly_imported_by(importer)
    }
    return frozenset(arrow for arrow in arrows if arrow[0] != arrow[1] and not {"__main__", "", "app"} & set(arrow))


def _node(module: str) -> str:
    room = module.removeprefix("cdc_outbox").lstrip(".").partition(".")[0]
    return "foundation" if room in FOUNDATION else room


def closure(arrows: frozenset[tuple[str, str]] | set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Pairs that a path of arrows connects."""
    found = set(arrows)
    while True:
        longer = {(first, last) for first, middle in found for other, last in arrows if middle == other} - found
        if not longer:
            return found
        found |= longer


def test_every_arrow_of_the_picture_is_an_import() -> None:
    assert drawn() - imported() == set()


def test_every_import_between_rooms_is_an_arrow_or_a_path_of_arrows() -> None:
    assert imported() - closure(drawn()) == set()


def test_no_arrow_goes_up() -> None:
    assert not {(a, b) for a, b in closure(drawn()) if a == b}


# --- the path of one row -----------------------------------------------------------------------------------------------


def path_of_a_row() -> list[tuple[str, str, list[str]]]:
    """For each link: its file, its function, and the functions that it calls."""
    lines = section(PAGE, "The path of one row").splitlines()
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| \d \|", line)]
    found = []
    for _, link, _, called in rows:
        [(function, path)] = re.findall(r"`([\w.]+)`\]\(\.\./(\S+?)\)", link)
        found.append((path, function, re.findall(r"`([\w.]+)`", called)))
    return found


def source_of(path: str, function: str) -> str:
    """The text of `Class.method`. AssertionError if there is none."""
    text = (ROOT / path).read_text(encoding="utf-8")
    owner, _, name = function.partition(".")
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef) and node.name == owner:
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and member.name == name:
                    return ast.get_source_segment(text, member) or ""
    raise AssertionError(f"{path} has no {function}")


def test_the_path_has_eight_links() -> None:
    assert len(path_of_a_row()) == 8


@pytest.mark.parametrize("link", path_of_a_row(), ids=lambda link: link[1])
def test_a_link_is_a_function_that_calls_the_ones_named(link: tuple[str, str, list[str]]) -> None:
    path, function, called = link
    source = source_of(path, function)
    assert [name for name in called if not re.search(rf"\b_?{name.partition('.')[2].strip('_')}\(", source)] == []


def test_each_link_is_reached_from_the_one_before() -> None:
    links = path_of_a_row()
    for number, (_, function, _) in enumerate(links[1:], start=1):
        earlier = {name.replace("._", ".") for _, _, called in links[:number] for name in called}
        assert function.replace("._", ".") in earlier, f"no earlier link calls {function}"
