"""Events as JSON lines, from a temporary slot: the records that the relay would send, without Kafka and beside the relay.

In: `Settings` (where to read, and how rows become records), a file descriptor to write to. Out: lines (`event_lines`).
Never: the relay's slot touched, an event acknowledged before its line is written, a line held back by the ones after it.

The server drops the temporary slot when the connection ends. Printed events are acknowledged to it, so that the server keeps
no WAL for a tail that runs for days. A reader that pauses (`less`) pauses only the tail: status updates keep the connection
open. An event that cannot become a record, which stops the relay, is a line here.
PostgreSQL manual: 54.4 CREATE_REPLICATION_SLOT (TEMPORARY, SNAPSHOT 'export'), START_REPLICATION.
"""

from __future__ import annotations

import os
import secrets
import select
import time
from functools import partial
from typing import Final

from cdc_outbox.commands.event_lines import event_line, poison_line
from cdc_outbox.commands.slots import Notify, create_patiently
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.properties import message_max_bytes
from cdc_outbox.kafka.transaction import LedgerEntry, Transaction
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import connect, publication, published_columns, server, table_rows
from cdc_outbox.postgres.pgoutput import Relation
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.postgres.wire import PrimaryKeepalive
from cdc_outbox.records.mapping import Mappings, RecordMapping, Source, used_columns
from cdc_outbox.records.router import InFlight
from cdc_outbox.records.stream_reader import StreamReader
from cdc_outbox.relay.feedback import Feedback
from cdc_outbox.relay.ledger import AckLedger
from cdc_outbox.relay.server_shutdown import ServerShutdown
from cdc_outbox.shutdown import Stop, Stopped

MESSAGES_PER_TURN: Final = 1000
"""Messages decoded at a time: a few milliseconds of work between two checks of the server, the reader and the stop request."""

WAIT_SECONDS: Final = 0.5
"""The longest sleep, after which the tail checks whether its stdout is still open."""

FAREWELL_SECONDS: Final = 1.0
"""For a slow reader to take the rest of the last lines after Ctrl-C."""

SLOT_PREFIX: Final = "cdc_outbox_tail_"
"""Identifies the slot in pg_replication_slots."""


class Output:
    """A file descriptor to print to, with a limited wait for its reader."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._pending = bytearray()
        self._poller = select.poll()

    @property
    def empty(self) -> bool:
        """Whether all lines are written."""
        return not self._pending

    def add(self, line: bytes) -> None:
        """Queue a line."""
        self._pending += line

    def write(self, seconds: float) -> None:
        """Write what the reader accepts within `seconds`. Raises BrokenPipeError if the reader has closed the pipe."""
        deadline = time.monotonic() + seconds
        self._poller.register(self._descriptor, select.POLLOUT)
        while self._pending and (ready := self._poller.poll(max(0.0, deadline - time.monotonic()) * 1000)):
            if ready[0][1] & select.POLLERR:
                raise BrokenPipeError
            # A ready pipe accepts this much without blocking.
            written = os.write(self._descriptor, self._pending[: select.PIPE_BUF])
            del self._pending[:written]

    def check_reader(self) -> None:
        """Raise BrokenPipeError if the reader has closed the pipe; poll() reports this without a write."""
        self._poller.register(self._descriptor, 0)
        if any(event & select.POLLERR for _, event in self._poller.poll(0)):
            raise BrokenPipeError


class Tail:
    """One tail. `run()` prints until stopped, or until `limit` events are printed."""

    def __init__(
        self, settings: Settings, output: Output, stop: Stop, notify: Notify, *, from_now: bool, limit: int | None
    ) -> None:
        """`notify` gets messages other than events. Raises ConfigurationError for a broken --topic."""
        self._settings = settings
        self._output = output
        self._stop = stop
        self._notify = notify
        self._from_now = from_now
        self._left = limit
        self._row_mappings = Mappings(settings, message_max_bytes(settings.kafka()))
        self._timed = settings.columns.timestamp is not None

    def run(self) -> None:
        """Print. Returns after a stop, and after the last event of a limit.

        Raises ConfigurationError, AccessRefused (with the GRANT), Unreachable; BrokenPipeError if stdout is closed.
        """
        try:
            self._run(self._settings.dsn.reveal())
            while not (self._output.empty or self._stop.requested):
                self._output.write(WAIT_SECONDS)
        except Stopped:
            pass
        self._output.write(FAREWELL_SECONDS)

    def _run(self, dsn: str) -> None:
        self._check(dsn)
        name = f"{SLOT_PREFIX}{secrets.token_hex(6)}"
        session = ReplicationSession(dsn, self._stop)
        try:
            session.notice = lambda notice: self._notify(f"PostgreSQL: {notice.message_primary}")
            created = create_patiently(session, dsn, name, self._notify, temporary=True, snapshot=not self._from_now)
            if created.snapshot is not None:
                self._print_rows(session, dsn, created.snapshot)
            if not self._finished:
                stream = ReplicationStream.start(
                    session,
                    self._stop,
                    slot=name,
                    publication=self._settings.publication,
                    tables=bool(self._settings.tables),
                    messages=self._settings.reads_messages,
                )
                self._follow(stream)
        finally:
            session.close()

    def _check(self, dsn: str) -> None:
        """Check the publication as the relay does: from PostgreSQL 18 on, a missing one causes no error, only silence."""
        with connect.open_connection(dsn) as connection:
            server.require_logical(connection)
            tables = [publication.find_table(connection, table) for table in self._settings.tables]
            published = publication.inspect(connection, self._settings.publication)
            publication.require_published(published, self._settings.publication, tables)
            published_columns.require_columns(connection, published, tables, partial(used_columns, self._settings))

    @property
    def _finished(self) -> bool:
        return self._left == 0 or self._stop.requested

    def _print(self, line: bytes) -> None:
        self._output.add(line)
        if self._left is not None:
            self._left -= 1

    # -- the rows that are in the table

    def _print_rows(self, session: ReplicationSession, dsn: str, exported: str) -> None:
        with (
            table_rows.open_snapshot(
                dsn, exported, self._stop, alternative_hint="--from-now: no table is read"
            ) as snapshot,
            session.connection.kept_alive(),
        ):
            for table in self._settings.tables:
                self._print_table(snapshot, table)

    def _print_table(self, snapshot: table_rows.SnapshotRows, table: TableName) -> None:
        shape = snapshot.shape(table).narrowed(partial(used_columns, self._settings))
        mapping = self._row_mappings.snapshot(shape.relation)
        for batch in snapshot.read(shape, table_rows.row_order(self._settings.columns.timestamp)):
            for cells in batch:
                if self._finished:
                    return
                self._print(_line_of(mapping, cells, Transaction(0), timed=self._timed))
            while not (self._output.empty or self._stop.requested):
                self._output.write(WAIT_SECONDS)

    # -- the stream

    def _follow(self, stream: ReplicationStream) -> None:
        self._stream = stream
        self._ledger = AckLedger()
        self._feedback = Feedback(stream, self._ledger, Counters(), ServerShutdown())
        self._reader = StreamReader(self._row_mappings, Counters(), self)
        self._ignored: set[TableName] = set()
        self._listening_since = time.monotonic()
        try:
            while not self._finished:
                self._turn()
        finally:
            stream.close()

    def _turn(self) -> None:
        """Print what was read, or read more; then send a status update."""
        patience = min(WAIT_SECONDS, max(0.0, self._feedback.due() - time.monotonic()))
        if self._output.empty:
            self._stream.wait(patience)
            self._output.check_reader()
            self._read()
            self._output.write(0.0)
        else:
            self._output.write(patience)
            self._listening_since = time.monotonic()
        if self._output.empty:
            self._ledger.advance()
        self._feedback.send_if_due()

    def _read(self) -> None:
        messages = self._stream.receive(MESSAGES_PER_TURN)
        if not messages:
            self._stream.require_data_since(self._listening_since)
        self._reader.read(iter(messages))

    # -- the stream's contents (StreamSink)

    def send(self, mapping: RecordMapping[bytes], source: bytes, transaction: InFlight) -> bool:
        """Print an event; False when the limit is reached."""
        self._print(_line_of(mapping, source, transaction))
        return not self._finished

    def begin(self, lsn: Lsn, commit_time: int) -> LedgerEntry:
        """Open the transaction that commits at `lsn`; `commit_time` in Unix milliseconds."""
        return self._ledger.begin(commit_time, lsn)

    def commit(self, end_lsn: Lsn) -> bool:
        """Close the open transaction."""
        self._ledger.commit(end_lsn)
        return not self._finished

    def keepalive(self, keepalive: PrimaryKeepalive) -> None:
        """Note how far the server has sent."""
        self._ledger.keepalive(keepalive.wal_end)
        self._feedback.keepalive(keepalive)

    def outbox_table(self, relation: Relation) -> TableName | None:
        """Give the outbox table of the rows of `relation`; None if they are ignored: a message is printed once."""
        table = TableName(relation.schema, relation.name)
        if self._row_mappings.is_outbox(table):
            return table
        if table not in self._ignored:
            self._ignored.add(table)
            self._notify(f"rows of {table} are ignored: no --table names it")
        return None


def _line_of(mapping: RecordMapping[Source], source: Source, transaction: InFlight, *, timed: bool = True) -> bytes:
    lsn = transaction.lsn or None
    try:
        return event_line(mapping.record(source, transaction), mapping.name, lsn, timed=timed)
    except PoisonEvent as error:
        return poison_line(error, mapping.name, lsn)
