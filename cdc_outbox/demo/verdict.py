"""Whether the promises were kept: computed from the tally, and from nothing else. Pure.

In: what was committed, rolled back, received. Out: `Verdict`, and its text.
Never: trust in the relay's own figures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdc_outbox.demo.tally import Event, Tally


@dataclass(frozen=True, slots=True)
class Verdict:
    """Numbers of events. All but the first two and `duplicates` have to be 0."""

    committed: int
    rolled_back: int
    duplicates: int
    """Arrivals whose id had arrived before."""
    lost: int
    """Committed, and never received."""
    out_of_order: int
    """First arrivals that a later event of the same key had overtaken."""
    altered: int
    """Arrivals whose topic, key, type or payload is not what was committed under their id."""
    leaked: int
    """Rolled back, and received all the same."""
    unknown: int
    """Arrivals with an id that was never written."""

    @property
    def good(self) -> bool:
        """Whether every promise was kept, and there was something to keep."""
        return self.committed > 0 and not any((self.lost, self.out_of_order, self.altered, self.leaked, self.unknown))


def judge(tally: Tally) -> Verdict:
    """Compare what arrived with what was written."""
    written = {event.id: event for event in tally.committed}
    never = {event.id for event in tally.rolled_back}
    first: dict[str, Event] = {}
    for event in tally.received:
        first.setdefault(event.id, event)
    return Verdict(
        committed=len(written),
        rolled_back=len(never),
        duplicates=len(tally.received) - len(first),
        lost=len(written.keys() - first.keys()),
        out_of_order=_overtaken(tally.committed, first.values()),
        altered=sum(event.id in written and event != written[event.id] for event in tally.received),
        leaked=len(never & first.keys()),
        unknown=len(first.keys() - written.keys() - never),
    )


def _overtaken(committed: Iterable[Event], arrived: Iterable[Event]) -> int:
    """Count the arrivals before which an event arrived that has the same key and was committed later."""
    position = {event.id: number for number, event in enumerate(committed)}
    furthest: dict[tuple[str, str], int] = {}
    overtaken = 0
    for event in arrived:
        if event.id in position:
            key = (event.topic, event.key)
            overtaken += position[event.id] < furthest.get(key, -1)
            furthest[key] = max(position[event.id], furthest.get(key, -1))
    return overtaken


def in_words(verdict: Verdict) -> list[str]:
    """Return lines for the terminal: each number with its meaning."""
    rows = (
        ("committed", verdict.committed, "each in one transaction with its change"),
        ("lost", verdict.lost, "committed, but the consumer never got it"),
        ("out of order", verdict.out_of_order, "overtaken by a later event of the same key"),
        ("altered", verdict.altered, "topic, key, type or payload is not what was written"),
        ("duplicates", verdict.duplicates, "came again with an id seen before"),
        ("rolled back", verdict.rolled_back, "events that must never be seen"),
        ("  and seen", verdict.leaked, "all the same"),
    )
    lines = [f"  {name:<14}{number:>8,}   {meaning}" for name, number, meaning in rows]
    if verdict.unknown:
        lines.append(f"  {'unknown':<14}{verdict.unknown:>8,}   records came with an id that was never written")
    return lines
