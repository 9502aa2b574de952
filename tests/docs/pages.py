"""The documents, cut into what can be checked: fenced blocks, code spans, headings, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

PAGES: Final = tuple(
    str(path.relative_to(ROOT))
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/**/*.md")),
    ]
)
"""Every document, by its path from the root."""

_FENCE: Final = re.compile(r"^( *)(`{3,}|~{3,})\s*(\w*)\s*$")
_SPAN: Final = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_LINK: Final = re.compile(r"\]\(([^()\s]+)\)")
_HEADING: Final = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is the fence's, from 1."""

    page: str
    line: int
    language: str
    text: str

    @property
    def first_line(self) -> str:
        """What it is known by in the tables of `test_blocks`."""
        return self.text.lstrip().partition("\n")[0].strip()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


@dataclass(frozen=True, slots=True)
class Page:
    """One document: its blocks, and its text without them."""

    blocks: tuple[Block, ...]
    prose: str


@cache
def read(page: str) -> Page:
    """Cut a document. AssertionError for a fence without its end."""
    blocks: list[Block] = []
    prose: list[str] = []
    inside: list[str] | None = None
    fence, indent, language, began = "", 0, "", 0
    for number, line in enumerate((ROOT / page).read_text(encoding="utf-8").splitlines(), start=1):
        found = _FENCE.match(line)
        if inside is None and found:
            inside, indent, fence, language, began = [], len(found[1]), found[2], found[3], number
        elif inside is not None and found and found[2] == fence and not found[3]:
            blocks.append(Block(page, began, language, "\n".join(inside) + "\n"))
            inside = None
        elif inside is not None:
            inside.append(line[indent:] if line[:indent].isspace() or not indent else line)
        else:
            prose.append(line)
    assert inside is None, f"{page}:{began}: a fence without its end"
    return Page(tuple(blocks), "\n".join(prose) + "\n")


def all_blocks() -> list[Block]:
    """The fenced blocks of all documents."""
    return [block for page in PAGES for block in read(page).blocks]


def block(page: str, first_line: str) -> Block:
    """The one block of a page that begins so. AssertionError when there is none, or another."""
    found = [each for each in read(page).blocks if each.first_line == first_line]
    assert len(found) == 1, f"{page} has {len(found)} blocks that begin with {first_line!r}"
    return found[0]


def spans(page: str) -> list[str]:
    """Inline code, line breaks made spaces."""
    return [" ".join(match[2].split()) for match in _SPAN.finditer(read(page).prose)]


def links(page: str) -> list[str]:
    """Targets of links, as they are written."""
    return _LINK.findall(_SPAN.sub("", read(page).prose))


def headings(page: str, level: int = 0) -> list[str]:
    """Titles, of one level or of all, as they are written."""
    return [match[2].strip() for match in _HEADING.finditer(read(page).prose) if level in {0, len(match[1])}]


def anchor(heading: str) -> str:
    """The name under which GitHub lets one link to a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def section(page: str, heading: str) -> str:
    """The text below a heading, up to the next of the same or a higher level."""
    match = re.search(
        rf"^(#+) {re.escape(heading)}$\n(.*?)(?=^#{{1,6}} |\Z)", read(page).prose, re.MULTILINE | re.DOTALL
    )
    assert match is not None, f"{page} has no heading {heading!r}"
    return match[2]
