"""The manual page cdc-outbox(1), and completion for bash, zsh and fish, made from the commands. `generate` writes them.

In: the commands and `settings.OPTIONS`. Out: text in man(7)'s macros; click's completion scripts.
Never: a date, which would change the file at each build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import click
from click.shell_completion import get_completion_class

from cdc_outbox import __version__, cli
from cdc_outbox.cli.options import CONTEXT
from cdc_outbox.config.settings import OPTIONS

PROGRAM: Final = "cdc-outbox"

COMPLETIONS: Final = {
    "bash": "bash-completion/completions/cdc-outbox",
    "zsh": "zsh/site-functions/_cdc-outbox",
    "fish": "fish/vendor_completions.d/cdc-outbox.fish",
}
"""Below share/: where each shell looks."""


def completion(shell: str) -> str:
    """The script of a shell. It asks the installed program for the words."""
    kind = get_completion_class(shell)
    assert kind is not None
    return kind(cli.cli, {}, PROGRAM, "_CDC_OUTBOX_COMPLETE").source().strip() + "\n"


def page() -> str:
    """The manual page."""
    context = click.Context(cli.cli, info_name=PROGRAM, **CONTEXT)
    return "\n".join(_lines(context)) + "\n"


def _lines(context: click.Context) -> Iterator[str]:
    yield f'.TH CDC\\-OUTBOX 1 "" "cdc\\-outbox {__version__}" "User Commands"'
    yield from (".SH NAME", "cdc\\-outbox \\- relay a PostgreSQL outbox table to Kafka")
    yield from (".SH SYNOPSIS", ".B cdc\\-outbox", "[\\fIOPTION\\fR...] \\fICOMMAND\\fR [\\fIARGUMENT\\fR...]")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(cli.cli.help or "")
    yield ".SH COMMANDS"
    for each in commands(context):
        yield f".SS {_text(each.command_path)} {_text(' '.join(each.command.collect_usage_pieces(each)))}"
        yield from _paragraphs(each.command.help or "")
        yield from _own_options(each)
    yield ".SH OPTIONS"
    yield "Those of \\fBrun\\fR; the other commands take those that concern them. Each is also an environment variable,"
    yield "and a key of the TOML file that \\fB\\-\\-config\\fR names."
    run = next(each for each in commands(context) if each.command_path == f"{PROGRAM} run")
    for option in _options(run):
        if hasattr(option, "setting"):
            yield from _option(option)
    yield from (".SH ENVIRONMENT", "CDC_OUTBOX_ and the name of an option in capital letters, for example:")
    yield from (".TP", f".B {_text(OPTIONS['dsn'].variable)}", _text(" ".join(OPTIONS["dsn"].help.split())))
    yield from (
        ".SH EXIT STATUS",
        "0 is success. The others are those of sysexits(3); \\fBcdc\\-outbox explain\\fR \\fICODE\\fR",
        "explains",
    )
    yield "the code of an error."
    yield from (".SH SEE ALSO", ".BR psql (1),", ".BR pg_recvlogical (1)")


def commands(context: click.Context) -> Iterator[click.Context]:
    """Each command that can be run, the groups opened."""
    group = context.command
    assert isinstance(group, click.Group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        inner = click.Context(command, info_name=name, parent=context, **CONTEXT)
        if isinstance(command, click.Group):
            yield from commands(inner)
        else:
            yield inner


def _options(context: click.Context) -> list[click.Option]:
    found = (each for each in context.command.params if isinstance(each, click.Option))
    return [each for each in found if not each.hidden and each.name != "help"]


def _own_options(context: click.Context) -> Iterator[str]:
    for option in _options(context):
        if not hasattr(option, "setting"):
            yield from _option(option)


def _option(option: click.Option) -> Iterator[str]:
    flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else f" \\fI{_text(option.make_metavar(click.Context(click.Command(PROGRAM))))}\\fR"
    yield from (".TP", flags + value, _text(" ".join((option.help or "").split())) or "\\&")


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in text.replace("\b", "").split("\n\n"):
        if paragraph.strip():
            yield from (".PP", _text(" ".join(paragraph.split())))


def _text(text: str) -> str:
    """Text for roff: a backslash and a hyphen are commands of its, and so is a line that begins with a dot or a quote."""
    return re.sub(r"^([.'])", r"\\&\1", text.replace("\\", "\\e").replace("-", "\\-").replace("…", "..."))
