"""Files, functions and fields that a document speaks of are those of the code."""

from __future__ import annotations

import ast
import inspect
import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import pytest
from structlog.testing import capture_logs

import cdc_outbox
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.observe import health
from cdc_outbox.observe.summary import Summary
from tests.docs.pages import PAGES, ROOT, links, read, section, spans

if TYPE_CHECKING:
    from collections.abc import MutableMapping

PACKAGE: Final = ROOT / "cdc_outbox"


@cache
def methods() -> set[str]:
    """`Class.method` of the whole package."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_files_and_folders_that_a_document_names_are_there(page: str) -> None:
    named = [span for span in spans(page) if re.fullmatch(r"[\w./-]+(\.py|\.sql|\.sh|\.toml|\.yml|/)", span)]
    roots = [
        ROOT,
        PACKAGE,
        *(PACKAGE / folder for folder in ("postgres", "records", "relay", "kafka", "config")),
        (ROOT / page).parent,
    ]
    linked = {link.rpartition("/")[2] for link in links(page)}  # whether they lead anywhere, test_links says
    missing = [span for span in named if span not in linked and not any((root / span).exists() for root in roots)]
    assert missing == []


@pytest.mark.parametrize("page", PAGES)
def test_methods_that_a_document_names_are_there(page: str) -> None:
    assert [span for span in spans(page) if re.fullmatch(r"[A-Z]\w+\.[a-z_]\w+", span) and span not in methods()] == []


def test_the_design_names_every_room_of_the_package() -> None:
    table = section("docs/design.md", "The rooms")
    folders = {f"`{path.parent.name}/`" for path in PACKAGE.glob("*/__init__.py")}
    modules = {f"`{path.name}`" for path in PACKAGE.glob("*.py")} - {"`__init__.py`", "`__main__.py`"}
    assert sorted(name for name in folders | modules if name not in table) == []


def test_the_sample_of_a_log_line_has_the_fields_that_the_program_writes() -> None:
    with capture_logs() as logged:
        Summary(Counters()).log_now()
    (sample,) = [json.loads(each.text) for each in read("docs/reference/logs.md").blocks if each.language == "json"]
    assert list(sample)[:3] == ["timestamp", "level", "event"]
    assert [sample["event"], *list(sample)[3:]] == [logged[0]["event"], *(set_apart(logged[0]))]


def set_apart(line: MutableMapping[str, Any]) -> list[str]:
    """A line's own fields, in their order."""
    return [field for field in line if field not in {"event", "log_level"}]


def test_the_fields_of_the_status_document_are_those_that_are_listed() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("docs/reference/status.md", "The document"), re.MULTILINE)
    assert listed == list(health.status(Counters(), Settings(brokers=""), 0.0, 0.0).members())


def test_the_reasons_of_health_are_those_that_are_listed() -> None:
    source = inspect.getsource(health)
    known = set(re.findall(r'Reason\(\s*"([a-z-]+)"', source))
    listed = re.findall(r"^\| `([a-z-]+)` \|", section("docs/reference/status.md", "Health"), re.MULTILINE)
    incidents = section("docs/reliability.md", "What the screens show")

    assert set(listed) == known
    assert set(re.findall(r"`((?:kafka|slot|postgres)-[a-z]+)`", incidents)) <= known


def test_the_changelog_names_the_version_that_is_built_or_what_comes_after_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in text or f"## {cdc_outbox.__version__}" in text
