"""The record from which the verdict is computed: events committed, rolled back and received.

In: events as the shop wrote them, records as the consumer got them, each noted at once by its thread.
Out: the lists, in order, and a few numbers for the view. Never: a judgement; that is `verdict`'s.

Writers and consumer are threads. Each list has appends only, and a reader may see it one entry short, never torn.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Event:
    """One event, the same whether seen at its writing or at its arrival. `digest` stands for the payload, byte for byte."""

    id: str
    topic: str
    key: str
    type: str
    digest: bytes


def digest_of(payload: bytes) -> bytes:
    """A 16-byte digest of the payload."""
    return blake2b(payload, digest_size=16).digest()


class Tally:
    """Everything that happened to events, in order."""

    def __init__(self) -> None:
        self.committed: list[Event] = []
        """One writer per key: events of one key stand here in the order of their commits."""
        self.rolled_back: list[Event] = []
        self.received: list[Event] = []
        """By arrival; duplicates too. Records of one key come from one partition, in its order."""
        self.delivered = 0
        """Different events among the received."""
        self._committed_at: list[float] = []
        self._seen: set[str] = set()
        self._first_waiting = 0

    def note_commit(self, events: list[Event]) -> None:
        """The transaction that wrote these is committed."""
        for event in events:
            self._committed_at.append(time.monotonic())
            self.committed.append(event)

    def note_rollback(self, events: list[Event]) -> None:
        """The transaction that wrote these is rolled back."""
        self.rolled_back += events

    def note_arrival(self, event: Event) -> None:
        """The consumer received the event."""
        self.received.append(event)
        if event.id not in self._seen:
            self._seen.add(event.id)
            self.delivered += 1

    @property
    def duplicates(self) -> int:
        """Arrivals whose id had arrived before."""
        return max(0, len(self.received) - self.delivered)

    @property
    def waiting(self) -> int:
        """Committed, and not arrived. Never negative: an event may arrive before its writer has noted the commit."""
        return max(0, len(self.committed) - self.delivered)

    def oldest_waiting(self) -> float:
        """Seconds since the oldest event that has not arrived was committed; 0 when all have."""
        committed, first = self.committed, self._first_waiting
        while first < len(committed) and committed[first].id in self._seen:
            first += 1
        self._first_waiting = first
        return time.monotonic() - self._committed_at[first] if first < len(committed) else 0.0
