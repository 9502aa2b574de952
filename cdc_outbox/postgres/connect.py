"""Connections to PostgreSQL, and the one place where the driver's errors become ours.

In: a conninfo string or URL, as libpq takes it; what is left out comes from libpq's own environment (`PGHOST`, …).
Out: psycopg connections with pinned session settings, so that no default of a role or a database changes what a value
looks like; errors of `cdc_outbox.errors`, each with its cure. For `sslrootcert=system`: SSL_CERT_FILE in the environment.
Never: a conninfo in a message. libpq quotes pieces of a string it cannot parse, so those messages are not passed on.

PostgreSQL manual: 32.1 Database Connection Control Functions; appendix A, Error Codes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import psycopg
from psycopg import conninfo as psycopg_conninfo
from psycopg import pq

from cdc_outbox.errors import (
    AccessRefused,
    CannotConnect,
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

CANCEL_SECONDS: Final = 2.0
"""For one more connection to a server that has answered us before; a stop must not wait longer."""

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

CA_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/pki/tls/certs/ca-bundle.crt",  # RHEL, Amazon Linux: the old place
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # Alpine, macOS, the BSDs
)
"""Where a system keeps the CAs that it trusts, in one file."""


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
    _find_system_roots(given)
    pinned = " ".join(f"-c {name}={value}" for name, value in PINNED.items())
    options = f"{given.get('options') or ''} {pinned}".strip()
    defaults = {"application_name": "cdc-outbox", "connect_timeout": str(CONNECT_TIMEOUT_SECONDS)}
    merged = {**defaults, **given, **extra, "options": options, "client_encoding": "UTF8"}
    return psycopg_conninfo.make_conninfo("", **merged)


@dataclass(frozen=True, slots=True)
class Transport:
    """How a connection will be made, as far as that is known without making it."""

    hosts: tuple[str, ...]
    """Names, addresses, or folders of sockets; empty for libpq's own folder."""
    sslmode: str
    missing_root: str | None
    """The file of CAs that libpq will look for, if it is not there."""
    service: bool
    """Whether a service file says more."""


def transport(dsn: str) -> Transport:
    """What libpq will do with `dsn`, its environment and its defaults. Raises ConfigurationError when it cannot be parsed."""
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
"""Keywords of conninfo that say where to, and how."""


def _find_system_roots(given: Mapping[str, object]) -> None:
    """For `sslrootcert=system`: name this machine's bundle in SSL_CERT_FILE, unless somebody chose other roots.

    The OpenSSL inside psycopg's wheel looks in the folder it was built for, which no machine has.
    """
    wanted = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT")
    if wanted == "system" and not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        for bundle in CA_BUNDLES:
            if Path(bundle).is_file():
                os.environ["SSL_CERT_FILE"] = bundle
                return


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
def open_connection(dsn: str, stop: Stop | None = None, *, lock_timeout: float = 0.0) -> Iterator[Connection]:
    """A short ordinary connection, autocommit, closed at the end; its errors are ours.

    Stopped when a stop comes first: it also cancels a query that is running. `lock_timeout`: seconds that a query may wait
    for somebody else's lock (0: for ever); longer is Unreachable.
    """
    connection = open_session(session_conninfo(dsn), stop)
    try:
        with translated(), _cancelled_by(stop, connection):
            if lock_timeout:
                connection.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (f"{lock_timeout * 1000:.0f}",)
                )
            yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _cancelled_by(stop: Stop | None, connection: Connection) -> Iterator[None]:
    """Inside the block a stop cancels the query that is running, and what that fails with is Stopped."""
    if stop is None:
        yield
        return
    over = stop.or_event()

    def watch() -> None:
        over.wait()
        if stop.requested:
            with contextlib.suppress(psycopg.Error):
                connection.cancel_safe(timeout=CANCEL_SECONDS)

    threading.Thread(target=watch, name="cancel", daemon=True).start()
    try:
        yield
    except (psycopg.Error, CdcOutboxError) as error:
        if stop.requested:
            raise Stopped from error
        raise
    finally:
        over.set()


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn the driver's errors inside the block into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> CdcOutboxError:
    """The error of ours that says what to do about `error`: by SQLSTATE, or by its text while there is no session."""
    if error.sqlstate is None:
        return _refused_connection(error)
    return from_sqlstate(error.sqlstate, error.diag.message_primary or str(error), error.diag.message_hint or "")


def from_sqlstate(sqlstate: str, message: str, hint: str = "") -> CdcOutboxError:
    """The error for a server's report. Its hint is the cure where we know none. Appendix A of the manual names the codes."""
    for prefix, make in _BY_SQLSTATE:
        if sqlstate.startswith(prefix):
            error = make(message)
            error.cure = error.cure or hint
            return error
    return ConfigurationError(f"PostgreSQL says: {message}", cure=hint, sqlstate=sqlstate)


def _refused_connection(error: psycopg.Error) -> CdcOutboxError:
    """A connection that never came about has no SQLSTATE: libpq gives words only."""
    message = _attempts(error.diag.message_primary or str(error))
    for pattern, make in _BY_WORDS:
        if re.search(pattern, message):
            return make(message)
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigurationError(
            "the connection string holds something that libpq does not know",
            cure="compare its keywords with the manual, 32.1.2 Parameter Key Words",
        )
    return Unreachable(f"PostgreSQL cannot be reached: {message}", cure="check host, port, DNS and firewall")


def _attempts(text: str) -> str:
    """What each host and address said, in one line and once."""
    _, several, attempts = text.partition("All failures were:")
    lines = attempts.split("\n- ")[1:] if several else [text]
    told = (re.sub(r"^.*?connection (failed|is bad): (connection to )?", "", " ".join(line.split())) for line in lines)
    return re.sub(r" Is the server running [^?]*\?", "", "; ".join(dict.fromkeys(told)))


Maker: TypeAlias = Callable[[str], CdcOutboxError]


def _config(what: str, cure: str) -> Maker:
    return lambda message: ConfigurationError(f"{what}: {message}", cure=cure)


def _refused(what: str, cure: str) -> Maker:
    return lambda message: AccessRefused(f"{what}: {message}", cure=cure)


def _cannot_connect(what: str, cure: str) -> Maker:
    return lambda message: CannotConnect(f"{what}: {message}", cure=cure)


def _wait(what: str, cure: str = "") -> Maker:
    return lambda message: Unreachable(f"{what}: {message}", cure=cure)


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

_FULL: Final = _wait(
    "PostgreSQL has no free connection",
    "it is waited for; if it stays: max_connections, max_wal_senders, CONNECTION LIMIT of the role or the database",
)

_BY_WORDS: Final[tuple[tuple[str, Maker], ...]] = (
    ("the database system is shutting down", lambda message: ShuttingDown(f"PostgreSQL is shutting down: {message}")),
    ("too many connections|too many clients|connection slots are reserved|standby connections exceeds", _FULL),
    ("password authentication failed|no password supplied", _PASSWORD),
    (
        "no pg_hba.conf entry|pg_hba.conf rejects",
        _refused(
            "pg_hba.conf does not admit us",
            "add a `host` line for this user, database and address, and reload; a `hostssl` line asks for sslmode=verify-full",
        ),
    ),
    (
        'role ".*" (does not exist|is not permitted)',
        _refused("PostgreSQL refuses the login", "cdc-outbox sql roles | psql"),
    ),
    ("permission denied to start WAL sender|superuser or replication role", _REPLICATION),
    (
        "permission denied for database",
        _refused(
            "the role may not connect", "as an administrator: GRANT CONNECT ON DATABASE <it> TO <the relay's role>;"
        ),
    ),
    ('database ".*" does not exist', _cannot_connect("no such database", "name an existing one in --dsn (dbname=…)")),
    (
        "root certificate file",
        _cannot_connect(
            "there is no CA to verify the server's certificate with",
            "sslrootcert=FILE with the CA that signed it, or sslrootcert=system for a public one",
        ),
    ),
    (
        "certificate verify failed|does not match host name|certificate has expired",
        _cannot_connect(
            "the server's certificate does not verify",
            "sslrootcert must hold the CA that signed it, host be a name in it, and it must not have expired; which it is: "
            "openssl s_client -starttls postgres -connect HOST:PORT -verify_hostname HOST -CAfile FILE </dev/null",
        ),
    ),
    (
        "requires a valid client certificate|certificate authentication failed",
        _refused(
            "PostgreSQL wants a client certificate of this user",
            "sslcert=FILE sslkey=FILE, issued by a CA of the server's ssl_ca_file; its common name is the user",
        ),
    ),
    (
        "(tlsv1|tlsv13|sslv3|ssl/tls) alert",
        _cannot_connect(
            "PostgreSQL ends the TLS handshake", "sslcert and sslkey: a certificate that the server's ssl_ca_file knows"
        ),
    ),
    (
        "private key file|certificate file",
        _cannot_connect(
            "the client certificate cannot be used",
            "sslcert and sslkey must belong together; the key is ours alone (chmod 600), or root's and our group's (640)",
        ),
    ),
    (
        "server does not support SSL",
        _cannot_connect("the server has no TLS", "turn ssl on in the server, or choose another sslmode"),
    ),
    (
        "authentication method requirement|channel binding",
        _cannot_connect(
            "the server wants another login than --dsn allows",
            "compare require_auth and channel_binding in --dsn with the method in pg_hba.conf",
        ),
    ),
    (
        "unsupported startup parameter|RDS Proxy",
        _cannot_connect(
            "a pooler answers, which passes neither our session settings nor a replication stream",
            "name PostgreSQL's own host and port in --dsn, not those of PgBouncer, a pooled endpoint or a proxy",
        ),
    ),
    ("authentication failed", _PASSWORD),
    (
        "session is read-only|in hot standby mode",
        _wait(
            "no server takes writes",
            "a standby takes over when it is promoted: name all hosts in --dsn, with target_session_attrs=read-write",
        ),
    ),
    (
        "is starting up|not (yet |currently )?accepting connections|in recovery mode",
        _wait("PostgreSQL is not ready", "it is waited for; its log tells how far it is"),
    ),
    (
        r"weak sslmode|invalid \S+ value|invalid connection option|invalid port|invalid integer|Servname not supported",
        _cannot_connect("a wrong setting in --dsn", "see the manual, 32.1.2 Parameter Key Words"),
    ),
)
"""Before a session exists: patterns, the first that is found counts; with several hosts, whichever of them said it.
The words are English unless the server's lc_messages says otherwise: then Unreachable."""

_BY_SQLSTATE: Final[tuple[tuple[str, Maker], ...]] = (
    ("28", _PASSWORD),
    ("3D000", _config("no such database", "name an existing database in --dsn (dbname=…)")),
    ("42501", _refused("a privilege is missing", "as an administrator: cdc-outbox sql roles | psql")),
    ("55006", _busy),
    ("55P03", _wait("a table is locked by somebody else, a migration perhaps")),
    ("42704", _config("PostgreSQL does not know it", "see cdc-outbox slot status")),
    ("57P01", _lost),
    ("57P02", _lost),
    ("57P03", _wait("PostgreSQL is not ready")),
    ("53400", _config("no free replication slot", "raise max_replication_slots, or drop a slot nobody uses")),
    ("53300", _FULL),
    ("53", _wait("PostgreSQL is out of a resource")),
    ("08", _lost),
)
