"""The driver's errors, and the server's, as ours: the one place where they are translated.

In: a psycopg error, or the SQLSTATE and the words of a server's report. Out: errors of `cdc_outbox.errors`, each with its cure.
Never: a conninfo in a message. libpq quotes pieces of a string it cannot parse, so those messages are not passed on.

PostgreSQL manual: appendix A, Error Codes. What libpq says before there is a session has no code, only words.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias

import psycopg

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


def _config(summary: str, cure: str) -> Maker:
    return lambda message: ConfigurationError(f"{summary}: {message}", cure=cure)


def _refused(summary: str, cure: str) -> Maker:
    return lambda message: AccessRefused(f"{summary}: {message}", cure=cure)


def _cannot_connect(summary: str, cure: str) -> Maker:
    return lambda message: CannotConnect(f"{summary}: {message}", cure=cure)


def _wait(summary: str, cure: str = "") -> Maker:
    return lambda message: Unreachable(f"{summary}: {message}", cure=cure)


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
    (
        'database ".*" does not exist',
        _cannot_connect("no such database", "name an existing one in --dsn (dbname=NAME)"),
    ),
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
        "definition of service|service file|syntax error in service",
        _cannot_connect(
            "the service of --dsn or PGSERVICE cannot be used",
            "PGSERVICEFILE=FILE with a section of that name, ~/.pg_service.conf without it",
        ),
    ),
    (
        "unrecognized configuration parameter|invalid value for parameter|invalid command-line argument",
        _cannot_connect(
            "the server refuses a setting that the connection asks for",
            "correct options=-c NAME=VALUE in --dsn, or in the service file",
        ),
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
    ("3D000", _config("no such database", "name an existing database in --dsn (dbname=NAME)")),
    ("42501", _refused("a privilege is missing", "as an administrator: cdc-outbox sql roles | psql")),
    ("55006", _busy),
    (
        "25006",
        _config(
            "the database takes no writes",
            "SELECT pg_is_in_recovery() tells whether it is a standby: name the primary in --dsn, or all of them with "
            "target_session_attrs=read-write. Else SHOW default_transaction_read_only is on, which managed servers set when "
            "the disk is nearly full: make room, then ALTER DATABASE NAME RESET default_transaction_read_only, or of the ROLE "
            "or SYSTEM that has it",
        ),
    ),
    (
        "55P03",
        _wait(
            "a table, or a row of it, is locked by somebody else, a migration perhaps",
            "end who has it, or wait for it, and try again: SELECT a.pid, a.state, a.query FROM pg_locks l JOIN "
            "pg_stat_activity a USING (pid) WHERE l.relation = 'TABLE'::regclass AND l.granted",
        ),
    ),
    ("42704", _config("PostgreSQL does not know it", "see cdc-outbox slot status")),
    ("57P01", _lost),
    ("57P02", _lost),
    ("57P03", _wait("PostgreSQL is not ready")),
    ("53400", _config("no free replication slot", "raise max_replication_slots, or drop a slot nobody uses")),
    ("53300", _FULL),
    ("53", _wait("PostgreSQL is out of a resource")),
    ("08", _lost),
)
