"""PostgreSQL's shutdown: how it is recognized, and how long the relay may delay it.

In: reply requests of the stream, refused and accepted connections of the catalog watch. Out: ConnectionLost when a server that
shuts down has waited long enough. Never: a lock; the catalog watch's thread sets one attribute, the loop's thread the others.

A fast shutdown waits, without a limit, until its walsenders have everything flushed. It requests a reply in each turn of that
wait; a relay that has paused reading cannot see the requests, but its new connections are refused (SQLSTATE 57P03).
PostgreSQL: src/backend/replication/walsender.c, WalSndDone and WalSndKeepalive.
"""

from __future__ import annotations

import time
from typing import Final

from cdc_outbox.errors import ConnectionLost
from cdc_outbox.lsn import UNSET, Lsn

REPEATED_REQUESTS: Final = 5
"""Reply requests in a row, without a new position and within REPEAT_SECONDS of one another, that mean a shutdown. Otherwise the
server requests a reply only after half its wal_sender_timeout without a status update, and updates are sent more often."""

REPEAT_SECONDS: Final = 2.0

GRACE_SECONDS: Final = 10.0
"""How long a server that shuts down waits for Kafka to confirm: longer than the election of a partition leader, shorter than
the time after which an operator or an orchestrator kills PostgreSQL."""


class ServerShutdown:
    """Whether the server of one connection is shutting down, and since when it waits for the relay."""

    def __init__(self) -> None:
        self._requests = 0
        self._requested_at = 0.0
        self._requested_lsn = UNSET
        self._requests_since: float | None = None
        self._refused_since: float | None = None

    def reply_requested(self, received: Lsn, *, idle: bool) -> None:
        """Record that the server requested a reply. `idle`: everything received is delivered, so the server need not wait."""
        now = time.monotonic()
        if received > self._requested_lsn or now - self._requested_at > REPEAT_SECONDS:
            self._requests = 0
        self._requests += 1
        self._requested_at, self._requested_lsn = now, received
        if self._requests >= REPEATED_REQUESTS and self._requests_since is None and not idle:
            self._requests_since = now

    def connection_refused(self) -> None:
        """Record that the server refuses new connections because it shuts down. Called by the catalog watch's thread."""
        self._refused_since = self._refused_since or time.monotonic()

    def connection_accepted(self) -> None:
        """Record that the server accepts new connections. Called by the catalog watch's thread."""
        self._refused_since = None

    def release(self, *, idle: bool, paused: bool, held: bool = False) -> None:
        """Raise ConnectionLost when the server has waited GRACE_SECONDS for the relay.

        `idle`: everything received is delivered. `paused`: reading is paused, because Kafka takes no more records. `held`: the
        flush LSN may not be reported (`ClaimLimit`): since the server accepts no connections, this will not change.
        """
        if idle and not held:
            self._requests_since = None
        if idle and self._requests_since is not None:
            raise ConnectionLost(
                "PostgreSQL is shutting down; disconnecting: all events are delivered, and what the server has written since "
                "the last look at the catalog cannot be confirmed any more",
                code="shutdown-unconfirmed",
                cure="nothing to do: the relay connects again",
            )
        refused_since = self._refused_since if paused else None
        for since in (self._requests_since, refused_since):
            if since is not None and time.monotonic() - since > GRACE_SECONDS:
                raise ConnectionLost(
                    "PostgreSQL is shutting down; disconnecting, because Kafka did not confirm all in-flight records within "
                    f"{GRACE_SECONDS:.0f} s",
                    code="shutdown-kafka-behind",
                    cure="nothing to do for PostgreSQL: undelivered events are sent again after the reconnect; the kafka.* log "
                    "lines name what keeps Kafka from confirming",
                )
