"""The last defence against a secret in a log line or an HTTP answer.

In: any text that is about to be shown. Out: the same text with passwords replaced by `***`: the ones that
`redaction` has remembered, and text in the form of a password.
Never: the first defence. Settings keep secrets in `Secret`, and errors are written without them; this module is for
messages of libraries that quote their input. In doubt it hides too much.

Forms: PostgreSQL manual 32.1.1 Connection Strings (key=value, quoted or with backslashes; URL), RFC 3986 userinfo,
librdkafka's property names (`sasl.password`, `ssl.key.password`, …), PEM private keys.
"""

from __future__ import annotations

import re
from typing import Final

from cdc_outbox.config.redaction import MASK, NAMES_OF_SECRETS, is_secret_property, scrub

_USERINFO: Final = re.compile(r"(://)([^\s\"'<>]*)@")
"""Greedy up to the last `@` of the word: a password with a raw `@` or `/` in it is hidden whole."""

_ASSIGNMENT: Final = re.compile(
    rf"""(?ix)
    ( (?: {NAMES_OF_SECRETS}
        | \*{{3}} (?= \s* = ) ) [\w.-]*   # a name that was masked itself: the word `secret` may be a password
      ["']? \s* [=:] \s* )
    ( '(?:[^'\\]|\\.)*'? | "(?:[^"\\]|\\.)*"? | (?:\\.|\S)+ )
    """
)

_PRIVATE_KEY: Final = re.compile(
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
)

_HINTS: Final = re.compile(r"(?i)://|pass|secret|scram_|key|jaas|oauthbearer|\*=")
"""A cheap test: almost no line holds a secret."""


def mask(text: str) -> str:
    """Return `text` without the secrets that it may quote."""
    text = scrub(text)
    if _HINTS.search(text) is None:
        return text
    text = _PRIVATE_KEY.sub(rf"\1{MASK}", text)
    text = _USERINFO.sub(_hide_password, text)
    return _ASSIGNMENT.sub(rf"\1{MASK}", text)


def names_secret(name: str) -> bool:
    """Whether a field of this name holds a secret, whatever its value looks like."""
    return is_secret_property(name)


def _hide_password(match: re.Match[str]) -> str:
    user, colon, _ = match[2].partition(":")
    return f"{match[1]}{user}{colon}{MASK}@" if colon else match[0]
