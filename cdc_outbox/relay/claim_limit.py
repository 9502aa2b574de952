"""How far a session may confirm: never past a change of the publication that no look of the catalog watch covers.

In: the LSN of each look that found nothing, relations described by the stream, delivered transactions, the flush LSN.
Out: the flush LSN that may be reported. Never: a lock. The catalog watch's thread sets one LSN and one time, the loop's thread
the rest.

Rows that a publication hides for a moment leave no trace in the stream. But pgoutput describes a relation again before the
first row after a change of the publication. So a transaction with rows may be confirmed if its relations were described before
the last look, or by an earlier transaction that a look has covered since. The position of a keepalive proves no such thing: it
may be confirmed up to the last look. The slot then stays before the change, so the next start finds the change too, and `prune`
keeps the rows.

PostgreSQL: src/backend/replication/pgoutput/pgoutput.c, rel_sync_cache_publication_cb and maybe_send_schema.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Final

from cdc_outbox.kafka.transaction import LedgerEntry
from cdc_outbox.lsn import UNSET, Lsn

LOOK_SECONDS: Final = 10.0
"""How long keepalives may wait for a look: an idle slot advances about as often as keepalives are requested."""

BLIND_SECONDS: Final = 60.0
"""After this time without a look the limit is lifted: a slot that does not advance would retain WAL until the disk is full. By
then, the catalog watch has logged that it cannot look."""


class ClaimLimit:
    """The limit of one session. `looked_at`: the LSN of its preflight. Without `tables` there is no limit. `gap`: whether a gap
    is known, so that nothing after `looked_at` is confirmed.
    """

    def __init__(self, looked_at: Lsn, *, tables: bool = True, gap: bool = False) -> None:
        self._tables = tables
        self._gap = gap
        self._looked_at = looked_at
        self._looked = time.monotonic()
        self._rows_end = UNSET
        """The end of the last delivered transaction with rows that is covered."""
        self._uncovered_end = UNSET
        """The end of the last delivered transaction with rows that waits for a look."""
        self._first_described = self._last_described = UNSET
        """Commit LSNs of the transactions whose relations were described since the last look. UNSET: none."""
        self.look_wanted = threading.Event()
        """Set when the catalog watch has to look at once."""

    def looked(self, lsn: Lsn) -> None:
        """Record a look that found nothing, with the server's LSN before it. Called by the catalog watch's thread."""
        self._looked_at = Lsn(max(self._looked_at, lsn))
        self._looked = time.monotonic()

    def described(self, lsn: Lsn) -> None:
        """Record that the transaction that commits at `lsn` described a relation of an outbox table."""
        if lsn <= self._looked_at:
            return
        self._first_described = self._first_described or lsn
        self._last_described = lsn
        self.look_wanted.set()

    def delivered(self, entries: Sequence[LedgerEntry]) -> None:
        """Record delivered transactions, in the order of the stream."""
        for entry in reversed(entries):
            if entry.events:
                if self._first_described == UNSET or entry.end_lsn < self._first_described:
                    self._rows_end = entry.end_lsn
                    return
                self._uncovered_end = max(self._uncovered_end, entry.end_lsn)

    def claim(self, flush: Lsn) -> Lsn:
        """The LSN that may be reported for the flush LSN `flush`."""
        looked_at = self._looked_at
        if self._first_described != UNSET and looked_at >= self._last_described:
            self._first_described = self._last_described = UNSET
            self._rows_end, self._uncovered_end = max(self._rows_end, self._uncovered_end), UNSET
        limit = max(looked_at, self._rows_end)
        if flush <= limit or not self._tables:
            return flush
        if self._gap:
            return Lsn(limit)
        seconds = time.monotonic() - self._looked
        if seconds > BLIND_SECONDS:
            return flush
        if seconds > LOOK_SECONDS:
            self.look_wanted.set()
        return Lsn(limit)

    @property
    def holds_rows(self) -> bool:
        """Whether delivered rows wait for a look."""
        return self._tables and not self._gap and self._uncovered_end > self._looked_at
