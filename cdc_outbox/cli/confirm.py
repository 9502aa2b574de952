"""Confirmation of an action that cannot be undone.

In: a question, and whether `--yes` answers it. Out: nothing, if the answer is yes.
Never: a wait without a terminal: that is a usage error.
"""

from __future__ import annotations

import sys

import click


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal. Raises click.Abort for no, click.UsageError where there is no terminal."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise click.UsageError("confirmation needs a terminal: add --yes to skip it")
    click.confirm(question, abort=True, err=True)
