"""Where the secrets are in a text, and the same text without them.

In: connection strings, librdkafka properties, command lines, messages of libraries.
Out: positions of secrets, or the text with `***` in their place.
Never: libpq itself (this must work before psycopg is imported), and never a guess in favour of showing: what cannot be
parsed is a secret as a whole, and a keyword's value is shown only if the keyword is known to hold none.

PostgreSQL manual, 32.1.1 Connection Strings; librdkafka's CONFIGURATION.md.
"""

from __future__ import annotations

import re
from typing import Final, TypeAlias
from urllib.parse import unquote

MASK: Final = "***"

Span: TypeAlias = tuple[int, int]
"""First character of a secret, and the one after its last."""

_SHOWN: Final = frozenset(
    re.findall(
        r"\w+",
        """application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval krbsrvname
    load_balance_hosts max_protocol_version min_protocol_version oauth_client_id oauth_issuer oauth_scope options
    passfile port replication require_auth requirepeer service servicefile ssl ssl_max_protocol_version
    ssl_min_protocol_version sslcert sslcertmode sslcompression sslcrl sslcrldir sslkey sslkeylogfile sslmode
    sslnegotiation sslrootcert sslsni target_session_attrs tcp_user_timeout user""",
    )
)
"""libpq's keywords without those that hold secrets: password, sslpassword, oauth_client_secret, scram_*_key."""

_PAIR: Final = re.compile(
    r"""\s*+([A-Za-z_]++)\s*+=\s*+(?:'((?:[^'\\]|\\.)*+)'|((?:[^\s'\\]|\\.)(?:[^\s\\]|\\.)*+)?)\s*+""", re.DOTALL
)
_URL: Final = re.compile(
    r"""postgres(?:ql)?://
    (?:[^:@/?=&\s]*+ (?: : (?P<password>[^@/]*+) )? @ | (?![^@/]*@))  # libpq looks for an @ before the first /
    (?:\[[^\]@]*+\]|[^:@/?,\[\]\s]*+) (?::\d*+)? (?:, (?:\[[^\]@]*+\]|[^:@/?,\[\]\s]*+) (?::\d*+)? )*+
    (?:/[^?@\s]*+)?
    (?:\?(?P<query>.*+))?""",
    re.VERBOSE | re.DOTALL,
)

NAMES_OF_SECRETS: Final = (
    r"(?:password|passwd|passphrase|secret|scram_(?:client|server)_key|private_?key"
    r"|key[._]pem|keystore[._]key|jaas|oauthbearer[._]config)"
)
"""Pattern, in any case, of names whose values are secrets: of librdkafka, the Java clients, libpq, and log fields."""

_SHORTEST: Final = 4
"""Characters. Shorter pieces are too weak to be secrets, and removing them would make messages unreadable."""

_known: set[str] = set()


def secret_spans(dsn: str) -> list[Span] | None:
    """Where the secrets of a conninfo string or URL are; None when it is neither, so that no part of it is safe."""
    if re.match(r"postgres(?:ql)?://", dsn):
        return _url_spans(dsn)
    return _conninfo_spans(dsn)


def masked_dsn(dsn: str) -> str:
    """`dsn` as it may be shown. One that cannot be parsed is shown as `***`."""
    spans = secret_spans(dsn)
    return MASK if spans is None else _cut(dsn, spans)


def is_secret_property(name: str) -> bool:
    """Whether the value of this librdkafka (or Java client's) property must not be shown."""
    return re.search(NAMES_OF_SECRETS, name, re.IGNORECASE) is not None


def argument_spans(argument: str) -> list[Span]:
    """Where the secrets are in one argument of a command line, with or without `--option=` before them."""
    option = re.match(r"--[a-z-]+=|-[A-Za-z]=?(?=[^-])", argument)
    at = option.end() if option else 0
    value = argument[at:]
    pair = re.match(r"\s*([A-Za-z][A-Za-z0-9._]*)\s*=", value)
    if pair and "." in pair[1]:
        return [(at + pair.end(), len(argument))] if is_secret_property(pair[1]) else []
    looks = re.search(r"postgres(ql)?://|(password|secret|_key)\s*=", value, re.IGNORECASE) is not None
    spans = secret_spans(value) if looks else []
    return [(at, len(argument))] if spans is None else [(at + first, at + end) for first, end in spans]


def remember(secret: str) -> None:
    """Have `scrub` remove this text from now on."""
    if len(secret) >= _SHORTEST:
        _known.add(secret)


def remember_dsn(dsn: str) -> None:
    """Have `scrub` remove the secrets of this connection string: as written, and as libpq reads them.

    A password that is also shown elsewhere in the string (a user `postgres` with the password `postgres`) stays: hiding
    it would hide nothing, and make messages unreadable.
    """
    spans = secret_spans(dsn)
    if spans is None:
        pieces = [dsn, *re.split(r"[\s=:@/?&'\"]+", dsn)]
    else:
        shown = re.split(r"[\s=:@/?&'\"]+", _cut(dsn, spans))
        written = [dsn[first:end] for first, end in spans]
        pieces = [piece for piece in written if piece not in shown]
        pieces += [unquote(piece) for piece in pieces] + [re.sub(r"\\(.)", r"\1", piece) for piece in pieces]
    for piece in pieces:
        remember(piece)


def scrub(text: str) -> str:
    """`text` without any secret that was remembered. For text of libraries: tracebacks, a parser's messages."""
    for secret in sorted(_known, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", MASK, text)
    return text


def _cut(text: str, spans: list[Span]) -> str:
    for first, end in reversed(spans):
        text = text[:first] + MASK + text[end:]
    return text


def _conninfo_spans(text: str) -> list[Span] | None:
    spans: list[Span] = []
    at = len(text) - len(text.lstrip())
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            return None
        group = 2 if pair[2] is not None else 3
        if not _is_shown(pair[1], pair[group] or "") and pair[group]:
            spans.append(pair.span(group))
        at = pair.end()
    return spans


def _url_spans(text: str) -> list[Span] | None:
    url = _URL.fullmatch(text)
    if url is None:
        return None
    spans = [url.span("password")] if url["password"] else []
    at = url.start("query")
    for parameter in (url["query"] or "").split("&"):
        name, equals, value = parameter.partition("=")
        if parameter and not equals:
            return None
        if value and not _is_shown(unquote(name), unquote(value)):
            spans.append((at + len(name) + 1, at + len(parameter)))
        at += len(parameter) + 1
    return spans


def _is_shown(keyword: str, value: str) -> bool:
    """A database's name that is a connection string itself is an accident, and hides a password."""
    return keyword in _SHOWN and not (keyword == "dbname" and re.search(r"=|://", value))
