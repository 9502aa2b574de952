"""What a relay can say about itself without asking anybody: alive, ready, and the status document.

In: `Counters`, `Settings`, and the clock as an argument. Out: judgements and plain dictionaries.
Never: SQL, a socket. Liveness depends neither on Kafka nor on PostgreSQL: a restart cures neither, and each one makes
duplicates. Readiness does not depend on Kafka: a native sidecar's readiness is the whole pod's, and a broker outage
must not take the application out of service.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State
from cdc_outbox.lsn import format_lsn
from cdc_outbox.observe.mask import mask
from cdc_outbox.observe.status_document import StatusDocument, with_slot

STUCK_AFTER_SECONDS: Final = 30.0
"""The loop turns several times a second, also while it waits; half a minute without a turn is a hang, not a pause."""

SLOT_STALE_SECONDS: Final = 90.0
"""The slot is looked at every 30 s. Three looks that failed: what the last one saw may be wrong by now."""

READY_STATES: Final = (State.STREAMING, State.STANDBY)


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `?verbose`. `decides` is False for what is only worth knowing."""

    name: str
    ok: bool
    says: str
    decides: bool = True


def liveness(counters: Counters, monotonic: float) -> list[Check]:
    """Whether the loop has turned lately. While none turns, the relay waits for a server, and that may take its time: a slot
    begins when every transaction that is open is over, and the first of many rows come when they are sorted.
    """
    turned_at = counters.last_turn_monotonic
    if turned_at is None:
        return [Check("loop", ok=True, says="none turns now: connecting, or waiting for PostgreSQL")]
    age = max(0.0, monotonic - turned_at)
    return [Check("loop", ok=age <= STUCK_AFTER_SECONDS, says=f"turned {age:.1f} s ago")]


def readiness(counters: Counters) -> list[Check]:
    """Whether the relay does what it was started for: streams, or stands by for the one that does."""
    state = counters.state
    return [
        Check("state", ok=state in READY_STATES, says=state),
        _connected("postgres", connected=counters.postgres_connected),
        _connected("kafka", connected=counters.kafka_connected),
        Check("last_error", ok=counters.last_error is None, says=mask(counters.last_error or "none"), decides=False),
    ]


def passed(checks: list[Check]) -> bool:
    """Whether all checks that decide are well."""
    return all(check.ok for check in checks if check.decides)


def lag_seconds(counters: Counters, now: float) -> float:
    """Age of the oldest commit that is not acknowledged, 0 when there is none. `now` as of `time.time()`."""
    oldest = counters.oldest_unacknowledged_timestamp
    return 0.0 if oldest is None else max(0.0, now - oldest)


def known_lag(counters: Counters, now: float) -> float | None:
    """The same, to the millisecond, and None where this relay cannot know it: who does not stream knows of no commit, which
    is not the same as that there is none.
    """
    knows = _streams(counters) or counters.oldest_unacknowledged_timestamp is not None
    return round(lag_seconds(counters, now), 3) if knows else None


def slot_figures(counters: Counters, now: float) -> SlotCounters | None:
    """What is known of the slot at `now`, as of `time.time()`; None when the last look at it is too old to be told.

    Between two looks the stream itself tells how far the server and we are.
    """
    slot = counters.slot
    if slot is None or abs(now - slot.seen_timestamp) > SLOT_STALE_SECONDS:
        return None
    return replace(
        slot,
        active=slot.active and _streams(counters),
        current_lsn=max(slot.current_lsn, counters.received_lsn),
        confirmed_flush_lsn=max(slot.confirmed_flush_lsn or 0, counters.confirmed_lsn) or None,
    )


def status(counters: Counters, settings: Settings, now: float) -> StatusDocument:
    """The document of `/status`. None where the relay itself does not know: probes run no SQL.

    `confirmed_flush_lsn` is what this relay last claimed; the server's own is at most one status update behind.
    """
    streams = _streams(counters)
    document = StatusDocument(
        state=counters.state,
        slot=settings.slot,
        publication=settings.publication,
        tables=tuple(str(table) for table in settings.tables),
        slot_active=True if streams else None,
        confirmed_flush_lsn=format_lsn(counters.confirmed_lsn) if counters.confirmed_lsn else None,
        lag_seconds=known_lag(counters, now),
        in_flight_events=counters.in_flight_events,
        last_error=None if counters.last_error is None else mask(counters.last_error),
    )
    slot = slot_figures(counters, now)
    return document if slot is None else with_slot(document, slot)


def _streams(counters: Counters) -> bool:
    return counters.state in {State.STREAMING, State.DRAINING} and counters.postgres_connected


def _connected(component: str, *, connected: bool) -> Check:
    return Check(component, ok=connected, says="connected" if connected else "not connected", decides=False)
