"""Counters of the loop's progress, updated once a turn, and log lines when Kafka accepts no records.

In: delivered transactions, the ledger, the mappings, the publisher. Out: plain numbers in `Counters`, two log events.
Never: a change to the ledger, or work per event. A transaction costs a few additions when it is delivered.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import Final

import structlog

from cdc_outbox.counters import LATENCY_BOUNDS, Counters
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.transaction import LedgerEntry
from cdc_outbox.lsn import UNSET
from cdc_outbox.relay.delivery_watch import DeliveryWatch
from cdc_outbox.relay.ledger import AckLedger

log = structlog.get_logger(__name__)

STALLED_SECONDS: Final = 5.0
"""How long an event is held before a log line reports that Kafka accepts no records."""


class Progress:
    """Updates the counters for one connection."""

    def __init__(self, counters: Counters, ledger: AckLedger, publisher: Publisher) -> None:
        self._counters = counters
        self._ledger = ledger
        self._publisher = publisher
        self._watch = DeliveryWatch(counters, publisher)
        self._head: LedgerEntry | None = None
        self._head_since: float | None = None
        """Time at which the oldest transaction was handed over completely."""
        self._held_since: float | None = None
        self._stalled = False

    def update(self, delivered: list[LedgerEntry]) -> None:
        """Count the transactions that were delivered since the last update, and copy the present figures."""
        counters = self._counters
        now = time.monotonic()
        counters.last_turn_monotonic = now  # a drain may take longer than a turn of the loop
        if delivered:
            self._count(delivered)
        oldest = self._ledger.oldest_commit_time
        counters.oldest_unacknowledged_timestamp = None if oldest is None else oldest / 1000
        publisher = self._publisher
        counters.note_in_flight(publisher.in_flight, publisher.in_flight_bytes, publisher.delivered_bytes, now)
        counters.received_lsn = max(self._ledger.received_lsn, counters.received_lsn)
        self._watch_head(now)
        self._watch.check(now, self._head_since)

    def _watch_head(self, now: float) -> None:
        head = self._ledger.head
        if head is not self._head or self._head_since is None:
            self._head = head
            complete = head is not None and head.outstanding and head.end_lsn != UNSET
            self._head_since = now if complete else None

    def held(self, since: float) -> None:
        """Count the time from `since` (time.monotonic) to now as backpressure. Logs once when it lasts."""
        now = time.monotonic()
        self._counters.backpressure_seconds += now - since
        if self._held_since is None:
            self._held_since = since
        elif not self._stalled and not self._publisher.waits and now - self._held_since > STALLED_SECONDS:
            self._stalled = True
            log.warning("backpressure", in_flight=self._publisher.in_flight)

    def released(self) -> None:
        """Record that no event is held any more."""
        if self._held_since is not None:
            if self._stalled:
                log.info("backpressure.ended", seconds=round(time.monotonic() - self._held_since, 1))
            self._held_since, self._stalled = None, False

    def _count(self, delivered: list[LedgerEntry]) -> None:
        counters = self._counters
        buckets = counters.latency_buckets
        now = time.time()
        transactions, counted, seconds = 0, 0, 0.0
        for transaction in delivered:
            events = transaction.events
            if events:
                transactions += transaction.transactions
                counted += events
                latency = now - transaction.commit_time / 1000
                seconds += latency * events
                buckets[bisect_left(LATENCY_BOUNDS, latency)] += events
        if counted:
            counters.transactions += transactions
            counters.latency_sum += max(0.0, seconds)  # the clocks of two machines may differ
            counters.last_published_timestamp = now
            counters.kafka_answers(now)
