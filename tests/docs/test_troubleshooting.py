"""An error's code, and the name of a log event, lead to their section of docs/troubleshooting.md."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

import cdc_outbox
from cdc_outbox import errors
from cdc_outbox.commands.explain import explain, read_sections
from cdc_outbox.errors import ConfigurationError
from tests.docs.pages import ROOT, block

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

PAGE: Final = "docs/troubleshooting.md"

PACKAGE: Final = Path(cdc_outbox.__file__).parent

NOT_OURS: Final = {"standby"}
"""Sections of events at level info, which people look for all the same."""


def codes_of_the_program() -> set[str]:
    """Every code of an error class, an error, or a reason of health. A poison event's code is its reason."""
    found = {
        kind.default_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.CdcOutboxError)
    }
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg in {"code", "reason"} and _is_slug(node.value):
                found.add(ast.literal_eval(node.value))
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(
                ("_poison", "poison_event", "Reason", "note_error")
            ):
                found |= {each.value for each in node.args if isinstance(each, ast.Constant) and _is_slug(each)}
    return found


def words_of_the_program() -> set[str]:
    """Every string in the source that could be a code: tables of errors hold theirs in columns."""
    return {
        node.value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and _is_slug(node)
    }


def _is_slug(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and bool(re.fullmatch(r"[a-z]+(-[a-z]+)*", node.value))
    )


def loud_events() -> set[str]:
    """Events at level warning or error. The reference is held against the code by a test of its own."""
    table = (ROOT / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\w, ]+) \|", table, re.MULTILINE)
    return {event for event, levels in rows if {"warning", "error", "any"} & set(levels.split(", "))}


def test_every_code_has_a_section() -> None:
    assert sorted(codes_of_the_program() - set(read_sections())) == []


def test_every_warning_of_the_log_has_a_section() -> None:
    assert loud_events() >= {"kafka.unreachable", "postgres.disconnected", "backpressure", "stopped"}
    assert sorted(loud_events() - set(read_sections())) == []


def test_every_section_is_about_a_code_or_an_event_of_the_program() -> None:
    assert sorted(set(read_sections()) - words_of_the_program() - loud_events() - NOT_OURS) == []


def test_no_heading_is_there_twice() -> None:
    headings = re.findall(r"^### (.+)$", (ROOT / PAGE).read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(headings) == sorted(set(headings))


def test_explain_prints_the_section_and_names_the_nearest_code() -> None:
    assert "recover a lost slot" in explain("slot-lost")
    with pytest.raises(ConfigurationError, match="slot-lots") as refused:
        explain("slot-lots")
    assert refused.value.cure == "cdc-outbox explain slot-lost"


def test_a_section_without_text_shares_that_of_the_next() -> None:
    sections = read_sections()
    assert sections["bad-message"] == sections["missing-member"]


@pytest.mark.parametrize(
    "first_line",
    [
        "SELECT slot_name, active, wal_status, safe_wal_size,",
        "SELECT pid, datname, usename, application_name, state, xact_start",
    ],
)
def test_its_queries_run(database: Database, first_line: str) -> None:
    database.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput')")
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT 1")
        query = block(PAGE, first_line).text.replace("interval '10 minutes'", "interval '0'")
        assert database.execute(query)
