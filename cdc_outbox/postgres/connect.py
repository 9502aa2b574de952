"""Connections to PostgreSQL.

In: a conninfo string or URL in libpq's syntax; missing parts come from libpq's own environment (`PGHOST`, …).
Out: psycopg connections with pinned session settings, so that no default of a role or a database changes the text of a
value; errors of `cdc_outbox.errors`, each with its cure. For `sslrootcert=system`: SSL_CERT_FILE in the environment.
Never: an error of the driver; `postgres.errors` translates them.

PostgreSQL manual: 32.1 Database Connection Control Functions.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import psycopg
from psycopg import conninfo as psycopg_conninfo
from psycopg import pq

from cdc_outbox.errors import CdcOutboxError, ConfigurationError, Unreachable
from cdc_outbox.postgres.errors import translate, translated
from cdc_outbox.postgres.login import LoginConnection
from cdc_outbox.shutdown import Stop, Stopped

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]

CONNECT_TIMEOUT_SECONDS: Final = 10
"""Per host. Less than half of the 25 s that a stop may take, more than a slow TLS handshake over a WAN."""

CANCEL_SECONDS: Final = 2.0
"""For the connection that cancels a query, to a server that has answered before. A stop must not wait longer."""

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

PINNED: Final = {
    "search_path": SEARCH_PATH.replace(" ", ""),  # a space would end the option
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "client_min_messages": "notice",  # the warning that a publication was skipped must be sent
    "row_security": "off",  # an error instead of rows hidden by a policy
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Session settings that a role or a database may have changed, and that would change values or end a long read."""

_TRANSACTION_TIMEOUT_SINCE: Final = 170_000
"""Server version with transaction_timeout, which would end a long read too. Older servers refuse the setting."""

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
        given = psycopg_conninfo.conninfo_to_dict(dsn)
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
    chosen = given.get("options") or os.environ.get("PGOPTIONS") or ""  # libpq reads PGOPTIONS only without options
    options = f"{chosen} {pinned}".strip()
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


AS_IT_IS: Final = "SET client_encoding = 'SQL_ASCII'"
"""For a session that reads rows of a database without an encoding: the server neither checks nor refuses any byte."""


def has_no_encoding(connection: Connection) -> bool:
    """Whether the database has the encoding SQL_ASCII: its text may be any bytes, and in a UTF-8 session the server refuses
    (22021) to send those that are not UTF-8.
    """
    return connection.pgconn.parameter_status(b"server_encoding") == b"SQL_ASCII"


def open_session(conninfo: str, stop: Stop | None = None) -> Connection:
    """Open an autocommit connection to `conninfo` exactly as given. Raises CdcOutboxError, Stopped on a stop."""
    if stop is None:
        return _open(conninfo)
    opening: queue.SimpleQueue[Connection | CdcOutboxError] = queue.SimpleQueue()

    def open_aside() -> None:
        """Connect in a thread that may be abandoned: a host that does not answer must not delay a stop."""
        try:
            opening.put(_open(conninfo))
        except CdcOutboxError as error:
            opening.put(error)
        opened.set()

    opened = stop.or_event()
    threading.Thread(target=open_aside, name="connect", daemon=True).start()
    opened.wait()
    if opening.empty():
        raise Stopped
    outcome = opening.get()
    if isinstance(outcome, CdcOutboxError):
        raise outcome
    return outcome


def _open(conninfo: str) -> Connection:
    try:
        connection = LoginConnection.connect(conninfo, autocommit=True)
        try:
            # Repeated as a command: a pooler may have dropped the options of the connection.
            pins = [f"SET search_path = {SEARCH_PATH}"]
            if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
                pins.append("SET transaction_timeout = 0")
            connection.execute("; ".join(pins).encode())
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise translate(error) from None
    return connection


@contextlib.contextmanager
def open_connection(
    dsn: str, stop: Stop | None = None, *, lock_timeout: float = 0.0, timeout: float | None = None
) -> Iterator[Connection]:
    """A short-lived ordinary connection with autocommit, closed at the end. Raises CdcOutboxError.

    Raises Stopped on a stop, which also cancels the running query. `lock_timeout`: seconds that a query may wait
    for a lock of another session (0: no limit); longer is Unreachable. `timeout`: seconds for the whole block; longer is
    Unreachable, also when the server does not answer at all.
    """
    connection = open_session(session_conninfo(dsn), stop)
    try:
        with translated(), _ended_by(stop, timeout, connection):
            if lock_timeout:
                connection.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (f"{lock_timeout * 1000:.0f}",)
                )
            yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _ended_by(stop: Stop | None, timeout: float | None, connection: Connection) -> Iterator[None]:
    """Inside the block, a stop cancels the running query (Stopped); after `timeout` the socket is shut down (Unreachable)."""
    if stop is None and timeout is None:
        yield
        return
    over = threading.Event() if stop is None else stop.or_event()
    late = threading.Event()

    def watch() -> None:
        over.wait(timeout)
        if stop is not None and stop.requested:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CANCEL_SECONDS)
        elif not done.is_set():
            late.set()
            with contextlib.suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as wire:
                wire.shutdown(socket.SHUT_RDWR)

    done = threading.Event()
    threading.Thread(target=watch, name="deadline", daemon=True).start()
    try:
        yield
    except (psycopg.Error, CdcOutboxError) as error:
        if stop is not None and stop.requested:
            raise Stopped from error
        if late.is_set():
            raise Unreachable(
                f"PostgreSQL has not answered within {timeout:g} s",
                code="postgres-silent",
                cure="check the network, and what the server waits for",
            ) from error
        raise
    finally:
        done.set()
        over.set()
