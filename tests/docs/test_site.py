"""The documentation as a site: built without a warning, whole, and needing nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import pytest

from scripts import diagrams, site
from tests.docs.pages import PAGES, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


class Html(HTMLParser):
    """What a page loads, where it leads, and what may be linked to in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors.add(given.get("id") or "")
        if tag == "a":
            self.leads.append(given.get("href") or "")
        elif tag == "link" and given.get("rel") != "canonical":
            self.loads.append(given.get("href") or "")
        elif given.get("src"):
            self.loads.append(given["src"] or "")


@cache
def html(path: Path) -> Html:
    return Html(path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "site.py", "--to", folder], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No issues found" in done.stdout + done.stderr
    return folder


def documents(built: Path) -> Iterator[Path]:
    yield from (path for path in built.rglob("*.html") if path.name != "404.html")


def test_every_page_is_in_it(built: Path) -> None:
    names = {str(path.relative_to(ROOT)): name for path, name in site.pages().items()}
    assert {page for page in PAGES if page.startswith("docs/") or "/" not in page} <= set(names)
    for name in names.values():
        path = built / name.removesuffix(".md") / "index.html" if name != "index.md" else built / "index.html"
        assert path.is_file(), f"{name} is not in the site"


def test_nothing_is_loaded_from_elsewhere(built: Path) -> None:
    loaded = {target for path in documents(built) for target in html(path).loads}
    assert len(loaded) >= 3
    assert [target for target in loaded if urlsplit(target).netloc] == []
    for path in built.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_every_picture_is_there(built: Path) -> None:
    pictures = {
        (path, target)
        for path in documents(built)
        for target in html(path).loads
        if target.partition("?")[0].endswith((".svg", ".png"))
    }
    assert len(pictures) >= 8
    assert [f"{path}: {target}" for path, target in pictures if not (path.parent / target).resolve().is_file()] == []


def test_every_link_leads_to_a_page_and_a_heading_that_are_there(built: Path) -> None:
    wrong = []
    for path in documents(built):
        for link in html(path).leads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in html(target).anchors):
                wrong.append(f"{path.relative_to(built)}: {link}")
    assert sorted(set(wrong)) == []


def test_a_link_to_a_file_leads_into_the_repository_or_is_plain_text(tmp_path: Path) -> None:
    page = ROOT / "docs" / "runbook.md"
    assert "](../deploy" in page.read_text()
    names = site.pages()
    assert "](" not in site.rewritten(page, names, "").partition("deploy/prometheus/rules.yml")[0]
    there = "https://git.example/x"
    assert f"]({there}/blob/main/deploy/prometheus/rules.yml)" in site.rewritten(page, names, there)


def test_every_diagram_is_drawn_and_every_drawing_is_of_a_diagram() -> None:
    texts = [
        text for page in ROOT.glob("docs/**/*.md") for text in diagrams.BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    assert {diagrams.picture_of(text) for text in texts} == {
        file.name for file in diagrams.FOLDER.glob("diagram-*.svg")
    }
    for file in diagrams.FOLDER.glob("diagram-*.svg"):
        assert "Syntax error" not in file.read_text(encoding="utf-8")


def test_the_pages_of_the_drivers_are_tabs_of_one_page(built: Path) -> None:
    page = built / site.TABBED.removesuffix(".md") / "index.html"
    text = page.read_text(encoding="utf-8")
    for tab in site.TABS.values():
        assert re.search(rf"<label[^>]*>{tab}</label>", text)
        assert tab.lower() in html(page).anchors
    assert {"psycopg-emit", "django-test-it"} <= html(page).anchors
    assert "=== " not in text
