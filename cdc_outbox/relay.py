"""The loop: one connection's stream, from its first message to its last acknowledgement. The only place where the stages meet.

In: a started stream, a publisher, lanes. Out: records in Kafka, and the flush LSN told to the server as far as they are
delivered. Ends when a stop is requested, when it has caught up with a target, or with an error.
Never: a lock, a second thread, a wait that a stop does not end, or anything remembered from an earlier connection.

One turn: wait for the socket, read what is there (bounded), decode, route, publish, note it in the ledger; serve delivery
reports; tell the server, if the flush LSN moved, it asked, or it is time. A full producer queue means: read nothing, and go
on with the rest. The path of an event is `_read` and `_insert`: no metric, no log line, no parse of a payload.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

import structlog

from cdc_outbox.acknowledge import AckLedger, Transaction
from cdc_outbox.counters import LATENCY_BOUNDS, Counters
from cdc_outbox.decode import pgoutput
from cdc_outbox.errors import CdcOutboxError, ConfigurationError, ConnectionLost, ProtocolError, Undelivered
from cdc_outbox.lanes import Lane, Lanes
from cdc_outbox.lsn import UNSET, Lsn, format_lsn
from cdc_outbox.names import TableName
from cdc_outbox.postgres import wire
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.publish.errors import failed_delivery
from cdc_outbox.publish.producer import Publisher, Report
from cdc_outbox.route import KafkaRecord
from cdc_outbox.stop import Stop

log = structlog.get_logger(__name__)

MESSAGES_PER_TURN: Final = 1000
"""About 5 ms of work: what delivery reports and the server wait for at most."""

STATUS_SECONDS: Final = 0.1
"""Between two status updates, under load or when asked again and again: follows delivery closely, never a storm."""

ASK_FRACTION: Final = 6
"""We ask for a keepalive this many times within the server's wal_sender_timeout …"""

ASK_SECONDS: Final = 10.0
"""… but at least this often: each answer also moves an idle slot on."""

WAIT_SECONDS: Final = 1.0
"""The longest sleep: `/livez` and a slow clock see the loop turn."""

DELIVERY_WAIT_SECONDS: Final = 0.01
"""The longest sleep on the socket while Kafka owes us reports, which cannot wake it."""

FULL_WAIT_SECONDS: Final = 0.05
"""One wait for a delivery report while the queue is full."""

STALLED_SECONDS: Final = 5.0
"""A queue that stays full for this long without one delivery is worth a log line."""

CATCH_UP_ASK_SECONDS: Final = 0.2
"""How often `--until caught-up` asks the server how far it is."""

_INSERT_AT: Final = wire.XLOGDATA_HEADER_BYTES
_OID: Final = slice(_INSERT_AT + 1, _INSERT_AT + 5)
_TUPLE_AT: Final = _INSERT_AT + pgoutput.INSERT_TUPLE_OFFSET


class Relay:
    """One generation: a connection and its ledger, which live and die together."""

    def __init__(
        self,
        stream: ReplicationStream,
        publisher: Publisher,
        lanes: Lanes,
        counters: Counters,
        stop: Stop,
        *,
        table_oids: dict[int, TableName],
        shutdown_timeout: float,
        target: Lsn | None = None,
    ) -> None:
        """`table_oids`: the outbox tables as the catalog has them now. `target`: stop when all up to there is delivered."""
        self._stream = stream
        self._publisher = publisher
        self._lanes_of = lanes
        self._counters = counters
        self._stop = stop
        self._table_oids = table_oids
        self._shutdown_timeout = shutdown_timeout
        self._target = target
        self._ledger = AckLedger()
        self._relations: dict[int, pgoutput.Relation] = {}
        self._lanes: dict[bytes, Lane] = {}
        self._inbox: Iterator[bytes] = iter(())
        self._inbox_empty = True
        self._held: KafkaRecord | None = None
        """A record that found the queue full: nothing is read until it has its place."""
        self._held_since = 0.0
        self._stalled = False
        self._transaction: Transaction | None = None
        self._commit_time = 0
        self._final_lsn = UNSET
        self._topic = ""
        self._report: Report | None = None
        self._received = UNSET
        self._asked = True  # say where we stand at once: the server learns that we live, we learn its position
        self._status_at = 0.0
        self._reported = (UNSET, UNSET)
        ask = min(ASK_SECONDS, stream.wal_sender_timeout / ASK_FRACTION)
        self._ask_seconds = ask if target is None else CATCH_UP_ASK_SECONDS

    def run(self) -> None:
        """Turn until stopped or caught up, then drain and say goodbye.

        Raises Undelivered when a stop ended before everything read was delivered; PoisonEvent, ConfigurationError,
        AccessRefused, ProtocolError as they are met, with all that came before them delivered and acknowledged if
        possible; Unreachable when a server is gone.
        """
        try:
            while not self._finished():
                self._turn()
        except ConnectionLost:
            self._stream.abandon()
            raise
        except CdcOutboxError:
            self._goodbye()
            raise
        if not self._goodbye():
            raise Undelivered(
                "stopped before everything that was read is delivered: it will be sent again by the next start",
                in_flight=self._publisher.in_flight,
                lsn=format_lsn(self._ledger.flush_lsn),
            )

    def _finished(self) -> bool:
        if self._target is not None and self._ledger.flush_lsn >= self._target and not self._ledger.in_transaction:
            return True
        if not self._stop.requested:
            return False
        if not self._ledger.in_transaction:
            return True
        assert self._stop.requested_at is not None
        return time.monotonic() > self._stop.requested_at + self._shutdown_timeout / 2

    def _turn(self) -> None:
        self._wait()
        if self._held is None or self._retry_held():
            self._read()
        self._publisher.serve()
        if self._publisher.failures:
            raise failed_delivery(self._publisher.failures[0])
        self._advance()
        self._tell()

    def _wait(self) -> None:
        """Sleep until there is something to do: the socket, a report, the next status update."""
        now = time.monotonic()
        self._counters.last_turn_monotonic = now
        if self._held is not None:
            self._publisher.serve(FULL_WAIT_SECONDS)
            self._counters.backpressure_seconds += time.monotonic() - now
            self._watch_stall(now)
            return
        if not self._inbox_empty:
            return
        seconds = DELIVERY_WAIT_SECONDS if self._publisher.in_flight else WAIT_SECONDS
        self._stream.wait(min(seconds, max(0.0, self._next_status() - now)))

    def _read(self) -> None:
        """Take in at most one portion of messages. The path of an event; it ends early when the queue is full."""
        if self._inbox_empty:
            messages = self._stream.receive(MESSAGES_PER_TURN)
            if not messages:
                self._check_silence()
                return
            self._inbox = iter(messages)
            self._inbox_empty = False
        for message in self._inbox:
            if message[0] == wire.XLOGDATA:
                kind = message[_INSERT_AT]
                if kind == pgoutput.INSERT:
                    if not self._insert(message):
                        return
                elif kind == pgoutput.BEGIN:
                    self._begin(message)
                elif kind == pgoutput.COMMIT:
                    self._commit(message)
                    if self._stop.requested:
                        return
                else:
                    self._other(message)
            else:
                self._keepalive(message)
        self._inbox_empty = True

    def _check_silence(self) -> None:
        silence = time.monotonic() - self._stream.last_received
        if silence > self._stream.wal_sender_timeout:
            raise ConnectionLost(f"PostgreSQL has been silent for {silence:.0f} s, though asked: the wire is dead")

    def _insert(self, message: bytes) -> bool:
        """Send one row on its way; False when the queue is full, and the record is held."""
        lane = self._lanes.get(message[_OID])
        if lane is None:
            lane = self._find_lane(message)
            if lane is None:
                return True
        record = lane.record(lane.read(message, _TUPLE_AT), self._commit_time)
        lane.received += 1
        return self._send(record)

    def _send(self, record: KafkaRecord) -> bool:
        transaction = self._transaction
        if transaction is None:
            raise ProtocolError("an Insert outside a transaction")
        report = self._report
        if report is None or record.topic != self._topic:
            report = self._report = self._publisher.report(transaction, record.topic)
            self._topic = record.topic
        if self._publisher.produce(record, report):
            transaction.outstanding += 1
            transaction.events += 1
            return True
        self._held = record
        self._held_since = time.monotonic()
        return False

    def _retry_held(self) -> bool:
        record = self._held
        assert record is not None
        since = self._held_since
        self._held = None
        if self._send(record):
            if self._stalled:
                log.info("backpressure.ended", seconds=round(time.monotonic() - since, 1))
                self._stalled = False
            return True
        self._held_since = since
        return False

    def _watch_stall(self, now: float) -> None:
        """Say once that Kafka takes nothing: the queue is full, and not one delivery came for a while."""
        if not self._stalled and now - self._held_since > STALLED_SECONDS:
            self._stalled = True
            log.warning(
                "backpressure",
                in_flight=self._publisher.in_flight,
                cure="Kafka takes no records: see kafka.* lines; reading from PostgreSQL is paused, nothing is lost",
            )

    def _begin(self, message: bytes) -> None:
        begin = pgoutput.read_begin(message, _INSERT_AT)
        milliseconds = begin.commit_time // 1000 + wire.POSTGRES_EPOCH_SECONDS * 1000
        self._transaction = self._ledger.begin(milliseconds / 1000)
        self._commit_time = milliseconds
        self._final_lsn = begin.final_lsn
        self._report = None

    def _commit(self, message: bytes) -> None:
        commit = pgoutput.read_commit(message, _INSERT_AT)
        if commit.commit_lsn != self._final_lsn:
            raise ProtocolError(
                f"a Commit at {format_lsn(commit.commit_lsn)} ends a transaction announced for {format_lsn(self._final_lsn)}"
            )
        self._ledger.commit(commit.end_lsn)
        self._received = max(self._received, commit.end_lsn)
        self._transaction = None

    def _keepalive(self, message: bytes) -> None:
        if message[0] != wire.KEEPALIVE:
            raise ProtocolError(f"a CopyData message of an unknown type {message[:1]!r}")
        keepalive = wire.parse_keepalive(message)
        self._ledger.keepalive(keepalive.wal_end)
        self._received = max(self._received, keepalive.wal_end)
        self._asked = self._asked or keepalive.reply_requested

    def _other(self, message: bytes) -> None:
        """Take a message that is no row: most say nothing to an outbox."""
        try:
            decoded = pgoutput.decode(message, _INSERT_AT)
        except ProtocolError as error:
            raise ProtocolError(error.what, lsn=format_lsn(self._final_lsn)) from error
        if isinstance(decoded, pgoutput.Relation):
            self._relations[decoded.oid] = decoded
            self._count_received()
            self._lanes.pop(decoded.oid.to_bytes(4, "big"), None)

    def _find_lane(self, message: bytes) -> Lane | None:
        """Compile the lane for a relation's first row; None when its rows are not for us, which is counted and logged."""
        oid = int.from_bytes(message[_OID], "big")
        relation = self._relations.get(oid)
        if relation is None:
            raise ProtocolError(
                f"an Insert of relation {oid}, which was never described", lsn=format_lsn(self._final_lsn)
            )
        table = TableName(relation.schema, relation.name)
        if self._lanes_of.is_outbox(table):
            lane = self._lanes[message[_OID]] = self._lanes_of.compile(relation)
            return lane
        if oid in self._table_oids:
            was = self._table_oids[oid]
            raise ConfigurationError(
                f"table {was} has become {table}: it was renamed, and its rows come under the new name",
                cure=f"--table {table} (with --table {was} too, if that name is in use again)",
                table=str(was),
                lsn=format_lsn(self._final_lsn),
            )
        if table not in self._counters.other_tables:
            log.warning(
                "other-table", table=str(table), cure="the publication sends rows of a table that no --table names"
            )
        self._counters.other_tables.add(table)
        self._counters.skipped["other-table"] = self._counters.skipped.get("other-table", 0) + 1
        return None

    def _advance(self) -> None:
        """Take the delivered prefix off the ledger, and bring the counters up to date."""
        counters = self._counters
        taken = self._ledger.advance()
        if taken:
            now = time.time()
            for transaction in taken:
                if transaction.events:
                    counters.transactions += 1
                    latency = max(0.0, now - transaction.commit_time)
                    counters.latency_sum += latency * transaction.events
                    counters.latency_buckets[bisect_left(LATENCY_BOUNDS, latency)] += transaction.events
                    counters.last_published_timestamp = now
                    counters.kafka_connected = True
        counters.oldest_unacknowledged_timestamp = self._ledger.oldest_commit_time
        counters.in_flight_events = self._publisher.in_flight
        counters.in_flight_bytes = self._publisher.in_flight_bytes
        counters.received_lsn = max(self._received, counters.received_lsn)
        self._count_received()

    def _count_received(self) -> None:
        received = self._counters.received
        for lane in self._lanes.values():
            if lane.received:
                received[str(lane.table)] = received.get(str(lane.table), 0) + lane.received
                lane.received = 0

    def _next_status(self) -> float:
        """When the next status update is due, time.monotonic."""
        moved = (self._received, self._ledger.flush_lsn) != self._reported
        return self._status_at + (STATUS_SECONDS if self._asked or moved else self._ask_seconds)

    def _tell(self, *, last: bool = False) -> None:
        """Send a status update if there is one to send. We ask for an answer when we have heard nothing for a while."""
        now = time.monotonic()
        if now < self._next_status() and not last:
            self._stream.flush()
            return
        flush = self._ledger.flush_lsn
        write = max(self._received, flush)
        quiet = now - self._stream.last_received >= self._ask_seconds / 2
        self._stream.send_status(write=write, flush=flush, reply_requested=quiet and not last)
        self._status_at = now
        self._asked = False
        self._reported = (self._received, flush)
        self._counters.confirmed_lsn = max(flush, self._counters.confirmed_lsn)
        self._counters.last_feedback_timestamp = time.time()

    def _goodbye(self) -> bool:
        """Drain, tell the server, close; True when all that was read whole is delivered. Never raises."""
        requested = self._stop.requested_at
        if requested is not None:
            self._counters.state = "draining"
            log.info("draining", in_flight=self._publisher.in_flight, timeout=self._shutdown_timeout)
        deadline = (requested if requested is not None else time.monotonic()) + self._shutdown_timeout
        try:
            while self._publisher.in_flight and not self._publisher.failures and time.monotonic() < deadline - 1:
                self._publisher.serve(FULL_WAIT_SECONDS)
                self._advance()
                self._tell()
            self._advance()
            self._tell(last=True)
        except CdcOutboxError as error:
            log.warning("drain.failed", error=str(error))
            self._stream.abandon()
            return self._ledger.idle
        self._stream.close()
        return self._ledger.idle
