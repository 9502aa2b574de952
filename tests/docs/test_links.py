"""Every link of a document leads somewhere: files, tests, headings."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest

from tests.docs.pages import PAGES, ROOT, anchor, headings, links, read


def targets(page: str) -> list[tuple[str, str]]:
    """Relative links: path from the root (the page itself for `#heading`), and heading."""
    found = []
    for link in links(page):
        path, _, heading = unquote(link).partition("#")
        if not re.match(r"[a-z]+:", link):
            target = (ROOT / page).parent / path if path else ROOT / page
            found.append((str(target.resolve().relative_to(ROOT)), heading))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_or_folder_that_is_there(page: str) -> None:
    assert [path for path, _ in targets(page) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_linked_heading_is_there(page: str) -> None:
    for path, heading in targets(page):
        if heading:
            assert heading in [anchor(title) for title in headings(path)], f"{page} links to {path}#{heading}"


def test_every_document_is_reached_from_the_index() -> None:
    linked = {path for path, _ in targets("docs/README.md")}
    documents = {page for page in PAGES if page.startswith("docs/")} - {"docs/README.md"}

    assert sorted(documents - linked) == []


def test_the_readme_leads_to_the_index() -> None:
    assert {"docs", "docs/README.md"} & {path for path, _ in targets("README.md")}


@pytest.mark.parametrize("page", PAGES)
def test_no_document_names_a_place_of_one_machine(page: str) -> None:
    assert re.findall(r"(?<![\w.~])/(?:home|root|work|Users)/\S*", read(page).prose) == []
