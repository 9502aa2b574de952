"""What a relay can say about itself without asking anybody: alive, ready, and the status document.

In: `Counters`, `Settings`, and the clock as an argument. Out: judgements and plain dictionaries.
Never: SQL, a socket. Liveness depends neither on Kafka nor on PostgreSQL: a restart cures neither, and each one makes
duplicates. Readiness does not depend on Kafka: a native sidecar's readiness is the whole pod's, and a broker outage
must not take the application out of service.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc_outbox.config import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.lsn import format_lsn
from cdc_outbox.observe.mask import mask

STUCK_AFTER_SECONDS: Final = 30.0
"""The loop turns several times a second, also while it waits; half a minute without a turn is a hang, not a pause."""

READY_STATES: Final = ("streaming", "standby")


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `?verbose`. `decides` is False for what is only worth knowing."""

    name: str
    ok: bool
    says: str
    decides: bool = True


def liveness(counters: Counters, monotonic: float) -> list[Check]:
    """Whether the loop has turned lately. Before its first turn the relay is starting, and that may take its time."""
    turned_at = counters.last_turn_monotonic
    if turned_at is None:
        return [Check("loop", ok=True, says="has not begun to turn yet")]
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


def status(counters: Counters, settings: Settings, now: float) -> dict[str, object]:
    """The document of `/status` and `status --json`. None where the relay itself does not know; LSNs as text.

    `confirmed_flush_lsn` is what this relay last claimed; the server's own is at most one status update behind.
    What only a query tells (`wal_status`, retained WAL, …) is None here: probes run no SQL.
    """
    streaming = counters.state in {"streaming", "draining"} and counters.postgres_connected
    return {
        "state": counters.state,
        "slot": settings.slot,
        "publication": settings.publication,
        "tables": [str(table) for table in settings.tables],
        "slot_active": True if streaming else None,
        "wal_status": None,
        "confirmed_flush_lsn": _lsn(counters.confirmed_lsn),
        "restart_lsn": None,
        "current_lsn": None,
        "lag_bytes": None,
        "lag_seconds": round(lag_seconds(counters, now), 3),
        "retained_wal_bytes": None,
        "safe_wal_bytes": None,
        "seconds_until_lost": None,
        "in_flight_events": counters.in_flight_events,
        "last_error": None if counters.last_error is None else mask(counters.last_error),
    }


def _connected(component: str, *, connected: bool) -> Check:
    return Check(component, ok=connected, says="connected" if connected else "not connected", decides=False)


def _lsn(lsn: int) -> str | None:
    return format_lsn(lsn) if lsn else None
