"""The loop: one connection's stream, from its first message to its last acknowledgement. Only here the stages are combined.

In: a started stream, a publisher, mappings. Out: records in Kafka, and status updates with the flush LSN.
Ends when a stop is requested, when it has caught up with a target, or with an error.
Never: a lock, a second thread, a wait that a stop does not end, or any state of an earlier connection.

One turn: wait for the socket; read a bounded number of messages, decode, route and publish them, enter them in the ledger;
serve delivery reports; send a status update if the flush LSN moved, the server requested one, or it is due. While the
producer's queue is full, only reading pauses. The path of an event is `StreamReader.read` and `RecordSender.send`: no metric,
no log line, no parse of a payload.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import structlog

from cdc_outbox.counters import Counters, State
from cdc_outbox.errors import CatalogFinding, CdcOutboxError, ConnectionLost, ProtocolError, Undelivered
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.errors import caused_by_record, failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.transaction import LedgerEntry, NativeReader
from cdc_outbox.lsn import UNSET, Lsn, LsnRange, format_lsn
from cdc_outbox.postgres import pgoutput, publication, wire
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.records.stream_reader import StreamReader
from cdc_outbox.relay.feedback import Feedback
from cdc_outbox.relay.ledger import AckLedger
from cdc_outbox.relay.pacing import BACKLOG_MESSAGES, Pacing
from cdc_outbox.relay.progress import Progress
from cdc_outbox.relay.sender import RecordSender
from cdc_outbox.relay.session import BatchRejected, SessionParams
from cdc_outbox.shutdown import Stop

log = structlog.get_logger(__name__)

MESSAGES_PER_TURN: Final = 3000
"""About 15 ms of work: how long delivery reports and status updates wait at most."""

WAIT_SECONDS: Final = 1.0
"""The longest sleep: so often `/livez` sees the loop turn."""

DELIVERY_WAIT_SECONDS: Final = 0.01
"""The longest sleep on the socket while delivery reports are outstanding: they cannot wake it."""

COMMIT_WAIT_SECONDS: Final = 0.001
"""How long a read waits for the rest of a small transaction: the walsender sends each message separately."""

COMMIT_READS: Final = 3
"""Reads in one turn until a small transaction is complete: a Begin, a row and a Commit come in three packets at most."""

FLUSH_WAIT_SECONDS: Final = 0.002
"""How long a flush waits: until librdkafka's threads have sent the records, and most often until they are delivered."""

HELD_WAIT_SECONDS: Final = 0.05
"""One wait for delivery reports while an event is held."""

CATCH_UP_REQUEST_SECONDS: Final = 0.2
"""How often `--until caught-up` requests a keepalive: its `wal_end` shows the end of a backlog."""

CLOSE_RESERVE_SECONDS: Final = 1.0
"""Part of a stop's time, at most half of it, reserved for the last status and the end of the stream (below 0.1 s)."""

COVERED_SECONDS: Final = 5.0
"""How long a stop waits for a look at the catalog: it takes some milliseconds, and was requested a moment ago."""

SETTLE_SECONDS: Final = 20.0
"""Wait after a failed delivery for the reports of everything in flight, longer than socket.timeout.ms (15 s). A batch that
arrives after its producer was replaced is a duplicate behind newer records of its keys."""

STOP_SETTLE_SECONDS: Final = 2.0
"""The same once a stop is requested: nothing comes after it, and only the records of the same batches are waited for."""


class StreamLoop:
    """One session: a connection and its ledger, which have the same lifetime."""

    def __init__(
        self,
        stream: ReplicationStream,
        publisher: Publisher,
        mappings: Mappings,
        counters: Counters,
        stop: Stop,
        params: SessionParams,
    ) -> None:
        self._stream = stream
        self._publisher = publisher
        self._mappings = mappings
        self._counters = counters
        self._stop = stop
        self._params = params
        self._ledger = AckLedger(params.confirmed, publisher.new_transaction)
        self._progress = Progress(counters, self._ledger, publisher)
        self._sender = RecordSender(publisher, params.policy)
        catches_up = params.target is not None or params.gap is not None
        self._feedback = Feedback(
            stream,
            self._ledger,
            counters,
            params.server_shutdown,
            request_seconds=CATCH_UP_REQUEST_SECONDS if catches_up else None,
            claim=params.claim_limit.claim,
        )
        self.send = self._sender.send
        self._native = params.native
        self._reader = StreamReader(
            mappings, counters, self, self._native.learn if self._native else lambda _mapping: None
        )
        self._inbox: Iterator[bytes] = iter(())
        self._inbox_empty = True
        self._pacing = Pacing(params.max_delay)
        self._produced_at = 0.0  # when the last read that produced records began

    def run(self) -> None:
        """Turn until stopped or caught up, then drain and end the stream.

        Raises Undelivered when a stop ended before everything read was delivered; PoisonEvent, ConfigurationError,
        AccessRefused, ProtocolError when they occur, with everything before them delivered and acknowledged if possible;
        BatchRejected when records were refused and it is not known which one is the cause; Unreachable when a server is gone.
        """
        try:
            while not self._finished():
                self._turn()
        except ConnectionLost:
            self._stream.abandon()
            raise
        except BatchRejected:
            self._close()
            raise
        except CdcOutboxError as error:
            if isinstance(error, ProtocolError):
                error.where.setdefault("lsn", self._where())
            if not self._publisher.failures:
                self._drain()
            self._close()
            raise
        self._drain(covered=True)
        if not self._close() or not self._ledger.idle or self._params.claim_limit.holds_rows:
            raise Undelivered(
                "stopped with undelivered events; they will be sent again on the next start",
                code="undelivered",
                in_flight=self._publisher.in_flight,
                lsn=format_lsn(self._ledger.flush_lsn),
            )

    @property
    def settled(self) -> bool:
        """Whether everything read is delivered and confirmed to the server."""
        ledger, feedback = self._ledger, self._feedback
        held = self._params.claim_limit.holds_rows or feedback.sent_flush != self._params.claim_limit.claim(
            ledger.flush_lsn
        )
        return ledger.idle and not held

    def _finished(self) -> bool:
        self._raise_gap()
        target = self._params.target
        if target is not None and self._ledger.flush_lsn >= target and not self._ledger.in_transaction:
            return True
        if not self._stop.requested:
            return False
        if not self._ledger.in_transaction:
            return True
        assert self._stop.requested_at is not None
        return time.monotonic() > self._stop.requested_at + self._params.shutdown_timeout / 2

    def _turn(self) -> None:
        self._wait()
        self._params.raise_findings(self._sender.holds)
        if self._sender.retry():
            self._progress.released()
            self._read()
        self._publisher.serve()
        self._check_failures()
        self._advance()
        self._feedback.send_if_due()
        self._params.server_shutdown.release(
            idle=self._ledger.idle, paused=self._sender.holds, held=self._feedback.held
        )

    def _raise_gap(self) -> None:
        gap, ledger = self._params.gap, self._ledger
        if gap is not None and ledger.flush_lsn >= self._params.looked_at and not ledger.in_transaction:
            raise gap

    def _wait(self) -> None:
        """Sleep until the socket is readable, a report arrives, or the next status update is due."""
        now = self._counters.last_turn_monotonic = time.monotonic()
        if self._sender.holds:
            self._publisher.wait(HELD_WAIT_SECONDS)
            self._progress.held(now)
        elif self._inbox_empty and self._stream.empty:
            self._wait_for_messages(now)

    def _wait_for_messages(self, now: float) -> None:
        """Sleep until the next read at a steady rate; in a quiet stream, until the first message is there."""
        seconds = max(0.0, self._feedback.due() - now)
        pause = self._pacing.pause(now)
        if pause:
            self._stop.wait(min(pause, seconds, WAIT_SECONDS))
        else:
            self._stream.wait(min(seconds, DELIVERY_WAIT_SECONDS if self._publisher.in_flight else WAIT_SECONDS))

    def _read(self) -> None:
        """Read at most one portion of messages; wait COMMIT_WAIT_SECONDS for the rest of a small transaction.

        Once the stream is quiet, its last records are sent at once, and their reports are waited for: one turn for each event.
        """
        began, produced, total = time.monotonic(), self._publisher.produced_bytes, 0
        for _ in range(COMMIT_READS):
            native = self._native
            count = self._read_portion() if native is None else self._read_natively(native)
            small = self._stream.empty and 0 < count < BACKLOG_MESSAGES  # nothing more is coming to batch
            total += count
            incomplete = small and self._inbox_empty and self._ledger.in_transaction
            if not incomplete or not self._stream.wait(COMMIT_WAIT_SECONDS):
                break
        if self._publisher.produced_bytes != produced:
            self._produced_at = began
        quiet = self._pacing.read(began, total, empty=self._stream.empty) and self._inbox_empty
        if quiet and self._publisher.in_flight and began - self._produced_at <= self._publisher.linger_seconds:
            self._publisher.flush(FLUSH_WAIT_SECONDS)

    def _read_portion(self) -> int:
        """Process messages that were held back, else those that have arrived. Returns the number of messages received."""
        count = 0
        if self._inbox_empty:
            messages = self._stream.receive(MESSAGES_PER_TURN)
            count = len(messages)
            if not count:
                self._stream.require_data_since()
                return 0
            self._inbox = iter(messages)
        self._inbox_empty = self._reader.read(self._inbox)
        return count

    def _read_natively(self, native: NativeReader) -> int:
        """Let the native plane take one portion, and process the rest: its transactions, and messages that are not plain.

        Returns the number of messages received.
        """
        left = MESSAGES_PER_TURN
        more = True
        while more and left > 0:
            items = self._stream.receive_through(
                native, left, one_transaction=self._stop.requested, last_end=self._ledger.last_end
            )
            left -= native.count
            more = False
            for item in items:
                if isinstance(item, bytes):
                    more = self._reader.read(iter((item,)))
                else:
                    self._ledger.enter(item)
                    if item.end_lsn == UNSET:
                        self._reader.resume(item)
        self._inbox_empty = native.empty and not self._sender.holds
        if left == MESSAGES_PER_TURN:
            self._stream.require_data_since()
        return MESSAGES_PER_TURN - left

    # -- the stream's contents (StreamSink)

    def begin(self, lsn: Lsn, commit_time: int) -> LedgerEntry:
        """Open the transaction that commits at `lsn`; `commit_time` in Unix milliseconds."""
        transaction = self._ledger.begin(commit_time, lsn)
        if self._params.isolated_lsns:
            transaction.isolated = any(first <= lsn <= last for first, last in self._params.isolated_lsns)
        return transaction

    def commit(self, end_lsn: Lsn) -> bool:
        """Close the open transaction. False when a stop is requested: a stop takes effect between two transactions."""
        self._ledger.commit(end_lsn)
        return not self._stop.requested

    def keepalive(self, keepalive: wire.PrimaryKeepalive) -> None:
        """Record how far the server has sent."""
        self._ledger.keepalive(keepalive.wal_end)
        self._feedback.keepalive(keepalive)

    def outbox_table(self, relation: pgoutput.Relation) -> TableName | None:
        """Return the outbox table of the rows of `relation`; None if they are ignored, which is counted and logged."""
        table = TableName(relation.schema, relation.name)
        is_outbox = self._mappings.is_outbox(table)
        if self._ledger.open is not None and (is_outbox or relation.oid in self._params.table_oids):
            self._params.claim_limit.described(self._ledger.open.lsn)
        if is_outbox:
            return table
        if relation.oid in self._params.table_oids:
            return self._renamed(table, self._params.table_oids[relation.oid])
        if table not in self._counters.other_tables:
            log.warning(
                "row.ignored", table=str(table), cure="the publication sends rows of a table that no --table names"
            )
            self._counters.other_tables.add(table)
        self._counters.skipped["other-table"] = self._counters.skipped.get("other-table", 0) + 1
        return None

    def _renamed(self, found: TableName, outbox: TableName) -> TableName:
        """The table's name, for a row from before a renaming; else end the session: the next look at the catalog decides."""
        transaction = self._ledger.open
        if transaction is not None and transaction.lsn < self._params.looked_at:
            return outbox
        raise CatalogFinding.of(publication.renamed(outbox, found), lsn=self._where())

    def _where(self) -> str:
        """The commit LSN of the transaction that is being read."""
        transaction = self._ledger.open
        return format_lsn(self._ledger.received_lsn if transaction is None else transaction.lsn)

    def _check_failures(self) -> None:
        """Raise BatchRejected when Kafka refused records, with all records of the same batches; Kafka's own error if no record
        caused it.
        """
        failures = self._publisher.failures
        if not failures or self._sender.isolated:
            return
        began = time.monotonic()
        while self._publisher.in_flight:
            now = self._counters.last_turn_monotonic = time.monotonic()
            if now - began > (STOP_SETTLE_SECONDS if self._stop.requested else SETTLE_SECONDS):
                break
            self._publisher.discard_queued()
            self._publisher.serve(HELD_WAIT_SECONDS)
            self._advance()
            self._feedback.send_if_due()
        for failure in failures:
            self._counters.count_delivery_error(failure.topic, failure.error.name())
        caused = caused_by_record(failures)
        first = (caused or failures)[0]
        error = failed_delivery(first)
        log.warning("delivery.failed", error=error, refused=len(failures), lsn=first.lsn)
        if not caused:
            raise error
        raise BatchRejected(frozenset(LsnRange(each.lsn, each.last_lsn) for each in caused), error.message)

    def _advance(self) -> None:
        """Remove delivered transactions from the ledger, and update the counters."""
        delivered = self._ledger.advance()
        self._params.claim_limit.delivered(delivered)
        self._progress.update(delivered)
        self._reader.count_received()

    def _drain(self, *, covered: bool = False) -> None:
        """Wait, as long as a stop may take, for Kafka to confirm every record. Raises BatchRejected when it refuses some.

        `covered`: wait also for a look at the catalog that covers the delivered rows.
        """
        requested = self._stop.requested_at
        if requested is not None:
            self._counters.state = State.DRAINING
            log.info("draining", in_flight=self._publisher.in_flight, timeout=self._params.shutdown_timeout)
        began = requested if requested is not None else time.monotonic()
        timeout = self._params.shutdown_timeout
        deadline = began + timeout - min(CLOSE_RESERVE_SECONDS, timeout / 2)
        try:
            while (
                self._drains(began if covered else None)
                and not self._publisher.failures
                and time.monotonic() < deadline
            ):
                self._publisher.flush(HELD_WAIT_SECONDS)  # nothing comes that could share a batch
                self._publisher.serve()
                self._advance()
                self._feedback.send_if_due()
            self._check_failures()
        except CdcOutboxError as error:
            log.warning("drain.failed", error=error)
        except BatchRejected:
            self._close()
            raise

    def _drains(self, covered_since: float | None) -> bool:
        """Whether the drain waits: for reports; from `covered_since` on, and not for long, for a look that covers the rows."""
        if self._publisher.in_flight:
            return True
        if covered_since is None or time.monotonic() > covered_since + COVERED_SECONDS:
            return False
        return self._params.claim_limit.holds_rows

    def _close(self) -> bool:
        """Send the last status update, and end the stream so that the server reads it. Never raises.

        False when the server may not have read it.
        """
        try:
            self._advance()
            self._feedback.send()
        except CdcOutboxError as error:
            log.warning("drain.failed", error=error)
            self._stream.abandon()
            return False
        return self._stream.close()
