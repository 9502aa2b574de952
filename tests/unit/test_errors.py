"""Each error says what happened, where, and what to do; its class decides the exit code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import cdc_outbox
from cdc_outbox import errors
from cdc_outbox.errors import CdcOutboxError, join_cures

DOCUMENTED_EXIT_CODES = {
    errors.ConfigurationError: 78,
    errors.CannotConnect: 78,
    errors.StreamGap: 78,
    errors.AccessRefused: 77,
    errors.PoisonEvent: 65,
    errors.Unreachable: 69,
    errors.ConnectionLost: 69,
    errors.NotAccepting: 69,
    errors.CatalogFinding: 69,
    errors.SlotBusy: 75,
    errors.Undelivered: 75,
    errors.ProtocolError: 70,
}


def test_every_error_has_its_documented_exit_code() -> None:
    """Whoever adds one has to say here how the process ends."""
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, CdcOutboxError)]
    assert {kind: kind.exit_code for kind in classes if kind is not CdcOutboxError} == DOCUMENTED_EXIT_CODES


def test_an_error_without_a_class_of_its_own_is_a_bug() -> None:
    assert CdcOutboxError("…").exit_code == 70


@pytest.mark.parametrize("kind", DOCUMENTED_EXIT_CODES)
def test_the_tree_in_the_module_names_every_error_with_its_code(kind: type[CdcOutboxError]) -> None:
    [line] = [line for line in (errors.__doc__ or "").splitlines() if f"─ {kind.__name__} " in line]
    assert f" {kind.exit_code} " in line


def test_a_lost_connection_is_met_wherever_an_unreachable_server_is() -> None:
    """So that one rule, try again, holds for both."""
    assert issubclass(errors.ConnectionLost, errors.Unreachable)


def test_the_text_names_the_place() -> None:
    error = errors.PoisonEvent("the headers are no JSON object", cure="…", table="public.outbox", id="7", size=12)
    assert str(error) == "the headers are no JSON object (table public.outbox, id 7, size 12)"


def test_the_text_without_a_place_is_the_sentence() -> None:
    assert str(errors.ConfigurationError("wal_level is replica", cure="ALTER SYSTEM …")) == "wal_level is replica"


def test_a_place_that_is_not_known_is_left_out_and_zero_is_a_place() -> None:
    error = errors.ProtocolError("malformed", lsn="0/1", key=None, partition=0)
    assert error.where == {"lsn": "0/1", "partition": 0}
    assert str(error) == "malformed (lsn 0/1, partition 0)"


def test_message_and_cure_are_separate() -> None:
    error = errors.SlotBusy("slot s is in use", cure="wait, or --slot", slot="s")
    assert (error.message, error.cure, error.where) == ("slot s is in use", "wait, or --slot", {"slot": "s"})
    assert error.args == ("slot s is in use",)


@pytest.mark.parametrize(
    ("cures", "joined"),
    [
        (("do this", "then that"), "do this. then that"),
        (("do this", "then that", "then that"), "do this. then that"),
        (("do this. then that", "then that"), "do this. then that"),
        (("ALTER TABLE t;", "then that"), "ALTER TABLE t; then that"),
        (("", "then that"), "then that"),
        (("do this", ""), "do this"),
    ],
)
def test_cures_are_joined_once(cures: tuple[str, ...], joined: str) -> None:
    assert join_cures(*cures) == joined


def test_a_cure_is_joined_to_another_in_one_way_only() -> None:
    """By f-strings it came twice where an error passed the same place again."""
    found = []
    for path in Path(cdc_outbox.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            value = node.value if isinstance(node, (ast.keyword, ast.Assign, ast.AugAssign)) else None
            if isinstance(value, ast.JoinedStr) and _sets_cure(node) and ".cure" in ast.unparse(value):
                found.append(f"{path.name}: {ast.unparse(node)}")
    assert found == []


def _sets_cure(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "cure"
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return any(isinstance(target, ast.Attribute) and target.attr == "cure" for target in targets)
