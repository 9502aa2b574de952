"""The status document: the answer of `/status` and the output of `cdc-outbox status --json`.

In: the facts about the slot (`SlotCounters`) and the relay. Out: `StatusDocument`, and its members in their order.
Never: an estimate: an unknown value is None.

docs/reference/status.md documents names, types and meanings. A member may be added; none is removed or changes its meaning.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from cdc_outbox.counters import SlotCounters
from cdc_outbox.lsn import format_lsn


@dataclass(frozen=True, slots=True)
class Reason:
    """Why health is not `ok`."""

    code: str
    """A stable name, in small letters and hyphens."""
    level: str
    """`warning` or `critical`."""
    text: str
    """A sentence."""
    cure: str
    """What to do; empty if the relay recovers by itself."""


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """The status at one moment. Sizes in bytes, times in seconds, LSNs as PostgreSQL writes them; None if unknown."""

    state: str | None
    slot: str
    publication: str
    tables: tuple[str, ...]
    slot_active: bool | None = None
    wal_status: str | None = None
    confirmed_flush_lsn: str | None = None
    restart_lsn: str | None = None
    current_lsn: str | None = None
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    retained_wal_bytes: int | None = None
    safe_wal_bytes: int | None = None
    seconds_until_lost: float | None = None
    wal_bytes_per_second: float | None = None
    in_flight_events: int | None = None
    in_flight_bytes: int | None = None
    alive: bool | None = None
    kafka_connected: bool | None = None
    kafka_since: str | None = None
    kafka_error: str | None = None
    kafka_cure: str | None = None
    unconfirmed_seconds: float | None = None
    last_error: str | None = None
    last_error_code: str | None = None
    last_error_cure: str | None = None
    health: str | None = None
    reasons: tuple[Reason, ...] = ()

    def members(self) -> dict[str, object]:
        """Return the members in their order, for JSON."""
        return asdict(self)


def with_slot(document: StatusDocument, slot: SlotCounters) -> StatusDocument:
    """Return the document with the facts about the slot."""
    return replace(
        document,
        slot_active=slot.active,
        wal_status=slot.wal_status,
        confirmed_flush_lsn=_text(slot.confirmed_flush_lsn),
        restart_lsn=_text(slot.restart_lsn),
        current_lsn=_text(slot.current_lsn),
        lag_bytes=slot.lag_bytes,
        retained_wal_bytes=slot.retained_wal_bytes,
        safe_wal_bytes=slot.safe_wal_bytes,
        seconds_until_lost=seconds_until_lost(slot.safe_wal_bytes, slot.wal_bytes_per_second),
        wal_bytes_per_second=slot.wal_bytes_per_second and round(slot.wal_bytes_per_second, 1),
    )


def seconds_until_lost(safe_wal_bytes: int | None, wal_bytes_per_second: float | None) -> float | None:
    """Seconds until a slot that does not advance is lost, at the present rate of WAL.

    None when the server sets no limit (max_slot_wal_keep_size), the rate is not known, or nothing is written.
    """
    if safe_wal_bytes is None or not wal_bytes_per_second:
        return None
    return round(max(0, safe_wal_bytes) / wal_bytes_per_second, 1)


def _text(lsn: int | None) -> str | None:
    return format_lsn(lsn) if lsn else None
