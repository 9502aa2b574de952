"""Standby status updates of one connection: when one is due, and what it reports.

In: keepalives as they are received, the ledger. Out: status updates on the stream.
Never: the same status twice within 100 ms, or a pause longer than a fraction of the server's wal_sender_timeout.

A server that shuts down fast requests a reply until everything it sent is flushed: each immediate reply causes the next request
(measured: 30,000 a second). Replies at 100 ms end that.
PostgreSQL manual: 54.4 Streaming Replication Protocol.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from cdc_outbox.counters import Counters
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.postgres.wire import PrimaryKeepalive
from cdc_outbox.relay.ledger import AckLedger
from cdc_outbox.relay.server_shutdown import ServerShutdown

STATUS_SECONDS: Final = 0.1
"""Between two status updates under load, or when replies are requested repeatedly: the slot follows delivery closely."""

REQUESTS_PER_TIMEOUT: Final = 6
"""Keepalives that the relay requests within the server's wal_sender_timeout, at intervals of at most REQUEST_SECONDS."""

REQUEST_SECONDS: Final = 10.0
"""Longest interval between two requested keepalives: each answer also advances the slot of a quiet outbox."""


class Feedback:
    """Sends the status updates of one connection."""

    def __init__(
        self,
        stream: ReplicationStream,
        ledger: AckLedger,
        counters: Counters,
        server_shutdown: ServerShutdown,
        *,
        request_seconds: float | None = None,
        claim: Callable[[Lsn], Lsn] = lambda flush: flush,
    ) -> None:
        """`request_seconds`: how often to request a keepalive; by default derived from the server's timeout. `claim`:
        returns the LSN to report for a flush LSN.
        """
        self._stream = stream
        self._ledger = ledger
        self._counters = counters
        self._server_shutdown = server_shutdown
        self._claim = claim
        self._request_seconds = request_seconds or min(
            REQUEST_SECONDS, stream.wal_sender_timeout / REQUESTS_PER_TIMEOUT
        )
        self._reply_requested = True  # the first status update is sent at once: it shows the server a live client
        self._sent_at = 0.0
        self._sent = (UNSET, UNSET)

    @property
    def sent_flush(self) -> Lsn:
        """The flush LSN of the last status update."""
        return self._sent[1]

    @property
    def held(self) -> bool:
        """Whether the flush LSN may not be reported yet."""
        return self._claim(self._ledger.flush_lsn) < self._ledger.flush_lsn

    def keepalive(self, message: PrimaryKeepalive) -> None:
        """Handle a keepalive. The ledger must have handled it before."""
        if message.reply_requested:
            self._reply_requested = True
            self._server_shutdown.reply_requested(self._ledger.received_lsn, idle=self._ledger.idle and not self.held)

    def due(self) -> float:
        """When the next status update is due, as of time.monotonic()."""
        ledger = self._ledger
        soon = self._reply_requested or (ledger.received_lsn, self._claim(ledger.flush_lsn)) != self._sent
        return self._sent_at + (STATUS_SECONDS if soon else self._request_seconds)

    def send_if_due(self) -> None:
        """Send a status update if one is due; after a time without data it requests a keepalive. Raises ConnectionLost."""
        now = time.monotonic()
        if now < self.due():
            self._stream.flush()
        else:
            self._send(now, reply_requested=now - self._stream.last_received >= self._request_seconds / 2)

    def send(self) -> None:
        """Send a status update now: the last one before the end of the stream. Raises ConnectionLost."""
        self._send(time.monotonic(), reply_requested=False)

    def _send(self, now: float, *, reply_requested: bool) -> None:
        received, flush = self._ledger.received_lsn, self._claim(self._ledger.flush_lsn)
        self._stream.send_status(write=received, flush=flush, reply_requested=reply_requested)
        self._sent_at = now
        self._reply_requested = False
        self._sent = (received, flush)
        self._counters.confirmed_lsn = max(flush, self._counters.confirmed_lsn)
        self._counters.last_feedback_timestamp = time.time()
