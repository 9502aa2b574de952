"""Passwords on the command line, taken out of the process list.

Any user of a machine may read /proc/PID/cmdline and `ps`. On Linux that text is this process's own memory, from arg_start to
arg_end (proc(5), /proc/pid/stat, fields 48 and 49); the interpreter has already copied it. So the secrets in it are overwritten
with asterisks, in place: the password of a --dsn, the value of -X sasl.password=….

In: the arguments. Out: nothing; they stay as they are for the program itself.
Never: a promise. From exec to here (some 50 ms) the password could be read, shells keep histories, and a parent's command
line (sh -c, timeout, docker run) is not ours. CDC_OUTBOX_DSN_FILE, PGPASSFILE and CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE avoid
all that. Where overwriting does not work, a warning says so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from cdc_outbox.config.redaction import Span, argument_spans, masked_dsn, remember, remember_dsn

_PROC: Final = Path("/proc/self")
_PROPERTY: Final = re.compile(r"(-X=?)?[A-Za-z]\w*\.[\w.]*\s*=")


def hide_secrets(arguments: Sequence[str]) -> None:
    """Overwrite the secrets among this process's arguments, and have `masking.scrub` know them."""
    found = False
    for argument, spans in zip(arguments, secret_spans_of(arguments), strict=True):
        found = found or bool(spans)
        for first, end in spans:
            remember(argument[first:end])
        if spans and not _PROPERTY.match(argument):
            remember_dsn(argument.removeprefix("--dsn="))
    if found and not _overwrite():
        import logging

        logging.getLogger("cdc_outbox").warning(
            "a password on the command line can be read by every user of this machine (ps); "
            "put it into a file and name that by CDC_OUTBOX_DSN_FILE or CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE"
        )


def secret_spans_of(arguments: Sequence[str]) -> list[list[Span]]:
    """For each argument, where its secrets are. A --dsn that cannot be parsed is a secret as a whole."""
    spans: list[list[Span]] = []
    previous = ""
    for argument in arguments:
        name, _, dsn = ("--dsn", "", argument) if previous == "--dsn" else argument.partition("=")
        found = argument_spans(argument)
        if name == "--dsn" and not found and masked_dsn(dsn) == "***":
            found = [(len(argument) - len(dsn), len(argument))]
        spans.append(found)
        previous = argument
    return spans


def _overwrite() -> bool:
    """Put asterisks over the secrets in the kernel's view of our command line; whether that worked."""
    import ctypes

    try:
        given = (_PROC / "cmdline").read_bytes()
        fields = (_PROC / "stat").read_text().rpartition(")")[2].split()
        first, end = int(fields[45]), int(fields[46])  # fields 48 and 49; what follows the name's ) begins with field 3
        if not first or ctypes.string_at(first, end - first) != given:
            return False
        hidden = _hidden(given)
        ctypes.memmove(first, hidden, len(hidden))
        return (_PROC / "cmdline").read_bytes() == hidden
    except (OSError, IndexError, ValueError):
        return False


def _hidden(cmdline: bytes) -> bytes:
    """The same number of bytes, asterisks in place of the secrets."""
    arguments = [argument.decode("utf-8", "surrogateescape") for argument in cmdline.split(b"\0")]
    hidden: list[bytes] = []
    for argument, spans in zip(arguments, secret_spans_of(arguments), strict=True):
        text, at = b"", 0
        for first, end in spans:
            text += _bytes(argument[at:first]) + b"*" * len(_bytes(argument[first:end]))
            at = end
        hidden.append(text + _bytes(argument[at:]))
    return b"\0".join(hidden)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
