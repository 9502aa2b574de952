"""One reading of a whole backlog, in figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Drained:
    """What one contender made of one backlog."""

    contender: str
    per_transaction: int
    topics: int
    rows: int
    rows_per_second: float
    """Between the broker's timestamps of the first and the last record."""
    cpu_microseconds_per_row: float
    """All threads, between the same moments."""
    cpu_microseconds_per_row_with_start: float
    """All threads, from the start of the process."""
    server_cpu_microseconds_per_row: float
    """PostgreSQL, all its processes."""
    peak_rss_megabytes: float
    first_record_seconds: float
    """From the start of the process to the first record at the broker."""
    sent_twice: int
    confirmed_seconds: float | None
    """From the last record's arrival being seen to the slot's confirmed position behind the backlog; None: not seen in time."""
