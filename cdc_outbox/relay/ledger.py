"""The ledger: which transactions are delivered, and thus which LSN may be confirmed. A pure state machine.

In: begins, records handed to Kafka, delivery reports, commits, keepalives. Out: the received LSN and the flush LSN.
Never: a flush LSN computed as a maximum, an addition to an LSN, a position inside a transaction, state of an earlier
connection. A ledger exists as long as one connection; a late delivery report counts down a transaction that no ledger holds.

One queue holds transactions and keepalives in the order of the stream. The flush LSN is the end of its longest delivered
prefix: a transaction whose last record is delivered waits for those before it.
PostgreSQL manual: 47.2.3 Replication Slots (confirmed changes are not sent again), 54.4 (a keepalive means that everything
below its `wal_end` was sent).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cdc_outbox.errors import ProtocolError
from cdc_outbox.kafka.transaction import LedgerEntry, Transaction
from cdc_outbox.lsn import UNSET, Lsn, format_lsn


class AckLedger:
    """The transactions and keepalives of one connection, oldest first.

    `new_transaction`: makes the publisher's entries. `confirmed`: the slot's confirmed flush LSN at the start. The first
    keepalives of a connection are before it, where decoding begins. Reporting a lower LSN is pointless, and
    older servers move the slot backwards.
    """

    def __init__(
        self, confirmed: Lsn = UNSET, new_transaction: Callable[[int, Lsn], LedgerEntry] = Transaction
    ) -> None:
        self._confirmed = confirmed
        self._new_transaction = new_transaction
        self._queue: deque[LedgerEntry] = deque()
        self.last_end = UNSET
        """The highest end of a transaction, or position of a keepalive between two of them."""
        self.open: LedgerEntry | None = None
        """The transaction whose Begin was received, but not its Commit."""
        self._announced = UNSET
        """The highest position of a keepalive, including those inside a transaction."""
        self.flush_lsn = UNSET
        """Every transaction that ends at or below it is delivered. Unset: nothing to report yet."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self.open is not None

    @property
    def received_lsn(self) -> Lsn:
        """The highest position that the server has sent, including keepalives inside a transaction."""
        return max(self._announced, self.last_end)

    @property
    def idle(self) -> bool:
        """Whether everything received is delivered."""
        return not self._queue

    @property
    def head(self) -> LedgerEntry | None:
        """The oldest entry that is not delivered."""
        return self._queue[0] if self._queue else None

    @property
    def oldest_commit_time(self) -> int | None:
        """When the oldest undelivered transaction was committed, Unix milliseconds; None when everything is delivered."""
        for entry in self._queue:
            if entry.outstanding or entry.end_lsn == UNSET:
                return entry.commit_time
        return None

    def begin(self, commit_time: int, lsn: Lsn = UNSET) -> LedgerEntry:
        """Open the transaction that commits at `lsn`. Raises ProtocolError when one is open."""
        if self.open is not None:
            raise ProtocolError("a Begin inside a transaction")
        self.open = transaction = self._new_transaction(commit_time, lsn)
        self._queue.append(transaction)
        return transaction

    def enter(self, entry: LedgerEntry) -> None:
        """Add an entry of the native plane: a group of closed transactions, or an open one (its end LSN is unset).

        Raises ProtocolError when one is open already, or when the LSN is not higher than the last one.
        """
        if self.open is not None:
            raise ProtocolError("a Begin inside a transaction")
        self._queue.append(entry)
        if entry.end_lsn == UNSET:
            self.open = entry
            return
        if entry.end_lsn <= self.last_end:
            raise _not_higher(entry.end_lsn, self.last_end)
        self.last_end = entry.end_lsn

    def commit(self, end_lsn: Lsn) -> None:
        """Close the open transaction with the end LSN of its Commit, unchanged.

        Raises ProtocolError without a Begin, or when the LSN is not higher than the last one.
        """
        if self.open is None:
            raise ProtocolError("a Commit without a Begin", lsn=format_lsn(end_lsn))
        if end_lsn <= self.last_end:
            raise _not_higher(end_lsn, self.last_end)
        self.open.end_lsn = self.last_end = end_lsn
        self.open = None

    def keepalive(self, wal_end: Lsn) -> None:
        """Record that everything below `wal_end` was sent.

        A keepalive inside a transaction, whose end is not known yet, advances the received LSN only. So does one at or before
        the last end, or before the confirmed LSN.
        """
        self._announced = max(self._announced, wal_end)
        if self.open is not None or wal_end <= self.last_end or wal_end < self._confirmed:
            return
        self.last_end = wal_end
        if not self._queue:
            self.flush_lsn = wal_end
            return
        last = self._queue[-1]
        if last.events or last.outstanding:
            last = self._new_transaction(last.commit_time, UNSET)
            self._queue.append(last)
        last.end_lsn = wal_end

    def advance(self) -> list[LedgerEntry]:
        """Remove the delivered prefix, move `flush_lsn` to its end, and return the removed entries."""
        delivered: list[LedgerEntry] = []
        queue = self._queue
        while queue and not queue[0].outstanding and queue[0].end_lsn != UNSET:
            delivered.append(queue.popleft())
        if delivered:
            self.flush_lsn = delivered[-1].end_lsn
        return delivered


def _not_higher(end_lsn: Lsn, last_end: Lsn) -> ProtocolError:
    return ProtocolError(f"a Commit that ends at or before {format_lsn(last_end)}", lsn=format_lsn(end_lsn))
