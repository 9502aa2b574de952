"""Passwords on the command line, removed from the process list.

Any user of a machine may read /proc/PID/cmdline (`ps`). So the process title is replaced by the command line without its
secrets: the password of a --dsn, the value of -X sasl.password=….

In: the arguments. Out: nothing; the arguments themselves stay as they are.
Never: a guarantee. Until the title is replaced (some 50 ms after exec) the password can be read; shells keep histories; a
parent's command line (sh -c, timeout, docker run) stays. CDC_OUTBOX_DSN_FILE, PGPASSFILE and
CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE avoid all of that. Where the title cannot be replaced, a warning names them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cdc_outbox.config.redaction import MASK, Span, argument_spans, masked_dsn, remember, remember_dsn

_CMDLINE: Final = Path("/proc/self/cmdline")
_PROPERTY: Final = re.compile(r"(-X=?)?[A-Za-z]\w*\.[\w.]*\s*=")


def hide_secrets(arguments: Sequence[str]) -> None:
    """Remove the secrets among this process's arguments from its title; have `redaction.scrub` know them."""
    secrets: list[str] = []
    shown: list[str] = []
    for argument, spans in zip(arguments, secret_spans_of(arguments), strict=True):
        secrets += [argument[first:end] for first, end in spans]
        shown.append(_masked(argument, spans))
        if spans and not _PROPERTY.match(argument):
            remember_dsn(argument.removeprefix("--dsn="))
    for secret in secrets:
        remember(secret)
    if secrets and not _replace_title(" ".join(["cdc-outbox", *shown[1:]]), secrets):
        import logging

        logging.getLogger("cdc_outbox").warning(
            "a password on the command line can be read by every user of this machine (ps); "
            "put it into a file and name that by CDC_OUTBOX_DSN_FILE or CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE"
        )


def secret_spans_of(arguments: Sequence[str]) -> list[list[Span]]:
    """For each argument, the positions of its secrets. A --dsn that cannot be parsed is a secret as a whole."""
    spans: list[list[Span]] = []
    previous = ""
    for argument in arguments:
        name, _, dsn = ("--dsn", "", argument) if previous == "--dsn" else argument.partition("=")
        found = argument_spans(argument)
        if name == "--dsn" and not found and masked_dsn(dsn) == MASK:
            found = [(len(argument) - len(dsn), len(argument))]
        spans.append(found)
        previous = argument
    return spans


def _masked(argument: str, spans: Sequence[Span]) -> str:
    for first, end in reversed(spans):
        argument = f"{argument[:first]}{MASK}{argument[end:]}"
    return argument


def _replace_title(title: str, secrets: Sequence[str]) -> bool:
    """Whether no secret is left in the title."""
    try:
        import setproctitle
    except ImportError:
        return False
    setproctitle.setproctitle(title)
    try:
        seen = _CMDLINE.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:  # no /proc
        seen = setproctitle.getproctitle()
    return seen.startswith("cdc-outbox") and not any(secret in seen for secret in secrets if secret not in title)
