"""Connections to PostgreSQL, and the one place where the driver's errors become ours.

In: a conninfo string or URL, as libpq takes it; what is left out comes from libpq's own environment (`PGHOST`, …).
Out: psycopg connections with pinned session settings, so that no default of a role or a database changes what a value
looks like; errors of `cdc_outbox.errors`, each with its cure.
Never: a conninfo in a message. libpq quotes pieces of a string it cannot parse, so those messages are not passed on.

PostgreSQL manual: 32.1 Database Connection Control Functions; appendix A, Error Codes.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import psycopg
from psycopg import conninfo as psycopg_conninfo
from psycopg import pq

from cdc_outbox.errors import (
    AccessRefused,
    CdcOutboxError,
    ConfigurationError,
    ConnectionLost,
    ShuttingDown,
    SlotBusy,
    Unreachable,
)
from cdc_outbox.stop import Stop, Stopped

Connection: TypeAlias = psycopg.Connection[tuple[object, ...]]

CONNECT_TIMEOUT_SECONDS: Final = 10
"""Per host. Below half of the 25 s in which a stop must end, above a slow TLS handshake over a WAN."""

PINNED: Final = {
    "datestyle": "ISO",
    "timezone": "UTC",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "row_security": "off",  # an error instead of rows that a policy hides from us
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
"""Session settings that a role or a database may have changed, and that would change values or end a long read."""

_TRANSACTION_TIMEOUT_SINCE: Final = 170_000
"""Server version with a transaction_timeout, which would end a long read too; older ones refuse a connection that names it."""


def libpq_version() -> str:
    """The version of the libpq in use, as `18.6`."""
    return f"{pq.version() // 10000}.{pq.version() % 10000}"


def session_conninfo(dsn: str, **extra: str) -> str:
    """`dsn` with our session settings pinned. Raises ConfigurationError when libpq cannot parse it."""
    try:
        given = psycopg_conninfo.conninfo_to_dict(dsn)
    except psycopg.Error:
        raise ConfigurationError(
            "the connection string cannot be parsed",
            cure="write it as postgresql://user@host:5432/database or as host=… dbname=…; "
            "percent-encode special characters of a URL; put the password into PGPASSWORD or a passfile",
        ) from None
    pinned = " ".join(f"-c {name}={value}" for name, value in PINNED.items())
    options = f"{given.get('options') or ''} {pinned}".strip()
    defaults = {"application_name": "cdc-outbox", "connect_timeout": str(CONNECT_TIMEOUT_SECONDS)}
    merged = {**defaults, **given, **extra, "options": options, "client_encoding": "UTF8"}
    return psycopg_conninfo.make_conninfo("", **merged)


def open_session(conninfo: str, stop: Stop | None = None) -> Connection:
    """Open an autocommit connection to `conninfo` exactly as given. Raises our errors, and Stopped when a stop comes first."""
    if stop is None:
        return _open(conninfo)
    opening: queue.SimpleQueue[Connection | CdcOutboxError] = queue.SimpleQueue()

    def open_aside() -> None:
        """Connect in a thread that may be left behind: a host that does not answer must not hold up a stop."""
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
        connection = psycopg.connect(conninfo, autocommit=True)
        try:
            if connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE:
                connection.execute("SET transaction_timeout = 0")
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        raise translate(error) from None
    return connection


@contextlib.contextmanager
def open_connection(dsn: str, stop: Stop | None = None) -> Iterator[Connection]:
    """A short ordinary connection, autocommit, closed at the end; its errors are ours. Stopped when a stop comes first."""
    connection = open_session(session_conninfo(dsn), stop)
    try:
        with translated():
            yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors inside the block into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> CdcOutboxError:
    """The error of ours that says what to do about `error`: by SQLSTATE, or by its text while there is no session."""
    message = error.diag.message_primary or str(error)
    if error.sqlstate is None:
        return _refused_connection(error, " ".join(message.split()))
    return from_sqlstate(error.sqlstate, message)


def from_sqlstate(sqlstate: str, message: str) -> CdcOutboxError:
    """The error for a server's report. Appendix A of the manual names the codes."""
    for prefix, make in _BY_SQLSTATE:
        if sqlstate.startswith(prefix):
            return make(message)
    return ConfigurationError(f"PostgreSQL says: {message}", sqlstate=sqlstate)


def _refused_connection(error: psycopg.Error, message: str) -> CdcOutboxError:
    """A connection that never came about has no SQLSTATE: libpq gives words only."""
    for words, make in _BY_WORDS:
        if any(word in message for word in words):
            return make(message)
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigurationError(
            "the connection string holds something that libpq does not know",
            cure="compare its keywords with the manual, 32.1.2 Parameter Key Words",
        )
    return Unreachable(f"PostgreSQL cannot be reached: {message}", cure="check host, port, DNS and firewall")


Maker: TypeAlias = Callable[[str], CdcOutboxError]


def _config(what: str, cure: str) -> Maker:
    return lambda message: ConfigurationError(f"{what}: {message}", cure=cure)


def _refused(what: str, cure: str) -> Maker:
    return lambda message: AccessRefused(f"{what}: {message}", cure=cure)


def _wait(what: str) -> Maker:
    return lambda message: Unreachable(f"{what}: {message}")


def _lost(message: str) -> CdcOutboxError:
    return ConnectionLost(f"PostgreSQL ended the connection: {message}")


def _busy(message: str) -> CdcOutboxError:
    return SlotBusy(message)


_PASSWORD: Final = _refused(
    "PostgreSQL refuses the login",
    "check user and password (CDC_OUTBOX_DSN_FILE, PGPASSWORD or a passfile keep it out of the command line)",
)
_REPLICATION: Final = _refused(
    "the role may not stream",
    "as an administrator: ALTER ROLE <the relay's role> REPLICATION; (RDS: GRANT rds_replication)",
)

_BY_WORDS: Final[tuple[tuple[tuple[str, ...], Maker], ...]] = (
    (
        ("the database system is shutting down",),
        lambda message: ShuttingDown(f"PostgreSQL is shutting down: {message}"),
    ),
    (("password authentication failed", "no password supplied", "authentication failed"), _PASSWORD),
    (
        ("no pg_hba.conf entry", "pg_hba.conf rejects"),
        _refused("pg_hba.conf does not admit us", "add a `host` line for this user, database and address, and reload"),
    ),
    (('role "',), _refused("PostgreSQL refuses the login", "create the role: cdc-outbox sql roles | psql")),
    (("permission denied to start WAL sender", "superuser or replication role"), _REPLICATION),
    (('database "',), _config("no such database", "name an existing database in --dsn (dbname=…)")),
    (
        ("certificate verify failed", "does not match host name", "root certificate file", "certificate has expired"),
        _config(
            "the server's certificate does not verify", "set sslrootcert to the CA that signed it, and host to its name"
        ),
    ),
    (
        ("does not support SSL", "server does not support"),
        _config("the server has no TLS", "turn ssl on in the server, or choose another sslmode"),
    ),
    (
        ("invalid sslmode", "invalid connection option", "invalid port", "invalid integer"),
        _config("a wrong setting", "see --dsn"),
    ),
)
"""Before a session exists. The words are English unless the server's lc_messages says otherwise: then Unreachable."""

_BY_SQLSTATE: Final[tuple[tuple[str, Maker], ...]] = (
    ("28", _PASSWORD),
    ("3D000", _config("no such database", "name an existing database in --dsn (dbname=…)")),
    ("42501", _refused("a privilege is missing", "as an administrator: cdc-outbox sql roles | psql")),
    ("55006", _busy),
    ("42704", _config("PostgreSQL does not know it", "see cdc-outbox slot status")),
    ("57P01", _lost),
    ("57P02", _lost),
    ("57P03", _wait("PostgreSQL is not ready")),
    ("53400", _config("no free replication slot", "raise max_replication_slots, or drop a slot nobody uses")),
    ("53300", _wait("PostgreSQL has no free connection (max_connections, max_wal_senders)")),
    ("53", _wait("PostgreSQL is out of a resource")),
    ("08", _lost),
)
