"""COPY BOTH: receive the messages of a logical replication slot, send standby status updates.

In: a `ReplicationSession`, a slot, a publication. Out: the CopyData messages as `bytes`, in order, none left out.
Never: a decision about positions: the caller decides the values of `write` and `flush`, and the time of a status update.

START_REPLICATION is always at 0/0, which means the slot's own position; an LSN remembered from before a failover would make
the server skip what the new primary committed below it. Protocol 1, no streaming: committed changes only.
PostgreSQL manual: 54.4 Streaming Replication Protocol, 54.5 Logical Streaming Replication Protocol.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import psycopg
from psycopg import pq

from cdc_outbox.errors import CdcOutboxError, ConnectionLost, StreamGap
from cdc_outbox.identifiers import quote_identifier, quote_literal
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import tcp, wire
from cdc_outbox.postgres.replication import ReplicationSession, result_error
from cdc_outbox.shutdown import Stop

DEFAULT_WAL_SENDER_TIMEOUT_SECONDS: Final = 60.0
"""PostgreSQL's own default, used if the server has it switched off: a dead connection must be noticed in any case."""

RECEIVE_BYTES: Final = 1024 * 1024
"""One receive stops after this many bytes, so that delivery reports and status updates wait only some milliseconds."""

OBJECT_NOT_IN_PREREQUISITE_STATE: Final = "55000"
PLUGIN_SOURCE: Final = "pgoutput.c"
"""SQLSTATE and source file of the warning that a publication is missing (18 and later): they do not depend on its language."""

UNDEFINED_OBJECT: Final = b"42704"
"""SQLSTATE with which earlier servers end a stream whose publication is missing: at that point the slot exists."""

CLOSE_SECONDS: Final = 2.0
"""For the end of the copy, measured: 60 to 90 ms with 4,500 unread messages. After it, the connection counts as dead."""


Entry = TypeVar("Entry", covariant=True)  # noqa: PLC0105 - it is a name of the field


class PlainReader(Protocol[Entry]):
    """Takes plain rows from libpq in place of `receive`: the native plane's reader."""

    over: bool
    """Whether the server has ended the copy."""
    broken: bool
    """Whether libpq has failed."""
    empty: bool
    """Whether no more messages have arrived."""
    count: int
    """Messages of the last `take`, including those that the reader kept."""

    def take(self, limit: int, one_transaction: bool, last_end: int, now: float) -> Sequence[bytes | Entry]:
        """Take at most `limit` messages; with `one_transaction`, none after the next Commit. `last_end`: the ledger's last end
        LSN; `now`: Unix seconds. Returns ledger entries and, as the last item, the message that the reader does not handle.
        """

    def interrupt(self) -> None:
        """Leave the next message to Python, even a plain row."""


class ReplicationStream:
    """A started stream, for one thread. Call `close()` at the end; otherwise the server may not read the last status update."""

    def __init__(
        self, session: ReplicationSession, stop: Stop, wal_sender_timeout: float, slot: str, *, tables: bool = True
    ) -> None:
        self._session = session
        self._slot = slot
        self._tables = tables
        """Whether tables are streamed. Logical messages do not depend on a publication."""
        self._pgconn = session.pgconn
        self._unflushed = False
        self.wal_sender_timeout = wal_sender_timeout
        """Seconds without a status update after which the server ends the connection."""
        self.last_received = time.monotonic()
        """`time.monotonic()` of the last received message."""
        self.empty = True
        """Whether the last receive returned all messages that had arrived. Those that it left may be in libpq's buffer, where
        `wait` does not see them."""
        self._skipped = ""
        self._whole = 0
        self._arriving: list[bytes] = []
        self._over = False
        """Whether the server has ended the copy: libpq reports that once, and has no COPY after that."""
        self._interrupt: Callable[[], None] = lambda: None
        session.notice = self._on_notice
        self._poller = select.poll()
        self._poller.register(self._pgconn.socket, select.POLLIN)
        self._poller.register(stop.fileno(), select.POLLIN)
        self._stop = stop

    @classmethod
    def start(
        cls,
        session: ReplicationSession,
        stop: Stop,
        *,
        slot: str,
        publication: str,
        tables: bool = True,
        messages: bool = False,
    ) -> ReplicationStream:
        """Begin to stream. `tables`: rows of tables; `messages`: every logical message of the database, with any prefix.

        Raises SlotBusy, ConfigurationError (no such slot, lost slot, …) or ConnectionLost.
        """
        timeout = _wal_sender_timeout(session)
        tcp.watch(session.pgconn.socket, timeout)
        options = f"proto_version '1', publication_names {quote_literal(quote_identifier(publication))}"
        if messages:
            options += ", messages 'true'"
        session.run(f"START_REPLICATION SLOT {quote_identifier(slot)} LOGICAL 0/0 ({options})")
        session.pgconn.nonblocking = 1
        return cls(session, stop, timeout, slot, tables=tables)

    def wait(self, seconds: float) -> bool:
        """Sleep until messages can be read, a stop is requested for the first time, or `seconds` are over.

        True when the socket is readable.
        """
        readable = False
        for descriptor, _ in self._poller.poll(max(0.0, seconds) * 1000):
            if descriptor == self._stop.fileno():
                self._poller.unregister(descriptor)
            else:
                readable = True
        return readable

    def receive(self, limit: int) -> list[bytes]:
        """Return the messages that have arrived, at most `limit` or about 1 MiB.

        Raises ConnectionLost when the connection is dead, the server's own error when it ended the copy with one, and
        StreamGap when the server warned that it skipped a publication; no message after the warning is returned.
        """
        if self._skipping():
            raise _gap(self._slot, self._skipped)
        messages = self._arriving = []
        if not self._over:
            try:
                self._collect(messages, limit)
            except psycopg.Error as error:
                raise ConnectionLost(
                    f"the replication connection broke: {_one_line(error)}", code="connection-lost"
                ) from error
        if self._skipping():
            del messages[self._whole :]
        if messages:
            self.last_received = time.monotonic()
        elif self._over:
            raise self._ended()
        return messages

    def _collect(self, messages: list[bytes], limit: int) -> None:
        append, get = messages.append, self._pgconn.get_copy_data
        size = 0
        consumed = self.empty = False
        while size < RECEIVE_BYTES and len(messages) < limit:
            length, view = get(1)
            if length > 0:
                append(bytes(view))
                size += length
                consumed = False
            elif length == 0 and not consumed:
                self._pgconn.consume_input()
                consumed = True
            else:
                self._over, self.empty = length < 0, True
                break

    @property
    def pgconn_ptr(self) -> int:
        """The address of libpq's connection, for a PlainReader."""
        address: object = getattr(self._pgconn, "pgconn_ptr", None)  # documented, and not in psycopg's types
        assert isinstance(address, int), "the connection is closed"
        return address

    def receive_through(
        self, reader: PlainReader[Entry], limit: int, *, one_transaction: bool, last_end: Lsn
    ) -> Sequence[bytes | Entry]:
        """Receive as `receive` does; the entries of `reader` replace the messages that it takes.

        Raises as `receive` does.
        """
        if self._skipping():
            raise _gap(self._slot, self._skipped)
        if self._over:
            raise self._ended()
        self._interrupt = reader.interrupt
        items = reader.take(limit, one_transaction, last_end, time.time())
        if reader.broken:
            raise ConnectionLost(
                f"the replication connection broke: {' '.join(self._pgconn.get_error_message().split())}",
                code="connection-lost",
            )
        self._over, self.empty = reader.over, reader.empty
        if self._skipping() and items and isinstance(items[-1], bytes):
            items = items[:-1]
        if reader.count:
            self.last_received = time.monotonic()
        elif self._over:
            raise self._ended()
        return items

    def require_data_since(self, listening_since: float = 0.0) -> None:
        """Raise ConnectionLost when nothing was received for the server's wal_sender_timeout.

        `listening_since`: time.monotonic() since when the caller has been reading: time without reading does not count.
        """
        silence = time.monotonic() - max(self.last_received, listening_since)
        if silence > self.wal_sender_timeout:
            raise ConnectionLost(
                f"no data from PostgreSQL for {silence:.0f} s despite keepalive requests; assuming the connection is dead",
                code="postgres-silent",
            )

    def send_status(self, *, write: int, flush: int, reply_requested: bool = False) -> None:
        """Send a status update with the received and the delivered LSN. Raises ConnectionLost.

        Does nothing once the server has ended the copy: the next `receive` raises the reason.
        """
        if self._over:
            return
        message = wire.encode_status(write=write, flush=flush, unix_time=time.time(), reply_requested=reply_requested)
        try:
            self._pgconn.put_copy_data(message)
            self._unflushed = True
            self.flush()
        except psycopg.Error as error:
            raise ConnectionLost(
                f"the replication connection broke: {_one_line(error)}", code="connection-lost"
            ) from error

    def flush(self) -> None:
        """Send bytes that the socket did not accept at once. Raises ConnectionLost."""
        if self._unflushed:
            try:
                self._unflushed = self._pgconn.flush() != 0
            except psycopg.Error as error:
                raise ConnectionLost(
                    f"the replication connection broke: {_one_line(error)}", code="connection-lost"
                ) from error

    def close(self) -> bool:
        """End the copy and read to its end, so that the server reads the last status update; then close. Never raises.

        False when the server did not end the copy too: then it may not have read the last status update.
        """
        try:
            with contextlib.suppress(psycopg.Error, CdcOutboxError):
                return self._end_copy(time.monotonic() + CLOSE_SECONDS)
            return False
        finally:
            self._session.close()

    def abandon(self) -> None:
        """Close at once, without an end of the copy: for a broken connection."""
        self._session.close()

    def _end_copy(self, deadline: float) -> bool:
        self._pgconn.put_copy_end()
        poller = select.poll()
        while time.monotonic() < deadline:
            unsent = self._pgconn.flush() != 0
            length, _ = self._pgconn.get_copy_data(1)
            if length < 0:
                break
            if length == 0:
                poller.register(self._pgconn.socket, select.POLLIN | (select.POLLOUT if unsent else 0))
                poller.poll(100)
                self._pgconn.consume_input()
        while time.monotonic() < deadline:
            if self._pgconn.is_busy():
                poller.register(self._pgconn.socket, select.POLLIN)
                poller.poll(100)
                self._pgconn.consume_input()
            elif (result := self._pgconn.get_result()) is None:
                return True
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                return False
        return False

    def _skipping(self) -> bool:
        """Whether the server has warned that it skips the publication: `_on_notice` runs inside `receive`."""
        return bool(self._skipped)

    def _on_notice(self, notice: psycopg.errors.Diagnostic) -> None:
        """PostgreSQL 18 skips a missing publication with a warning of the plugin. Messages after it must not be confirmed."""
        self._interrupt()
        if (
            self._tables
            and not self._skipped
            and notice.sqlstate == OBJECT_NOT_IN_PREREQUISITE_STATE
            and notice.source_file == PLUGIN_SOURCE
        ):
            self._skipped = notice.message_primary or notice.sqlstate
            self._whole = len(self._arriving)

    def _ended(self) -> CdcOutboxError:
        """Why the server ended the copy: its error, or a shutdown, which comes as an ordinary end."""
        result = self._pgconn.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            error = result_error(result)
            undefined = result.error_field(pq.DiagnosticField.SQLSTATE) == UNDEFINED_OBJECT
            return _gap(self._slot, error.message) if undefined else error
        return ConnectionLost(
            "PostgreSQL ended the stream: it is shutting down, or its connection was cut", code="connection-lost"
        )


def _gap(slot: str, text: str) -> StreamGap:
    """The error for rows written while the publication was missing: they are never streamed, but they are in the table."""
    return StreamGap(
        f"the publication was missing while rows were written, and they cannot be streamed any more: {text}",
        code="publication-gap",
        cure="make sure that the publication exists and has the table (cdc-outbox sql install), then close the gap from the "
        "table: cdc-outbox slot recover",
        slot=slot,
    )


def _wal_sender_timeout(session: ReplicationSession) -> float:
    """The server's wal_sender_timeout in seconds; PostgreSQL's default if it is switched off."""
    rows = session.rows("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'")
    milliseconds = int(rows[0][0] or 0)
    return milliseconds / 1000 if milliseconds else DEFAULT_WAL_SENDER_TIMEOUT_SECONDS


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())
