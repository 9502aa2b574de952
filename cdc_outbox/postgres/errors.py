"""Translate the errors of the driver and the server to those of `cdc_outbox.errors`: the only place that does.

In: a psycopg error, or a server's report (SQLSTATE, message). Out: errors of `cdc_outbox.errors`, each with its cure.
Never: a decision by a server's message, which may be in any language. Never a conninfo in a message: libpq quotes pieces of a
string it cannot parse, so those messages are not passed on.

PostgreSQL manual: appendix A, Error Codes. libpq's own messages have no code; in a Python process they are English.
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
    NotAccepting,
    SlotBusy,
    Unreachable,
)
from cdc_outbox.postgres.login import refusals


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Translate the driver's errors inside the block."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error) from error


def translate(error: psycopg.Error) -> CdcOutboxError:
    """The CdcOutboxError, with its cure, for `error`: by its SQLSTATE, or without a session by the refused login."""
    if error.sqlstate is None:
        return _refused_connection(error)
    return from_sqlstate(error.sqlstate, error.diag.message_primary or str(error), error.diag.message_hint or "")


def from_sqlstate(sqlstate: str, message: str, hint: str = "") -> CdcOutboxError:
    """The error for a server's report. Its hint is the cure if no other is known. Appendix A of the manual lists the codes."""
    for prefix, make in _BY_SQLSTATE:
        if sqlstate.startswith(prefix):
            error = make(message)
            error.cure = error.cure or hint
            return error
    return ConfigurationError(f"PostgreSQL reports: {message}", code="postgres-error", cure=hint, sqlstate=sqlstate)


def _refused_connection(error: psycopg.Error) -> CdcOutboxError:
    """The error for a connection that failed or broke. The first rule that matches a host counts."""
    refused = refusals(error.diag.message_primary or str(error))
    message = re.sub(r" Is the server running [^?]*\?", "", "; ".join(each.text for each in refused))
    for sqlstate, function, make in _AT_LOGIN:
        if any(
            each.sqlstate.startswith(sqlstate) and each.function.startswith(function)
            for each in refused
            if each.sqlstate
        ):
            return make(message)
    libpq = "; ".join(each.text for each in refused if not each.sqlstate)
    for pattern, make in _BY_LIBPQ:
        if re.search(pattern, libpq):
            return make(message)
    if isinstance(error, psycopg.ProgrammingError):
        return ConfigurationError(
            "the connection string has a part that libpq does not know",
            code="dsn-invalid",
            cure="compare its keywords with the manual, 32.1.2 Parameter Key Words",
        )
    return Unreachable(
        f"PostgreSQL cannot be reached: {message}",
        code="postgres-unreachable",
        cure="check host, port, DNS and firewall",
    )


Maker: TypeAlias = Callable[[str], CdcOutboxError]


def _config(code: str, summary: str, cure: str) -> Maker:
    return lambda message: ConfigurationError(f"{summary}: {message}", code=code, cure=cure)


def _refused(code: str, summary: str, cure: str) -> Maker:
    return lambda message: AccessRefused(f"{summary}: {message}", code=code, cure=cure)


def _cannot_connect(code: str, summary: str, cure: str) -> Maker:
    return lambda message: CannotConnect(f"{summary}: {message}", code=code, cure=cure)


def _wait(code: str, summary: str, cure: str = "") -> Maker:
    return lambda message: Unreachable(f"{summary}: {message}", code=code, cure=cure)


def _lost(message: str) -> CdcOutboxError:
    return ConnectionLost(f"PostgreSQL ended the connection: {message}", code="connection-lost")


def _canceled(message: str) -> CdcOutboxError:
    return ConnectionLost(f"PostgreSQL canceled the query: {message}", code="connection-lost")


def _busy(message: str) -> CdcOutboxError:
    return SlotBusy(message)


_PASSWORD: Final = _refused(
    "postgres-login-refused",
    "PostgreSQL refuses the login",
    "check user and password (CDC_OUTBOX_DSN_FILE, PGPASSWORD or a passfile keep it out of the command line)",
)
_REPLICATION: Final = _refused(
    "replication-privilege",
    "the role may not stream",
    "as an administrator: ALTER ROLE <the relay's role> REPLICATION; (RDS: GRANT rds_replication)",
)

_FULL: Final = _wait(
    "postgres-no-connection",
    "PostgreSQL has no free connection",
    "it is waited for; if it stays: max_connections, max_wal_senders, CONNECTION LIMIT of the role or the database",
)

_POOLER: Final = _cannot_connect(
    "pooler",
    "a pooler answers, which passes neither our session settings nor a replication stream",
    "name PostgreSQL's own host and port in --dsn, not those of PgBouncer, a pooled endpoint or a proxy",
)
_SETTING: Final = _cannot_connect(
    "connection-setting-refused",
    "the server refuses a setting that the connection asks for",
    "correct options=-c NAME=VALUE in --dsn, in the service file or in PGOPTIONS",
)

_AT_LOGIN: Final[tuple[tuple[str, str, Maker], ...]] = (
    ("53300", "", _FULL),
    ("28P01", "", _PASSWORD),
    (
        "28",
        "ClientAuthentication",
        _refused(
            "pg-hba-refused",
            "pg_hba.conf does not admit us",
            "add a `host` line for this user, database and address, and reload; a `hostssl` line asks for sslmode=verify-full, "
            "and a line with clientcert or the method cert for sslcert=FILE sslkey=FILE",
        ),
    ),
    (
        "28",
        "InitializeSessionUserId",
        _refused(
            "postgres-login-refused", "PostgreSQL refuses the login", "cdc-outbox sql roles | psql -v ON_ERROR_STOP=1"
        ),
    ),
    (
        "28",
        "auth_failed",
        _refused(
            "login-method-refused",
            "PostgreSQL refuses this way to log in",
            "for `cert` in pg_hba.conf: sslcert=FILE sslkey=FILE, issued by a CA of the server's ssl_ca_file, whose common "
            "name is the user; for other methods the server's log has the reason",
        ),
    ),
    ("28", "", _PASSWORD),
    ("42501", "InitPostgres", _REPLICATION),
    ("42501", "InitWalSender", _REPLICATION),
    (
        "42501",
        "",
        _refused(
            "connect-privilege",
            "the role may not connect",
            "as an administrator: GRANT CONNECT ON DATABASE <it> TO <the relay's role>;",
        ),
    ),
    (
        "3D000",
        "",
        _cannot_connect("database-unknown", "no such database", "name an existing one in --dsn (dbname=NAME)"),
    ),
    (
        "57P03",
        "",
        lambda message: NotAccepting(
            f"PostgreSQL is not ready: {message}",
            code="postgres-not-ready",
            cure="it is waited for; the server's log has its progress",
        ),
    ),
    ("08P01", "", _POOLER),
    ("0A000", "", _POOLER),
    ("42704", "", _SETTING),
    ("22023", "", _SETTING),
    ("42601", "", _SETTING),
)
"""A refused login: SQLSTATE, the server's source function where one code has several reasons, and the error. The first that
matches any of the hosts counts."""

_BY_LIBPQ: Final[tuple[tuple[str, Maker], ...]] = (
    ("no password supplied", _PASSWORD),
    (
        "root certificate file",
        _cannot_connect(
            "ca-missing",
            "there is no CA to verify the server's certificate with",
            "sslrootcert=FILE with the CA that signed it, or sslrootcert=system for a public one",
        ),
    ),
    (
        "certificate verify failed|does not match host name|certificate has expired",
        _cannot_connect(
            "server-certificate",
            "the server's certificate does not verify",
            "sslrootcert must hold the CA that signed it, host be a name in it, and it must not have expired; which it is: "
            "openssl s_client -starttls postgres -connect HOST:PORT -verify_hostname HOST -CAfile FILE </dev/null",
        ),
    ),
    (
        "(tlsv1|tlsv13|sslv3|ssl/tls) alert",
        _cannot_connect(
            "tls-handshake",
            "PostgreSQL ends the TLS handshake",
            "sslcert and sslkey: a certificate that the server's ssl_ca_file knows",
        ),
    ),
    (
        "private key file|certificate file",
        _cannot_connect(
            "client-certificate",
            "the client certificate cannot be used",
            "sslcert and sslkey must belong together; the key file needs mode 600 (chmod 600), or 640 if root owns it",
        ),
    ),
    (
        "server does not support SSL",
        _cannot_connect(
            "tls-unsupported", "the server has no TLS", "turn ssl on in the server, or choose another sslmode"
        ),
    ),
    (
        "authentication method requirement|channel binding",
        _cannot_connect(
            "login-method-refused",
            "the server requires another login method than --dsn allows",
            "compare require_auth and channel_binding in --dsn with the method in pg_hba.conf",
        ),
    ),
    (
        "session is read-only|in hot standby mode",
        _wait(
            "postgres-read-only",
            "no server takes writes",
            "a standby takes over when it is promoted: name all hosts in --dsn, with target_session_attrs=read-write",
        ),
    ),
    (
        "definition of service|service file|syntax error in service",
        _cannot_connect(
            "service-file",
            "the service of --dsn or PGSERVICE cannot be used",
            "PGSERVICEFILE=FILE with a section of that name, ~/.pg_service.conf without it",
        ),
    ),
    (
        r"weak sslmode|invalid \S+ value|invalid connection option|invalid port|invalid integer|Servname not supported",
        _cannot_connect("dsn-invalid", "a wrong setting in --dsn", "see the manual, 32.1.2 Parameter Key Words"),
    ),
)
"""Patterns in libpq's own messages, for failures on the client's side: the first that is found counts."""

_BY_SQLSTATE: Final[tuple[tuple[str, Maker], ...]] = (
    ("28", _PASSWORD),
    ("3D000", _config("database-unknown", "no such database", "name an existing database in --dsn (dbname=NAME)")),
    (
        "42501",
        _refused(
            "privilege-missing",
            "a privilege is missing",
            "as an administrator: cdc-outbox sql roles | psql -v ON_ERROR_STOP=1",
        ),
    ),
    ("55006", _busy),
    (
        "25006",
        _config(
            "database-read-only",
            "the database takes no writes",
            "SELECT pg_is_in_recovery() shows whether it is a standby: name the primary in --dsn, or all of them with "
            "target_session_attrs=read-write. Else SHOW default_transaction_read_only is on, which managed servers set when "
            "the disk is nearly full: make room, then ALTER DATABASE NAME RESET default_transaction_read_only, or of the ROLE "
            "or SYSTEM that has it",
        ),
    ),
    (
        "55P03",
        _wait(
            "table-locked",
            "another session has a table or a row of it locked, perhaps a migration",
            "end that session, or wait for it, and try again: SELECT a.pid, a.state, a.query FROM pg_locks l JOIN "
            "pg_stat_activity a USING (pid) WHERE l.relation = 'TABLE'::regclass AND l.granted",
        ),
    ),
    ("42704", _config("option-unsupported", "PostgreSQL does not know it", "see cdc-outbox slot status")),
    ("57P03", lambda message: NotAccepting(f"PostgreSQL is not ready: {message}", code="postgres-not-ready")),
    ("57014", _canceled),  # pg_cancel_backend
    ("57", _lost),  # operator intervention: a shutdown, pg_terminate_backend, idle_session_timeout
    ("25P03", _lost),  # idle_in_transaction_session_timeout
    ("25P04", _lost),  # transaction_timeout
    (
        "53400",
        _config("slots-exhausted", "no free replication slot", "raise max_replication_slots, or drop an unused slot"),
    ),
    ("53300", _FULL),
    ("53", _wait("postgres-no-resources", "PostgreSQL is out of a resource")),
    ("08", _lost),
)
