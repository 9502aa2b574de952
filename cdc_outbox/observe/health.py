"""Liveness, readiness and the status document of a relay, and the judgement of health that every view shows.

In: `Counters`, `Settings`, and the clocks as arguments. Out: checks, the document, and `Health` of a document.
Never: SQL, a socket. Liveness depends neither on Kafka nor on PostgreSQL: a restart cures neither, and each one makes
duplicates. Readiness does not depend on Kafka: a native sidecar's readiness is the whole pod's, and a broker outage
must not take the application out of service.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from cdc_outbox.config.cures import complete
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State
from cdc_outbox.lsn import format_lsn
from cdc_outbox.observe.mask import mask
from cdc_outbox.observe.status_document import Reason, StatusDocument, with_slot

STUCK_AFTER_SECONDS: Final = 30.0
"""Seconds. The loop turns several times a second, also while it waits; half a minute without a turn is a hang."""

CONNECTING_SECONDS: Final = 180.0
"""Seconds without progress while no loop runs. The longest step with a deadline is a preflight: 60 s, and 10 s for each
address that does not answer. Steps without one (the creation of a slot, the rows of a first start) show every 30 s that the
server works on them."""

SLOT_STALE_SECONDS: Final = 90.0
"""Seconds. The slot is read every 30 s; after three failed reads the last figures are out of date."""

UNCONFIRMED_SECONDS: Final = 5.0
"""A broker confirms within milliseconds; a leader that changes takes about as long as this."""

ENDANGERED_SECONDS: Final = 3600.0
"""Seconds: one hour, enough time for an operator to react to a page."""

BEHIND_SECONDS: Final = 120.0
"""Seconds of WAL that a slot keeps at most while its relay keeps up. PostgreSQL logs running transactions, which move
restart_lsn, every 15 s; the relay confirms at once and looks at the slot every 30 s. The rest is margin."""

OK: Final = "ok"
WARNING: Final = "warning"
CRITICAL: Final = "critical"
LEVELS: Final = (OK, WARNING, CRITICAL)
"""Of health, from good to worst."""

READY_STATES: Final = (State.STREAMING, State.STANDBY)

_SERVING_STATES: Final = (State.STARTING, State.STREAMING, State.DRAINING)
"""States in which delivery reports are served."""

_NOTHING_LOST: Final = "events wait in PostgreSQL, none is lost, and the relay goes on by itself"

_LOOK_AT_KAFKA: Final = "look at the brokers"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of `?verbose`. `decides` is False for a line that is shown only."""

    name: str
    ok: bool
    text: str
    decides: bool = True


def liveness(counters: Counters, monotonic: float) -> list[Check]:
    """Whether the loop has turned recently. While no loop runs, the relay waits for a server, which may take long: a slot
    begins when all open transactions have ended, and the rows of a large table are sorted before the first one arrives. Then
    it shows that the server works on that, that another attempt begins, or that another relay has the slot.
    """
    turned_at = counters.last_turn_monotonic
    if turned_at is None:
        age = monotonic - (counters.waits_since_monotonic or monotonic)
        text = f"not running: connecting, or waiting for PostgreSQL; last progress {age:.1f} s ago"
        return [Check("loop", ok=age <= CONNECTING_SECONDS, text=text)]
    age = max(0.0, monotonic - turned_at)
    return [Check("loop", ok=age <= STUCK_AFTER_SECONDS, text=f"turned {age:.1f} s ago")]


def readiness(counters: Counters, now: float, monotonic: float) -> list[Check]:
    """Whether the relay streams, or stands by for the one that does. Health is shown, and does not affect the result."""
    state, found = counters.state, health(counters, now, monotonic)
    return [
        Check("state", ok=state in READY_STATES, text=state),
        _connected("postgres", connected=counters.postgres_connected),
        _connected("kafka", connected=counters.kafka_connected),
        Check("last_error", ok=counters.last_error is None, text=mask(counters.last_error or "none"), decides=False),
        Check("health", ok=found.level == OK, text=f"{found.level}: {found.headline}", decides=False),
    ]


def passed(checks: list[Check]) -> bool:
    """Whether all deciding checks are ok."""
    return all(check.ok for check in checks if check.decides)


def lag_seconds(counters: Counters, now: float) -> float:
    """Age of the oldest commit that is not acknowledged, 0 when there is none. `now` as of `time.time()`."""
    oldest = counters.oldest_unacknowledged_timestamp
    return 0.0 if oldest is None else max(0.0, now - oldest)


def known_lag(counters: Counters, now: float) -> float | None:
    """The lag in seconds, rounded to milliseconds; None if it is unknown: a relay that does not stream sees no commits."""
    knows = _streams(counters) or counters.oldest_unacknowledged_timestamp is not None
    return round(lag_seconds(counters, now), 3) if knows else None


def slot_figures(counters: Counters, now: float) -> SlotCounters | None:
    """What is known of the slot at `now`, as of `time.time()`; None if the last read is out of date.

    Between two reads, the positions come from the stream.
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


def status(counters: Counters, settings: Settings, now: float, monotonic: float) -> StatusDocument:
    """The document of `/status`, judged. None where the relay has no figure: probes run no SQL.

    `confirmed_flush_lsn` is the relay's last acknowledgement; the server's is at most one status update behind. `now` as of
    `time.time()`, `monotonic` as of `time.monotonic()`.
    """
    document = replace(
        _document(counters, now, monotonic),
        slot=settings.slot,
        publication=settings.publication,
        tables=tuple(str(table) for table in settings.tables),
    )
    return judged(document, partial(complete, settings=settings))


def _document(counters: Counters, now: float, monotonic: float) -> StatusDocument:
    """The document from the counters alone, without the names of the settings and without a judgement."""
    document = StatusDocument(
        state=counters.state,
        slot="",
        publication="",
        tables=(),
        slot_active=True if _streams(counters) else None,
        confirmed_flush_lsn=format_lsn(counters.confirmed_lsn) if counters.confirmed_lsn else None,
        lag_seconds=known_lag(counters, now),
        in_flight_events=counters.in_flight_events,
        in_flight_bytes=counters.in_flight_bytes,
        alive=passed(liveness(counters, monotonic)),
        kafka_connected=counters.kafka_connected,
        kafka_since=utc(counters.kafka_since_timestamp),
        kafka_error=_masked(counters.kafka_error),
        kafka_cure=_masked(counters.kafka_cure),
        unconfirmed_seconds=unconfirmed_seconds(counters, monotonic),
        last_error=_masked(counters.last_error),
        last_error_code=counters.last_error_code,
        last_error_cure=_masked(counters.last_error_cure),
    )
    slot = slot_figures(counters, now)
    return document if slot is None else with_slot(document, slot)


def unconfirmed_seconds(counters: Counters, monotonic: float) -> float | None:
    """For how long Kafka has confirmed nothing while records are in flight, 0 when none is; None while no loop serves its
    delivery reports: it is not known then what Kafka has confirmed.
    """
    if counters.state not in _SERVING_STATES:
        return None
    since = counters.unconfirmed_since_monotonic
    return 0.0 if since is None else round(max(0.0, monotonic - since), 1)


def health(counters: Counters, now: float, monotonic: float) -> Health:
    """The judgement of a running relay."""
    return judge(_document(counters, now, monotonic))


@dataclass(frozen=True, slots=True)
class Health:
    """A judgement. `headline`: the worst reason, or else what the relay does, as one sentence."""

    level: str
    headline: str
    reasons: tuple[Reason, ...]


def judged(document: StatusDocument, complete: Callable[[str], str]) -> StatusDocument:
    """The document with its own judgement in it. `complete`: completes the commands in a cure."""
    found = judge(document)
    reasons = tuple(replace(reason, cure=complete(reason.cure)) for reason in found.reasons)
    return replace(document, health=found.level, reasons=reasons)


def judge(document: StatusDocument) -> Health:
    """Judge the health. An unknown value is no reason against it."""
    found = [reason for rule in _RULES if (reason := rule(document)) is not None]
    reasons = tuple(sorted(found, key=lambda reason: LEVELS.index(reason.level), reverse=True))
    if reasons:
        return Health(reasons[0].level, reasons[0].text, reasons)
    return Health(OK, _DOING.get(document.state or "", "No relay answers"), ())


_DOING: Final[dict[str, str]] = {
    State.STARTING: "Connecting, or sending the rows that the table already has",
    State.STANDBY: "Another relay streams from the slot; this one takes over when that one ends",
    State.STREAMING: "Rows become records as they are committed",
    State.RECONNECTING: "Connecting to PostgreSQL again",
    State.DRAINING: "A stop was requested; what is in flight is being delivered",
    State.STOPPED: "The relay has ended",
}
"""Headlines of a healthy relay by state."""


def _stuck(document: StatusDocument) -> Reason | None:
    if document.alive is not False:
        return None
    text = f"The loop has not turned for more than {STUCK_AFTER_SECONDS:.0f} s"
    if document.state in {State.STARTING, State.STANDBY, State.RECONNECTING}:
        text += f", or connecting has made no progress for {CONNECTING_SECONDS:.0f} s"
    return Reason("loop-stuck", CRITICAL, text, "restart the relay: what is not confirmed is sent again")


def _slot_lost(document: StatusDocument) -> Reason | None:
    if document.wal_status != "lost":
        return None
    text = "The slot is lost: PostgreSQL has removed WAL that it needed"
    return Reason("slot-lost", CRITICAL, text, "cdc-outbox slot recover")


def _slot_unreserved(document: StatusDocument) -> Reason | None:
    if document.wal_status != "unreserved":
        return None
    text = "The slot is lost at the next checkpoint: it keeps more WAL than max_slot_wal_keep_size allows"
    return Reason("slot-unreserved", CRITICAL, text, _buy_time(document))


def _slot_endangered(document: StatusDocument) -> Reason | None:
    left = document.seconds_until_lost
    if (
        left is None
        or left >= ENDANGERED_SECONDS
        or document.wal_status in {"lost", "unreserved"}
        or _keeps_up(document)
    ):
        return None
    text = f"The slot is lost in {left / 60:.0f} min if it stands still, at the present rate of WAL"
    return Reason("slot-endangered", CRITICAL, text, _buy_time(document))


def _keeps_up(document: StatusDocument) -> bool:
    """Whether the slot keeps only recent WAL, and less than half of its limit.

    Then a short time until the slot is lost is the choice of a small limit, and no incident. An open transaction holds
    `restart_lsn` back also while all events are confirmed, so neither the flush LSN nor the lag can answer this.
    """
    kept, rate, safe = document.retained_wal_bytes, document.wal_bytes_per_second, document.safe_wal_bytes
    if kept is None or not rate or safe is None:
        return True
    return kept <= min(BEHIND_SECONDS * rate, safe)


def _buy_time(document: StatusDocument) -> str:
    """SQL that doubles the limit of WAL kept for slots."""
    kept = (document.retained_wal_bytes or 0) + max(0, document.safe_wal_bytes or 0)
    megabytes = max(64, 2 * kept >> 20)
    return (
        "correct what blocks the relay; this SQL buys time, if the disk has room: "
        f"ALTER SYSTEM SET max_slot_wal_keep_size = '{megabytes}MB'; SELECT pg_reload_conf();"
    )


def _kafka_unconfirmed(document: StatusDocument) -> Reason | None:
    seconds = document.unconfirmed_seconds
    if not seconds or seconds < UNCONFIRMED_SECONDS or document.kafka_connected is False:
        return None
    error = f"; the last error was: {document.kafka_error}" if document.kafka_error else ""
    text = f"Kafka has {_nothing_confirmed(document, seconds)}{error}"
    return Reason("kafka-unconfirmed", WARNING, text, _and_nothing_is_lost(document.kafka_cure or _LOOK_AT_KAFKA))


def _nothing_confirmed(document: StatusDocument, seconds: float) -> str:
    count = document.in_flight_events or 0
    return f"confirmed nothing for {seconds:.0f} s, with {count:,} event{'' if count == 1 else 's'} in flight"


def _kafka_unreachable(document: StatusDocument) -> Reason | None:
    seconds = document.unconfirmed_seconds
    if document.kafka_connected is not False or not (seconds or document.state in {State.STREAMING, State.DRAINING}):
        return None
    error = f": {document.kafka_error}" if document.kafka_error else ""
    waits = f"; it has {_nothing_confirmed(document, seconds)}" if seconds and seconds >= 1 else ""
    text = f"Kafka does not answer{error}{waits}"
    return Reason("kafka-unreachable", WARNING, text, _and_nothing_is_lost(document.kafka_cure or _LOOK_AT_KAFKA))


def _and_nothing_is_lost(cure: str | None) -> str:
    return f"{cure}; {_NOTHING_LOST}" if cure else _NOTHING_LOST


def _not_streaming(document: StatusDocument) -> Reason | None:
    error = f": {document.last_error}" if document.last_error else ""
    if document.state == State.RECONNECTING:
        text = f"The connection to PostgreSQL was lost{error}"
        return Reason("postgres-disconnected", WARNING, text, _and_nothing_is_lost(document.last_error_cure))
    if document.state == State.STARTING and document.last_error:
        return Reason("not-started", WARNING, f"The relay has not streamed yet{error}", document.last_error_cure or "")
    if document.state == State.STOPPED and document.last_error:
        cure = document.last_error_cure or "correct the cause, then start the relay: cdc-outbox run"
        return Reason("stopped", CRITICAL, f"The relay has ended{error}", cure)
    return None


def _slot_unused(document: StatusDocument) -> Reason | None:
    if document.state is not None or document.slot_active is not False or document.wal_status == "lost":
        return None
    text = "No relay streams from the slot, and PostgreSQL keeps WAL for it"
    cure = "start the relay; if none is needed any more: cdc-outbox slot drop"
    return Reason("slot-unused", WARNING, text, cure)


_RULES: Final[tuple[Callable[[StatusDocument], Reason | None], ...]] = (
    _stuck,
    _slot_lost,
    _slot_unreserved,
    _slot_endangered,
    _not_streaming,
    _kafka_unconfirmed,
    _kafka_unreachable,
    _slot_unused,
)
"""The first reason of the worst level is the headline. PostgreSQL comes first: its problems cause those of Kafka."""


def utc(timestamp: float | None) -> str | None:
    """Unix time as ISO 8601 in UTC, to the second."""
    return None if timestamp is None else datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _masked(text: str | None) -> str | None:
    return None if text is None else mask(text)


def _streams(counters: Counters) -> bool:
    return counters.state in {"streaming", "draining"} and counters.postgres_connected


def _connected(component: str, *, connected: bool) -> Check:
    return Check(component, ok=connected, text="connected" if connected else "not connected", decides=False)
