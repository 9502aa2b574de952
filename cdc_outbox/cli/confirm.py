"""Asking before something is done that cannot be undone.

In: a question, and whether `--yes` answers it already. Out: nothing, when it is to be done.
Never: a wait for an answer that nobody can give: without a terminal it is a usage error.
"""

from __future__ import annotations

import sys

import click


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises click.Abort for no, click.UsageError where there is no terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("this is asked on a terminal only: add --yes to do it")
    click.confirm(question, abort=True, err=True)
