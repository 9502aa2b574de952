"""A walsender session: replication commands, without long blocking calls.

In: a conninfo string; replication commands and plain SQL, one at a time. Out: rows of text, or CdcOutboxError.
Never: a blocking libpq call that holds the GIL (`get_copy_data(0)`); every wait is a poll that a stop interrupts.

PostgreSQL manual: 54.4 Streaming Replication Protocol; 32.4 Asynchronous Command Processing. Names and values in
a command are quoted by `cdc_outbox.identifiers`.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import Final

import psycopg
import structlog
from psycopg import pq

from cdc_outbox.errors import CannotConnect, CdcOutboxError, ConfigurationError, ConnectionLost, Unreachable
from cdc_outbox.postgres import connect
from cdc_outbox.postgres.conninfo import session_conninfo
from cdc_outbox.postgres.errors import from_sqlstate, translate
from cdc_outbox.shutdown import Stop, Stopped

log = structlog.get_logger(__name__)

Row = tuple[str | None, ...]

_SYNTAX_ERROR: Final = "42601"
"""SQLSTATE of a replication command in an ordinary session: a pooler has dropped `replication` from the startup packet."""

_FINE: Final = (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COPY_BOTH)


class ReplicationSession:
    """One `replication=database` connection. Not thread-safe; close it with `close()`."""

    def __init__(self, dsn: str, stop: Stop) -> None:
        self._stop = stop
        self.connection = connect.open_session(session_conninfo(dsn, replication="database"), stop)
        self.pgconn = self.connection.pgconn
        self.notice: Callable[[psycopg.errors.Diagnostic], None] | None = None
        self.connection.add_notice_handler(self._on_notice)
        self.system, self.timeline = self._identify()
        self.run("SET ROLE NONE")  # with `ALTER ROLE login SET role`, the other role may not use slots; this login may
        if connect.has_no_encoding(self.connection):
            self.run(connect.AS_IT_IS)

    def _identify(self) -> tuple[str, int]:
        """The server's system identifier and timeline. Raises CannotConnect if replication commands are refused."""
        try:
            system, timeline, *_ = self.rows("IDENTIFY_SYSTEM")[0]
        except BaseException as error:
            self.close()
            if isinstance(error, ConfigurationError) and error.where.get("sqlstate") == _SYNTAX_ERROR:
                raise CannotConnect(
                    f"a pooler answers, which opens no replication session: {error.message}",
                    code="pooler",
                    cure="name PostgreSQL's own host and port in --dsn, not those of PgBouncer, a pooled endpoint or a proxy",
                ) from None
            raise
        return str(system), int(timeline or 0)

    @property
    def server_version(self) -> int:
        """The version in libpq's form: 180006 is 18.6."""
        return self.pgconn.server_version

    def close(self) -> None:
        """Close the socket. Never raises."""
        self.connection.close()

    def rows(self, command: str) -> list[Row]:
        """Run one command and return its rows as text. Raises CdcOutboxError, Stopped on a stop."""
        result = self.run(command)
        return [
            tuple(
                None
                if (value := result.get_value(row, column)) is None
                else bytes(value).decode(errors="surrogateescape")
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]

    def run(self, command: str) -> pq.abc.PGresult:
        """Send one command and wait for its result, the last one if there are several.

        Raises Unreachable when the server does not answer: see `connect.Session`, also for commands that may take long.
        """
        try:
            self.pgconn.send_query(command.encode())
            return self._result()
        except (Stopped, Unreachable):
            self.connection.cancel_query()
            raise
        except psycopg.Error as error:
            raise translate(error) from error

    def _result(self) -> pq.abc.PGresult:
        """The last result. An error is raised after all results are read: only then the session accepts another command."""
        result: pq.abc.PGresult | None = None
        failed: CdcOutboxError | None = None
        try:
            while (following := self._next_result()) is not None:
                result = following
                if result.status == pq.ExecStatus.COPY_BOTH:
                    break
                if result.status not in _FINE and failed is None:
                    failed = result_error(result)
        except psycopg.Error:
            if failed is None:  # else the server sent an error before it closed the connection
                raise
        if failed is not None:
            raise failed
        if result is None:
            raise ConnectionLost(
                "PostgreSQL gave no answer to a replication command", code="replication-command-unanswered"
            )
        return result

    def _next_result(self) -> pq.abc.PGresult | None:
        silent_since = time.monotonic()
        while self.pgconn.flush() or self.pgconn.is_busy():
            silent_since = time.monotonic() if self._readable() else self.connection.require_answer(silent_since)
            self.pgconn.consume_input()
        return self.pgconn.get_result()

    def _readable(self) -> bool:
        """Whether bytes have arrived; waits for them, at most a second, and at most until a stop."""
        poller = select.poll()
        poller.register(self.pgconn.socket, select.POLLIN)
        poller.register(self._stop.fileno(), select.POLLIN)
        return any(descriptor == self.pgconn.socket for descriptor, _ in poller.poll(1000))

    def _on_notice(self, diagnostic: psycopg.errors.Diagnostic) -> None:
        """Pass a notice on. A warning is logged: a stream that waits for a standby (`synchronized_standby_slots`) sends one."""
        if diagnostic.severity_nonlocalized == "WARNING":
            log.warning("postgres.warning", error=diagnostic.message_primary, cure=diagnostic.message_hint)
        if self.notice is not None:
            self.notice(diagnostic)


def result_error(result: pq.abc.PGresult) -> CdcOutboxError:
    """The CdcOutboxError for a failed result."""
    sqlstate = result.error_field(pq.DiagnosticField.SQLSTATE)
    primary, hint = (
        (result.error_field(field) or b"").decode(errors="replace")
        for field in (pq.DiagnosticField.MESSAGE_PRIMARY, pq.DiagnosticField.MESSAGE_HINT)
    )
    if sqlstate is None:
        return ConnectionLost(f"PostgreSQL ended the connection: {result.get_error_message()}", code="connection-lost")
    return from_sqlstate(sqlstate.decode(), primary, hint)
