"""`cdc-outbox …` as documents and cures write it, held against the commands, options and values that the program has."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

import cdc_outbox
from cdc_outbox.cli import cli
from cdc_outbox.cli.options import CONTEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM: Final = "cdc-outbox"

_STANDS_FOR_ANOTHER: Final = re.compile(r"[A-Z$<…*]|^$")
"""A value such as TOPIC, "$DSN" or …"""

_IN_PROSE: Final = re.compile(rf"{PROGRAM} [a-z]+(?: [a-z]+)?(?: --?[a-zA-Z][\w-]*(?: [A-Za-z][\w.-]*)?)*")


_PROSE: Final = frozenset({"again", "promises", "reads", "relay"})
"""Words that follow the program's name where it is only spoken of."""


class WrongCommand(Exception):
    """The program has no such command, option or value."""


def in_code(text: str) -> list[list[str]]:
    """The arguments of each `cdc-outbox` command in a shell block or a code span."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\||&&|;|\s>\s", line):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"\w+=.*", words[0]):
                del words[0]
            if words and words[0] == PROGRAM:
                found.append(words[1:])
    return found


def in_program_texts() -> Iterator[tuple[str, list[str]]]:
    """Each `cdc-outbox` command that the program tells somebody to type, with its place in the source."""
    for path in sorted(Path(cdc_outbox.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in docstrings:
                commands = [match[0].split()[1:] for match in _IN_PROSE.finditer(node.value)]
                for words in commands:
                    if words[0] not in _PROSE:
                        yield f"{path.name}:{node.lineno}", _without_prose(words)


_DOCUMENTED: Final = (ast.Module, ast.ClassDef, ast.FunctionDef)


def check(arguments: list[str]) -> None:
    """Raise WrongCommand for a command, option or value that the program does not take."""
    command, rest = _command(arguments)
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        raise WrongCommand(f"{command.name} has no command {rest[0]}")
    _check_options(rest, _flags(command), command.name or "")


def check_options(arguments: list[str]) -> None:
    """Raise WrongCommand for options, written without their command, that no command takes."""
    flags: dict[str, click.Parameter] = {}
    for command in _commands(cli):
        flags = {**_flags(command), **flags}
    _check_options(arguments, {**flags, **_flags(cli)}, "any command")


def _command(arguments: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the first words name, and the words behind them."""
    command: click.Command = cli
    rest = list(arguments)
    while isinstance(command, click.Group) and rest:
        inner = command.get_command(_context(command), rest[0])
        if inner is None:
            break
        command = inner
        del rest[0]
    return command, rest


def _without_prose(words: list[str]) -> list[str]:
    """`run makes it` is the command `run`, and `slot recover sends --table` is `slot recover`."""
    command, rest = _command(words)
    named = words[: len(words) - len(rest)]
    if isinstance(command, click.Group) or not rest or not rest[0].startswith("-"):
        return named or words
    return [*named, *rest]


def _check_options(words: list[str], flags: dict[str, click.Parameter], where: str) -> None:
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            if _STANDS_FOR_ANOTHER.search(word):
                continue
            raise WrongCommand(f"{where} takes no {word!r}")
        flag, _, value = word.partition("=")
        option = flags.get(flag)
        if option is None:
            raise WrongCommand(f"{where} has no option {flag}")
        if isinstance(option, click.Option) and not option.is_flag:
            _check_value(option, flag, value or next(left, ""))


def _check_value(option: click.Option, flag: str, value: str) -> None:
    if _STANDS_FOR_ANOTHER.search(value):
        return
    try:
        option.type.convert(value, option, None)
    except click.UsageError as error:
        raise WrongCommand(f"{flag} {value}: {error.format_message()}") from None


def _flags(command: click.Command) -> dict[str, click.Parameter]:
    parameters = command.get_params(_context(command))
    return {flag: parameter for parameter in parameters for flag in [*parameter.opts, *parameter.secondary_opts]}


def _commands(group: click.Group) -> Iterator[click.Command]:
    for name in group.list_commands(_context(group)):
        command = group.get_command(_context(group), name)
        assert command is not None
        yield command
        if isinstance(command, click.Group):
            yield from _commands(command)


def _context(command: click.Command) -> click.Context:
    return click.Context(command, **CONTEXT)
