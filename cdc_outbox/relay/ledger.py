"""The ledger: which transactions are delivered, and so how far the server may forget. A pure state machine.

In: begins, records handed to Kafka, delivery reports, commits, keepalives. Out: the flush LSN.
Never: a maximum, an addition to an LSN, a position inside a transaction, anything from an earlier connection. A ledger lives
as long as one connection; a late report from before marks a transaction that no ledger holds any more.

One queue holds transactions and keepalives in the order in which they came. The flush LSN is the end of the longest prefix
of it that is delivered: a transaction whose last record is delivered waits for those before it.
PostgreSQL manual: 47.2.3 Replication Slots (what is confirmed is not sent again), 54.4 (keepalives promise that everything
below `wal_end` was sent).
"""

from __future__ import annotations

from collections import deque

from cdc_outbox.errors import ProtocolError
from cdc_outbox.lsn import UNSET, Lsn, format_lsn


class Transaction:
    """One transaction on its way. The delivery reports of its records count `outstanding` down."""

    __slots__ = ("commit_time", "end_lsn", "events", "isolated", "lsn", "outstanding", "sequence")

    def __init__(self, commit_time: int, lsn: Lsn = UNSET) -> None:
        self.lsn = lsn
        """Its commit LSN, as its Begin announced it: the same in every generation. Names it, and is never confirmed."""
        self.commit_time = commit_time
        """When it was committed, Unix milliseconds."""
        self.end_lsn = UNSET
        """Unset until its Commit has come: till then it is never delivered, whatever the reports say."""
        self.events = 0
        """How many records it became."""
        self.outstanding = 0
        """Records handed to Kafka whose delivery is not yet reported."""
        self.sequence = 0
        """The number of its last event that was numbered."""
        self.isolated = False
        """Whether each of its records is produced with nothing else in flight."""


class AckLedger:
    """The transactions and keepalives of one connection, oldest first.

    `confirmed`: where the slot stands. The first keepalives of a connection lie before it, where decoding begins; a claim
    below it would say nothing, and older servers take it for a wish to go back.
    """

    def __init__(self, confirmed: Lsn = UNSET) -> None:
        self._confirmed = confirmed
        self._queue: deque[Transaction] = deque()
        self.open: Transaction | None = None
        """The one whose Begin has come, and whose Commit has not."""
        self.last = UNSET
        """The highest end of a transaction, or position of a keepalive between two of them."""
        self.flush_lsn = UNSET
        """Everything that ends at or below it is delivered. Unset: no statement yet."""

    @property
    def in_transaction(self) -> bool:
        """Whether one is open."""
        return self.open is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting."""
        return not self._queue

    @property
    def oldest_commit_time(self) -> int | None:
        """When the oldest transaction that is not delivered was committed, Unix milliseconds; None when there is none."""
        for entry in self._queue:
            if entry.outstanding or entry.end_lsn == UNSET:
                return entry.commit_time
        return None

    def begin(self, commit_time: int, lsn: Lsn = UNSET) -> Transaction:
        """Open the transaction that commits at `lsn`. Raises ProtocolError when one is open."""
        if self.open is not None:
            raise ProtocolError("a Begin inside a transaction")
        self.open = Transaction(commit_time, lsn)
        self._queue.append(self.open)
        return self.open

    def commit(self, end_lsn: Lsn) -> None:
        """Close it with the Commit's end LSN, as is. Raises ProtocolError without a Begin, or when the LSN goes back."""
        if self.open is None:
            raise ProtocolError("a Commit without a Begin", lsn=format_lsn(end_lsn))
        if end_lsn <= self.last:
            raise ProtocolError(f"a Commit that ends at or before {format_lsn(self.last)}", lsn=format_lsn(end_lsn))
        self.open.end_lsn = self.last = end_lsn
        self.open = None

    def keepalive(self, wal_end: Lsn) -> None:
        """Note that all below `wal_end` was sent. Inside a transaction that says nothing about its end, so it is left.

        So is one that lies before what came last, or before what is confirmed.
        """
        if self.open is not None or wal_end <= self.last or wal_end < self._confirmed:
            return
        self.last = wal_end
        if not self._queue:
            self.flush_lsn = wal_end
            return
        last = self._queue[-1]
        if last.events or last.outstanding:
            last = Transaction(last.commit_time)
            self._queue.append(last)
        last.end_lsn = wal_end

    def advance(self) -> list[Transaction]:
        """Take off the delivered prefix, move `flush_lsn` to its end, and give what was taken."""
        taken: list[Transaction] = []
        queue = self._queue
        while queue and not queue[0].outstanding and queue[0].end_lsn != UNSET:
            taken.append(queue.popleft())
        if taken:
            self.flush_lsn = taken[-1].end_lsn
        return taken
