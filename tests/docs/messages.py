"""Every message of an error that the program raises on purpose, read from its source, as a person meets it.

What is filled in at run time is `…`: `slot … is lost: the server has removed WAL that it still needed`. Where a message
comes out of a function that is given a part of it (`_error("is empty", …)`), there is one message for each call of it; where
it comes out of a table (`(codes, AccessRefused, "Kafka refuses the login", …)`), one for each row.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Final, NamedTuple

import cdc_outbox
from cdc_outbox import errors

HOLE: Final = "…"

CODES: Final = {
    name: kind.exit_code
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.CdcOutboxError)
    # a ProtocolError is a bug, whatever it says: the page has one entry for all of them
    if kind not in {errors.CdcOutboxError, errors.ProtocolError}
}
"""Exit codes by the names of the errors' classes."""

_VALUE_ERRORS_ARE_POISON: Final = ("router.py", "cloudevents.py", "templates.py")
"""There a ValueError says why an event cannot become a record, and its words are a poison event's."""

_INHERITED: Final = {"_poison": (2, errors.PoisonEvent.exit_code)}
"""Methods that a class has from another module and makes errors with: where the words stand, and the exit code."""

Function = ast.FunctionDef | ast.Lambda


class Call(NamedTuple):
    """A call, and the functions that it stands in, innermost last."""

    node: ast.Call
    inside: tuple[Function, ...]


def messages() -> dict[str, set[int]]:
    """Exit codes by message."""
    found: dict[str, set[int]] = {}
    for path in sorted(Path(cdc_outbox.__file__).parent.rglob("*.py")):
        module = _Module(ast.parse(path.read_text(encoding="utf-8")), path.name in _VALUE_ERRORS_ARE_POISON)
        for text, code in module.messages():
            if text.strip(HOLE + " :,"):  # else all of it is somebody else's words
                found.setdefault(" ".join(text.split()), set()).add(code)
    return found


class _Module:
    def __init__(self, tree: ast.Module, value_errors_are_poison: bool) -> None:
        self._tree = tree
        self._calls = list(_calls(tree, ()))
        self._codes = dict(CODES)
        if value_errors_are_poison:
            self._codes["ValueError"] = errors.PoisonEvent.exit_code
        assigned = (node for node in tree.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name))
        self._constants = {ast.unparse(node.target): node.value for node in assigned if node.value is not None}

    def messages(self) -> Iterator[tuple[str, int]]:
        for call in self._calls:
            code = self._codes.get(_called(call.node))
            if code is not None and call.node.args:
                for text in self._render(call.node.args[0], call.inside, 0):
                    yield text, code
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Tuple):
                yield from self._row(node)
        yield from self._inherited()

    def _inherited(self) -> Iterator[tuple[str, int]]:
        own = {node.name for node in ast.walk(self._tree) if isinstance(node, ast.FunctionDef)}
        for call in self._calls:
            at, code = _INHERITED.get(_called(call.node), (0, 0)) if _called(call.node) not in own else (0, 0)
            if code:
                yield from ((text, code) for text in self._render(call.node.args[at], call.inside, 0))

    def _row(self, node: ast.Tuple) -> Iterator[tuple[str, int]]:
        """A row of a table: an error's class, and what it says before the server's own words."""
        for kind, what in zip(node.elts, node.elts[1:], strict=False):
            code = self._codes.get(kind.id) if isinstance(kind, ast.Name) else None
            value = self._constants.get(what.id) if isinstance(what, ast.Name) else what
            if code is not None and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield f"{value.value}: {HOLE}", code

    def _render(self, node: ast.expr, inside: tuple[Function, ...], depth: int) -> list[str]:
        """What the expression can say."""
        match node:
            case ast.Constant(value=str(text)):
                return [text]
            case ast.JoinedStr(values=parts):
                return _joined([self._render(part, inside, depth) for part in parts])
            case ast.FormattedValue(value=ast.Name() as name, conversion=-1):
                return self._render(name, inside, depth)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return _joined([self._render(left, inside, depth), self._render(right, inside, depth)])
            case ast.Name(id=name) if depth < 3:
                return self._argument(name, inside, depth) or [HOLE]
            case _:
                return [HOLE]

    def _argument(self, name: str, inside: tuple[Function, ...], depth: int) -> list[str]:
        """What callers in this module give for a parameter of an enclosing function; nothing when it is none.

        A single word is a name that is filled in, such as a column's part in an event.
        """
        for function in reversed(inside):
            given = [argument.arg for argument in function.args.args]
            if name not in given or isinstance(function, ast.Lambda):
                continue
            at = given.index(name) - (given[0] == "self")
            arguments = [
                call for call in self._calls if _called(call.node) == function.name and len(call.node.args) > at
            ]
            texts = [text for call in arguments for text in self._render(call.node.args[at], call.inside, depth + 1)]
            return list(dict.fromkeys(text if " " in text else HOLE for text in texts))
        return []


def _calls(node: ast.AST, inside: tuple[Function, ...]) -> Iterator[Call]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield Call(child, inside)
        yield from _calls(child, (*inside, child) if isinstance(child, Function) else inside)


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def _joined(pieces: list[list[str]]) -> list[str]:
    texts = ("".join(each) for each in product(*pieces))
    return list(dict.fromkeys(_one_hole(text) for text in texts))


def _one_hole(text: str) -> str:
    while HOLE * 2 in text:
        text = text.replace(HOLE * 2, HOLE)
    return text
