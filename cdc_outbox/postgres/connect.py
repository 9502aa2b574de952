"""Connections to PostgreSQL, and how long they wait for an answer.

In: a conninfo string or URL in libpq's syntax; a shutdown request. Out: psycopg connections with pinned session settings;
errors of `cdc_outbox.errors`, each with its cure; Unreachable when the server does not answer.
Never: an error of the driver (`postgres.errors` translates them), or a wait without an end.

PostgreSQL manual: 32.1 Database Connection Control Functions; 27.2.3 pg_stat_activity.
"""

from __future__ import annotations

import contextlib
import math
import queue
import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Final, TypeAlias

import psycopg
from psycopg import conninfo as psycopg_conninfo
from psycopg.abc import RV, PQGen
from psycopg.waiting import Ready, Wait

from cdc_outbox.errors import CdcOutboxError, ConfigurationError, Unreachable
from cdc_outbox.postgres.conninfo import SEARCH_PATH, session_conninfo
from cdc_outbox.postgres.errors import translate, translated
from cdc_outbox.postgres.login import LoginConnection
from cdc_outbox.shutdown import Stop, Stopped

ANSWER_SECONDS: Final = 30.0
"""Without a byte of the answer to a query. The queries take milliseconds; a server that swaps, or waits for its disk, takes
seconds. After this time a long query is looked at on a second connection; any other is given up."""

LOOK_SECONDS: Final = 10.0
"""For that second connection, once it is open: one query of the server's memory."""

LATE_ANSWER_SECONDS: Final = 1.0
"""For an answer that is under way while the second connection shows that the query is over: some round trips of a WAN."""

KEPT_ALIVE_SECONDS: Final = 1.0
"""Between two statements on a connection that must not become idle. NATs and load balancers of the cloud forget connections
after 60 to 350 s without a byte, others sooner; a statement costs one round trip."""

IDLE_SECONDS: Final = 30.0
"""Without a statement on such a connection, the server ends it: its client is gone, and another relay waits for its locks. A
proxy may answer TCP keepalives for a client that is dead. Thirty statements of KEPT_ALIVE_SECONDS have not come."""

_END_WHEN_IDLE: Final = (
    f"SET idle_session_timeout = '{IDLE_SECONDS:.0f}s'; SET idle_in_transaction_session_timeout = '{IDLE_SECONDS:.0f}s'"
)

CANCEL_SECONDS: Final = 2.0
"""For the connection that cancels a query, to a server that has answered before. A stop must not wait longer."""

_TRANSACTION_TIMEOUT_SINCE: Final = 170_000
"""Server version with transaction_timeout, which would end a long read too. Older servers refuse the setting."""

_SILENT: Final = frozenset({"postgres-unreachable", "postgres-silent", "connection-lost"})
"""Codes of errors of a server that does not answer, or not at all: others are answers."""

_RUNS: Final = """
SELECT state IS NULL OR state NOT IN ('idle', 'idle in transaction', 'idle in transaction (aborted)')
  FROM pg_catalog.pg_stat_activity WHERE pid = %s
"""
"""Whether a server process works on a query. The state is NULL for a role that may not see it."""


class Session(LoginConnection):
    """A connection whose queries end: answered, after a stop (Stopped), or because no answer comes (Unreachable)."""

    conninfo: str = ""
    stop: Stop | None = None
    within: float | None = None
    """Seconds from the opening of the connection, within which all its queries must be answered."""
    on_progress: Callable[[], object] | None = None
    """Called when a second connection has shown that the server still works on a long query."""
    opened = math.inf
    """`time.monotonic()` when it was open."""
    _long = False
    _broken: CdcOutboxError | None = None

    def wait(self, gen: PQGen[RV], *limits: float, **named: float | None) -> RV:  # type: ignore[override] # they vary
        """Wait for the result of a query, as psycopg does. A query that is given up is cancelled."""
        self.require_alive()
        try:
            return super().wait(self._limited(gen), *limits, **named)  # type: ignore[arg-type]
        except (Stopped, Unreachable):
            self.cancel_query()
            raise

    @property
    def role(self) -> str:
        """The role whose privileges count: another one than the login's after `ALTER ROLE login SET role`."""
        row = self.execute("SELECT CURRENT_USER::text").fetchone()
        assert row is not None, "a SELECT without FROM gives one row"
        return str(row[0])

    def cancel_query(self) -> None:
        """Cancel the query on the server, which does not notice a closed connection while it works. Never raises."""
        with contextlib.suppress(psycopg.Error):
            self.cancel_safe(timeout=CANCEL_SECONDS)

    @contextlib.contextmanager
    def long_query(self) -> Iterator[None]:
        """Let queries inside the block take long, as long as a second connection shows that the server works on them."""
        before, self._long = self._long, True
        try:
            yield
        finally:
            self._long = before

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Inside the block, run a statement each KEPT_ALIVE_SECONDS, so that no NAT forgets the connection. A thread does it.

        When that fails, `require_alive` raises the error, as does the next query. From the block on, the server ends the
        session when it is idle for IDLE_SECONDS.
        """
        over = threading.Event()
        with translated():
            self.execute(_END_WHEN_IDLE.encode())

        def run() -> None:
            try:
                while not over.wait(KEPT_ALIVE_SECONDS):
                    with translated():
                        self.execute("SELECT 1", prepare=False)  # a walsender takes the simple protocol only
            except CdcOutboxError as error:
                self._broken = error
            except Stopped:
                pass

        beside = threading.Thread(target=run, name="kept-alive", daemon=True)
        beside.start()
        try:
            yield
        finally:
            over.set()
            beside.join()  # the connection may be used by one thread only

    def require_alive(self) -> None:
        """Raise the error with which the connection broke while it was kept alive."""
        if self._broken is not None:
            raise self._broken

    def require_answer(self, silent_since: float) -> float:
        """Called in a wait without an answer since `silent_since`. Returns the time from which the silence counts now.

        Raises Stopped on a stop, and Unreachable when no answer is to be expected.
        """
        if self.stop is not None and self.stop.requested:
            raise Stopped("stopped while waiting for PostgreSQL")
        now = time.monotonic()
        if self.within is not None and now - self.opened > self.within:
            raise _silent(self.within)
        if now - silent_since <= ANSWER_SECONDS:
            return silent_since
        if not self._long or not self._still_runs():
            raise _silent(ANSWER_SECONDS)
        if self.on_progress is not None:
            self.on_progress()
        return time.monotonic()

    def _limited(self, gen: PQGen[RV]) -> Generator[Wait, Ready, RV]:
        """The generator `gen`, which psycopg resumes ten times per second while nothing arrives."""
        silent_since = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                silent_since = time.monotonic() if ready else self.require_answer(silent_since)
                wanted = gen.send(ready)
        except StopIteration as done:
            result: RV = done.value
            return result

    def _still_runs(self) -> bool:
        """Whether the server works on the query of this connection, or has answered it meanwhile. False: the answer is lost."""
        info = self.info
        same_server = {
            "host": info.host,
            "port": str(info.port),
            **({"hostaddr": info.hostaddr} if info.hostaddr else {}),
        }
        conninfo = psycopg_conninfo.make_conninfo(self.conninfo, replication="", **same_server)
        try:
            with contextlib.closing(open_session(conninfo, self.stop)) as other, translated():
                other.within = LOOK_SECONDS
                row = other.execute(_RUNS, (info.backend_pid,)).fetchone()
        except CdcOutboxError as error:
            return error.code not in _SILENT
        if row is not None and row[0] is True:
            return True
        return bool(select.select([self.pgconn.socket], [], [], LATE_ANSWER_SECONDS)[0])


def _silent(seconds: float) -> Unreachable:
    return Unreachable(
        f"PostgreSQL has not answered within {seconds:g} s",
        code="postgres-silent",
        cure="check the network, and what the server waits for",
    )


Connection: TypeAlias = Session

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
    opening: queue.SimpleQueue[Connection | BaseException] = queue.SimpleQueue()

    def open_aside() -> None:
        """Connect in a thread that may be abandoned: a host that does not answer must not delay a stop."""
        try:
            opening.put(_open(conninfo))
        except BaseException as error:  # noqa: BLE001  (raised below)
            opening.put(error)
        opened.set()

    opened = stop.or_event()
    threading.Thread(target=open_aside, name="connect", daemon=True).start()
    opened.wait()
    if opening.empty():
        raise Stopped
    outcome = opening.get()
    if isinstance(outcome, BaseException):
        raise outcome
    outcome.stop = stop
    return outcome


def _open(conninfo: str) -> Connection:
    try:
        connection = Session.connect(conninfo, autocommit=True)
        connection.conninfo, connection.opened = conninfo, time.monotonic()
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
    except UnicodeError:  # of socket.getaddrinfo: IDNA, RFC 3490
        raise ConfigurationError(
            "a host of the connection string (or PGHOST) is no name that DNS can have: a part of it is empty, longer than 63 "
            "characters, or no text",
            code="dsn-invalid",
            cure="correct the host in --dsn",
        ) from None
    return connection


@contextlib.contextmanager
def open_connection(
    dsn: str, stop: Stop | None = None, *, lock_timeout: float = 0.0, timeout: float | None = None
) -> Iterator[Connection]:
    """A short-lived ordinary connection with autocommit, closed at the end. Raises CdcOutboxError.

    Raises Stopped on a stop, which also cancels the running query. `lock_timeout`: seconds that a query may wait
    for a lock of another session (0: no limit); longer is Unreachable. `timeout`: seconds within which all queries must be
    answered; longer is Unreachable. Each query has ANSWER_SECONDS, a `long_query` as long as the server works on it.
    """
    connection = open_session(session_conninfo(dsn), stop)
    connection.within = timeout
    try:
        with translated():
            if lock_timeout:
                connection.execute(
                    "SELECT pg_catalog.set_config('lock_timeout', %s, false)", (f"{lock_timeout * 1000:.0f}",)
                )
            yield connection
    except CdcOutboxError as error:
        if stop is not None and stop.requested:
            raise Stopped from error
        raise
    finally:
        connection.close()
