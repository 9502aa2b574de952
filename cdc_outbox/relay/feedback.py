"""What the server hears from us, and when: standby status updates, asked-for keepalives, and the signs of its shutdown.

In: keepalives as they are received, the ledger. Out: status updates on the stream.
Never: the same statement twice within 100 ms, or a silence longer than a part of the server's wal_sender_timeout.

A server that shuts down fast waits, without limit, until everything it sent is flushed, and asks for a reply again and again:
answered at once, each answer brings the next question (measured: 30,000 a second). Answered ten times a second, it stays
calm; and questions that come like this without anything new to say are the sign that it wants to stop.
PostgreSQL: src/backend/replication/walsender.c, WalSndDone and WalSndKeepalive; manual 54.4.
"""

from __future__ import annotations

import time
from typing import Final

from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConnectionLost
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.postgres.wire import PrimaryKeepalive
from cdc_outbox.relay.ledger import AckLedger

STATUS_SECONDS: Final = 0.1
"""Between two status updates, under load or when asked again and again: follows delivery closely, never a storm."""

ASK_FRACTION: Final = 6
"""We ask for a keepalive this many times within the server's wal_sender_timeout …"""

ASK_SECONDS: Final = 10.0
"""… but at least this often: each answer also moves an idle slot on."""

STOPPING_QUESTIONS: Final = 5
"""So many questions in a row, without news and within STOPPING_SECONDS of one another: the server wants to stop. In
ordinary life it asks only after half its timeout without a word from us, and we speak more often than that."""

STOPPING_SECONDS: Final = 2.0

GRACE_SECONDS: Final = 10.0
"""How long a stopping server is kept waiting for Kafka to take what was sent: longer than a broker's restart of a leader,
shorter than a supervisor's patience with the database."""


class Feedback:
    """The talking side of one connection."""

    def __init__(
        self, stream: ReplicationStream, ledger: AckLedger, counters: Counters, *, ask_seconds: float | None = None
    ) -> None:
        """`ask_seconds`: how often to ask for a keepalive; by default derived from the server's timeout."""
        self._stream = stream
        self._ledger = ledger
        self._counters = counters
        self._ask_seconds = ask_seconds or min(ASK_SECONDS, stream.wal_sender_timeout / ASK_FRACTION)
        self._wal_end = UNSET
        """The highest of a keepalive: the ledger leaves out those that come inside a transaction."""
        self._asked = True  # say where we stand at once: the server learns that we live
        self._told_at = 0.0
        self._told = (UNSET, UNSET)
        self._questions = 0
        self._question_at = 0.0
        self._question_received = UNSET
        self._stopping_since: float | None = None

    @property
    def told_flush(self) -> Lsn:
        """The flush LSN of the last status update."""
        return self._told[1]

    @property
    def received(self) -> Lsn:
        """The highest position the server said it had sent."""
        return max(self._wal_end, self._ledger.last)

    def keepalive(self, message: PrimaryKeepalive) -> None:
        """Note a keepalive; the ledger has it already."""
        self._wal_end = max(self._wal_end, message.wal_end)
        self._asked = self._asked or message.reply_requested
        if not message.reply_requested:
            return
        now, received = time.monotonic(), self.received
        if received > self._question_received or now - self._question_at > STOPPING_SECONDS:
            self._questions = 0
        self._questions += 1
        self._question_at, self._question_received = now, received
        if self._questions >= STOPPING_QUESTIONS and self._stopping_since is None and not self._ledger.idle:
            self._stopping_since = now

    def due(self) -> float:
        """When the next status update is due, time.monotonic."""
        moved = (self.received, self._ledger.flush_lsn) != self._told
        return self._told_at + (STATUS_SECONDS if self._asked or moved else self._ask_seconds)

    def tell(self, *, last: bool = False) -> None:
        """Send a status update if one is due, or for the last time. Asks for an answer after a time of silence.

        Raises ConnectionLost when the wire is broken, or when a stopping server has been kept waiting long enough.
        """
        now = time.monotonic()
        if now < self.due() and not last:
            self._stream.flush()
            return
        flush = self._ledger.flush_lsn
        quiet = now - self._stream.last_received >= self._ask_seconds / 2
        received = self.received
        self._stream.send_status(write=max(received, flush), flush=flush, reply_requested=quiet and not last)
        self._told_at = now
        self._asked = False
        self._told = (received, flush)
        self._counters.confirmed_lsn = max(flush, self._counters.confirmed_lsn)
        self._counters.last_feedback_timestamp = time.time()

    def release_stopping_server(self) -> None:
        """Let a stopping server go when Kafka did not take everything in time. Raises ConnectionLost then."""
        since = self._stopping_since
        if since is None:
            return
        if self._ledger.idle:
            self._stopping_since = None
        elif time.monotonic() - since > GRACE_SECONDS:
            raise ConnectionLost(
                f"PostgreSQL is shutting down, and Kafka has not taken everything within {GRACE_SECONDS:.0f} s: letting go",
                cure="what is not delivered comes again after the reconnect; see the kafka.* lines for what holds Kafka up",
            )
