"""Connection strings: what is given to libpq, and what libpq adds.

In: a conninfo string or URL in libpq's syntax; libpq's own environment (`PGHOST`, …) for the missing parts.
Out: a conninfo string with pinned session settings, so that no default of a role or a database changes the text of a value.
For `sslrootcert=system`: SSL_CERT_FILE in the environment.
Never: a connection.

PostgreSQL manual: 32.1.2 Parameter Key Words; 32.17 The Connection Service File.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg
from psycopg import conninfo as psycopg_conninfo
from psycopg import pq

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import is_c_string

CONNECT_TIMEOUT_SECONDS: Final = 10
"""Per host. Less than half of the 25 s that a stop may take, more than a slow TLS handshake over a WAN."""

KEEPALIVES: Final = {
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
"""In seconds; the last one in milliseconds. The kernel's own defaults find a dead peer after two hours."""

SEARCH_PATH: Final = "pg_catalog, pg_temp"
"""Where every session looks up names without a schema. Any role may create functions, operators and types in a schema such as
`public` (up to PostgreSQL 14 without being granted it): with another path, they would run with the relay's
privileges (CVE-2018-1058)."""

SERVER_KEEPALIVES: Final = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3"
"""The same for the server, which keeps the locks and temporary slots of a dead client: another relay waits for them."""

PINNED: Final = {
    "search_path": SEARCH_PATH.replace(" ", ""),  # a space would end the option
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "quote_all_identifiers": "off",  # in the text of a row filter
    "standard_conforming_strings": "on",
    "client_min_messages": "notice",  # the warning that a publication was skipped must be sent
    "row_security": "off",  # an error instead of rows hidden by a policy
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""Session settings that a role or a database may have changed, and that would change values, or end a long read or a session
that waits."""

CA_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # RHEL, Amazon Linux: the old place
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, the BSDs
)
"""Files in which operating systems keep the CAs that they trust."""


def libpq_version() -> str:
    """The version of the libpq in use, as `18.6`."""
    return f"{pq.version() // 10000}.{pq.version() % 10000}"


def environment_of_libpq() -> str:
    """The settings that libpq uses when --dsn is empty: its environment and its defaults, without a password."""
    shown = ("service", "host", "hostaddr", "port", "dbname", "user")
    found = {each.keyword.decode(): (each.val or b"").decode() for each in pq.Conninfo.get_defaults()}
    found["host"] = found.get("host") or "the socket of this machine"
    found["dbname"] = found.get("dbname") or found.get("user", "")
    return ", ".join(f"{name} {found[name]}" for name in shown if found.get(name))


def libpq_module() -> str | None:
    """The path of psycopg's extension module that is linked with libpq; None if psycopg runs its pure Python implementation."""
    path = sys.modules[pq.PGconn.__module__].__file__
    return None if path is None or path.endswith(".py") else path


def session_conninfo(dsn: str, **extra: str) -> str:
    """`dsn` with pinned session settings. Raises ConfigurationError when libpq cannot parse it."""
    try:
        given = psycopg_conninfo.conninfo_to_dict(dsn if is_c_string(dsn + os.environ.get("PGOPTIONS", "")) else "=")
    except psycopg.Error:
        raise ConfigurationError(
            "the connection string cannot be parsed",
            code="dsn-invalid",
            cure="write it as postgresql://user@host:5432/database or as host=HOST dbname=NAME; "
            "percent-encode special characters of a URL; put the password into PGPASSWORD or a passfile",
        ) from None
    given.pop(
        "replication", None
    )  # a stream sets it itself; an ordinary session with it could not run queries with parameters
    _find_system_roots(given)
    pinned = " ".join(f"-c {name}={value}" for name, value in PINNED.items())
    options = " ".join(filter(None, (SERVER_KEEPALIVES, *_given_options(given), pinned)))
    defaults = {"application_name": "cdc-outbox", "connect_timeout": str(CONNECT_TIMEOUT_SECONDS), **KEEPALIVES}
    merged = {**defaults, **given, **extra, "options": options, "client_encoding": "UTF8"}
    return psycopg_conninfo.make_conninfo("", **merged)


@dataclass(frozen=True, slots=True)
class Transport:
    """How a connection will be made, as far as that is known in advance."""

    hosts: tuple[str, ...]
    """Names, addresses, or socket folders; empty: libpq's default folder."""
    sslmode: str
    missing_root: str | None
    """The file of CAs that libpq will look for, if it does not exist; else None."""
    service: bool
    """Whether a service file adds settings."""


def transport(dsn: str) -> Transport:
    """The transport for `dsn`, libpq's environment and its defaults. Raises ConfigurationError if it cannot be parsed."""
    given = psycopg_conninfo.conninfo_to_dict(session_conninfo(dsn))
    known = {
        option.keyword.decode(): option.val.decode()
        for option in pq.Conninfo.get_defaults()
        if option.val is not None and option.keyword in _TRANSPORT
    }
    known |= {name: str(value) for name, value in given.items() if value and name.encode() in _TRANSPORT}
    root = known.get("sslrootcert") or str(Path.home() / ".postgresql" / "root.crt")
    return Transport(
        hosts=tuple((known.get("host") or known.get("hostaddr") or "").split(",")),
        sslmode="verify-full" if root == "system" else known.get("sslmode", "prefer"),
        missing_root=None if root == "system" or Path(root).is_file() else root,
        service="service" in known,
    )


_TRANSPORT: Final = frozenset({b"host", b"hostaddr", b"sslmode", b"sslrootcert", b"service"})
"""Keywords of conninfo for the host and TLS."""


def _given_options(given: Mapping[str, object]) -> list[str]:
    """Server options of the environment, the service file and the connection string: the server applies them in this order.

    libpq uses one of them only, and none besides ours.
    """
    environment, named = os.environ.get("PGOPTIONS", ""), str(given.get("options") or "")
    of_service = ""
    if given.get("service") or os.environ.get("PGSERVICE"):
        # libpq reads its service file only to connect. At this place nothing listens.
        service = {name: str(given[name]) for name in ("service", "servicefile") if given.get(name)}
        nowhere = psycopg_conninfo.make_conninfo("", host="/nonexistent", hostaddr="", **service)
        attempt = pq.PGconn.connect_start(nowhere.encode())
        of_service = next((each.val or b"" for each in attempt.info if each.keyword == b"options"), b"").decode()
        attempt.finish()
    return [environment, of_service if of_service != environment else "", named]


def _find_system_roots(given: Mapping[str, object]) -> None:
    """For `sslrootcert=system`: set SSL_CERT_FILE to this machine's bundle, unless the environment names other roots.

    The OpenSSL inside psycopg's wheel looks in the folder it was built with, which does not exist elsewhere.
    """
    wanted = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if wanted == "system" and not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        for bundle in CA_BUNDLES:
            if Path(bundle).is_file():
                os.environ["SSL_CERT_FILE"] = bundle
                return
