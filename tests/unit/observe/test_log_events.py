"""The reference lists the events that the code logs, each with its level, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import cdc_outbox
from cdc_outbox.observe.logs import ENDS

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "docs" / "reference" / "logs.md"
METHODS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
EVENT = re.compile(r"[a-z]+([._-][a-z]+)*")


def loggers(tree: ast.Module) -> set[str]:
    """Names that hold a structlog logger in this module."""
    found = set()
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None
        if isinstance(value, ast.Call) and ast.unparse(value.func) == "structlog.get_logger":
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[union-attr]
            found |= {ast.unparse(target) for target in targets}
    return found


def literals(node: ast.expr, tree: ast.Module) -> set[str]:
    """The strings that an expression can be: a literal, a choice of literals, a variable that holds either."""
    match node:
        case ast.Constant(value=str(text)):
            return {text}
        case ast.IfExp(body=body, orelse=orelse):
            return literals(body, tree) | literals(orelse, tree)
        case ast.Name(id=name):
            assigned = [at for at in ast.walk(tree) if isinstance(at, ast.Assign)]
            values = [at.value for at in assigned if any(ast.unparse(target) == name for target in at.targets)]
            return {text for value in values if not isinstance(value, ast.Name) for text in literals(value, tree)}
    return set()


def levels(function: ast.expr, names: set[str], tree: ast.Module) -> set[str]:
    """The levels that calling this expression logs at: `log.info`, a choice of two, a variable that holds either."""
    match function:
        case ast.Attribute(value=value, attr=method) if ast.unparse(value) in names and method in METHODS:
            return {METHODS[method]}
        case ast.IfExp(body=body, orelse=orelse):
            return levels(body, names, tree) | levels(orelse, names, tree)
        case ast.Name(id=name):
            assigned = [at for at in ast.walk(tree) if isinstance(at, ast.Assign)]
            values = [at.value for at in assigned if any(ast.unparse(target) == name for target in at.targets)]
            return {
                level for value in values if not isinstance(value, ast.Name) for level in levels(value, names, tree)
            }
    return set()


def calls() -> Iterator[tuple[str, set[str], set[str]]]:
    """Every log call of the package: where it is, the events it may log, the levels it may have."""
    for path in sorted(Path(cdc_outbox.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = loggers(tree)
        for node in ast.walk(tree) if names else ():
            if isinstance(node, ast.Call) and (found := levels(node.func, names, tree)):
                events = literals(node.args[0], tree) if node.args else set()
                yield f"{path.relative_to(ROOT)}:{node.lineno}", events, found


def test_every_event_has_a_stable_name_that_can_be_searched_for() -> None:
    for place, events, _ in calls():
        assert events, f"{place}: the event must be a literal, such as slot.created"
        assert all(EVENT.fullmatch(event) for event in events), f"{place}: {events}"


def test_the_reference_lists_every_event_with_its_level_and_no_other() -> None:
    logged: dict[str, set[str]] = {}
    for _, events, at in calls():
        for event in events:
            logged.setdefault(event, set()).update(at)
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\w, ]+) \| .+ \|$", REFERENCE.read_text(), re.MULTILINE)
    documented = {event: set(listed.split(", ")) for event, listed in rows}
    assert documented.pop("library") == {"any"}

    assert documented == logged, "docs/reference/logs.md: one row for each event, | `event` | level | when |"


def test_the_lines_that_end_a_condition_and_those_that_begin_it_are_events() -> None:
    assert {*ENDS, *ENDS.values()} <= {event for _where, events, _levels in calls() for event in events}
