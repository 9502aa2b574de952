"""Transactions that are being delivered: how many records each has, and how many await their delivery report. Plain data.

In: a commit LSN and time. Out: counts, which the producer updates and the acknowledgement ledger reads.
Never: a decision. The native plane has a class of its own with these attributes (native/src/producer.h).
"""

from __future__ import annotations

from typing import Final, Protocol

from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres.stream import PlainReader
from cdc_outbox.records.mapping import RowMapping
from cdc_outbox.records.router import InFlight


class LedgerEntry(InFlight, Protocol):
    """A transaction, or a group of small ones that follow one another."""

    end_lsn: Lsn
    """End LSN of its last Commit. Unset before that Commit: until then it is not delivered, even with 0 outstanding."""

    @property
    def last_lsn(self) -> Lsn:
        """The commit LSN of its last transaction."""

    @property
    def transactions(self) -> int:
        """The number of its transactions, not counting those without events in a group."""


class NativeReader(PlainReader[LedgerEntry], Protocol):
    """The native plane's reader: moves plain rows from a connection into its producer."""

    def learn(self, mapping: RowMapping) -> None:
        """Take the plain rows of this relation, until the stream describes it again. Each row counts as received."""


class Transaction:
    """A transaction that is being delivered. The delivery reports of its records count `outstanding` down."""

    __slots__ = ("commit_time", "end_lsn", "events", "isolated", "lsn", "outstanding", "sequence")

    transactions: Final = 1
    """One, since it is not a group."""

    def __init__(self, commit_time: int, lsn: Lsn = UNSET) -> None:
        self.lsn = lsn
        """Its commit LSN, from its Begin: the same in every connection. It is the identity, and is never confirmed."""
        self.commit_time = commit_time
        """When it was committed, Unix milliseconds."""
        self.end_lsn = UNSET
        """Unset before its Commit: until then it is not delivered, even with 0 outstanding."""
        self.events = 0
        """Records handed to Kafka."""
        self.outstanding = 0
        """Records handed to Kafka whose delivery is not reported yet."""
        self.sequence = 0
        """The number of the last numbered event."""
        self.isolated = False
        """Whether each of its records is produced with nothing else in flight."""

    @property
    def last_lsn(self) -> Lsn:
        """Its commit LSN, since it is not a group."""
        return self.lsn
