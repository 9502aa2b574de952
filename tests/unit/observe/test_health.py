"""What alive and ready mean, and what the status document holds."""

from __future__ import annotations

import json

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State
from cdc_outbox.observe.health import (
    CONNECTING_SECONDS,
    SLOT_STALE_SECONDS,
    STUCK_AFTER_SECONDS,
    health,
    lag_seconds,
    liveness,
    passed,
    readiness,
    status,
)

SETTINGS = Settings(brokers="kafka:9092")
KEYS = [
    "state", "slot", "publication", "tables", "slot_active", "wal_status", "confirmed_flush_lsn", "restart_lsn",
    "current_lsn", "lag_bytes", "lag_seconds", "retained_wal_bytes", "safe_wal_bytes", "seconds_until_lost",
    "wal_bytes_per_second", "in_flight_events", "in_flight_bytes", "alive", "kafka_connected", "kafka_since",
    "kafka_error", "kafka_cure", "unconfirmed_seconds", "last_error", "last_error_code",
    "last_error_cure", "health", "reasons",
]  # fmt: skip


def test_a_loop_that_turns_is_alive_and_one_that_is_stuck_is_not() -> None:
    counters = Counters(state=State.STREAMING, last_turn_monotonic=100.0)

    assert passed(liveness(counters, 100.0 + STUCK_AFTER_SECONDS))
    assert not passed(liveness(counters, 100.1 + STUCK_AFTER_SECONDS))


def test_a_loop_that_turns_again_is_alive_again() -> None:
    counters = Counters(last_turn_monotonic=100.0)
    assert not passed(liveness(counters, 200.0))
    counters.last_turn_monotonic = 199.0
    assert passed(liveness(counters, 200.0))


def test_a_relay_that_is_still_starting_is_alive() -> None:
    assert passed(liveness(Counters(), 1e6))


def test_a_relay_that_connects_is_alive_while_it_makes_progress() -> None:
    """However long that takes: PostgreSQL may be down, a standby, or wait for a transaction."""
    counters = Counters(state=State.RECONNECTING, last_turn_monotonic=1.0)
    for now in range(100, 5000, int(CONNECTING_SECONDS)):
        counters.waits(float(now))
        assert passed(liveness(counters, now + CONNECTING_SECONDS))
    assert not passed(liveness(counters, now + CONNECTING_SECONDS + 0.1))


def test_a_loop_that_turns_ends_the_wait_for_progress() -> None:
    counters = Counters()
    counters.waits(100.0)
    counters.last_turn_monotonic = 1000.0
    assert passed(liveness(counters, 1000.0 + STUCK_AFTER_SECONDS))
    assert not passed(liveness(counters, 1000.1 + STUCK_AFTER_SECONDS))


def test_connecting_without_progress_is_named_in_the_judgement() -> None:
    counters = Counters(state=State.STARTING)
    counters.waits(100.0)
    found = health(counters, 0.0, 101.0 + CONNECTING_SECONDS)
    assert [reason.code for reason in found.reasons] == ["loop-stuck"]
    assert "connecting has made no progress for 180 s" in found.headline


def test_liveness_depends_neither_on_kafka_nor_on_postgres() -> None:
    assert passed(liveness(Counters(state=State.STARTING, last_turn_monotonic=1.0), 2.0))


@pytest.mark.parametrize(
    ("state", "ready"),
    [
        (State.STARTING, False),
        (State.STANDBY, True),
        (State.STREAMING, True),
        (State.RECONNECTING, False),
        (State.DRAINING, False),
        (State.STOPPED, False),
    ],
)
def test_streaming_and_standby_are_the_ready_states(state: State, ready: bool) -> None:
    assert passed(readiness(Counters(state=state), 0.0, 0.0)) is ready


def test_a_kafka_outage_alone_does_not_make_it_unready() -> None:
    counters = Counters(state=State.STREAMING, postgres_connected=True, kafka_connected=False, last_error="broker down")

    assert passed(readiness(counters, 0.0, 0.0))


def test_the_status_document_has_the_promised_keys_in_the_promised_order() -> None:
    assert list(status(Counters(), SETTINGS, 0.0, 0.0).members()) == KEYS


def test_what_is_not_known_yet_is_null() -> None:
    document = status(Counters(), SETTINGS, 0.0, 0.0).members()

    assert [name for name, value in document.items() if value is not None] == [
        "state", "slot", "publication", "tables", "in_flight_events", "in_flight_bytes", "alive", "kafka_connected",
        "unconfirmed_seconds", "health", "reasons",
    ]  # fmt: skip


def test_the_status_of_a_streaming_relay() -> None:
    counters = Counters(
        state=State.STREAMING,
        postgres_connected=True,
        confirmed_lsn=0x16B3748,
        oldest_unacknowledged_timestamp=100.0,
        in_flight_events=5,
        last_error="cannot reach postgresql://relay:s3cr3t@db/shop",
    )
    document = status(counters, SETTINGS, 101.5, 0.0).members()

    assert document["slot_active"] is True
    assert document["confirmed_flush_lsn"] == "0/16B3748"
    assert document["lag_seconds"] == 1.5
    assert document["in_flight_events"] == 5
    assert document["tables"] == ("public.outbox",)
    assert document["last_error"] == "cannot reach postgresql://relay:***@db/shop"
    json.dumps(document)


def test_lag_is_0_when_nothing_waits() -> None:
    assert lag_seconds(Counters(), 1e9) == 0


MIB = 1 << 20
LOOK = SlotCounters(
    active=True,
    wal_status="extended",
    current_lsn=100 * MIB,
    restart_lsn=40 * MIB,
    confirmed_flush_lsn=90 * MIB,
    safe_wal_bytes=600 * MIB,
    seen_timestamp=1000.0,
    wal_bytes_per_second=2.0 * MIB,
)


def test_the_last_look_at_the_slot_fills_the_rest_of_the_document() -> None:
    document = status(Counters(state=State.STREAMING, postgres_connected=True, slot=LOOK), SETTINGS, 1010.0, 0.0)

    assert document.slot_active is True
    assert document.wal_status == "extended"
    assert document.current_lsn == "0/6400000"
    assert document.restart_lsn == "0/2800000"
    assert document.confirmed_flush_lsn == "0/5A00000"
    assert document.lag_bytes == 10 * MIB
    assert document.retained_wal_bytes == 60 * MIB
    assert document.safe_wal_bytes == 600 * MIB
    assert document.seconds_until_lost == 300.0


def test_between_two_reads_the_positions_come_from_the_stream() -> None:
    counters = Counters(
        state=State.STREAMING, postgres_connected=True, slot=LOOK, received_lsn=110 * MIB, confirmed_lsn=109 * MIB
    )
    document = status(counters, SETTINGS, 1010.0, 0.0)

    assert (document.current_lsn, document.confirmed_flush_lsn) == ("0/6E00000", "0/6D00000")
    assert document.lag_bytes == MIB


def test_a_read_that_is_too_old_is_not_reported() -> None:
    counters = Counters(state=State.STARTING, slot=LOOK)

    assert status(counters, SETTINGS, 1000.0 + SLOT_STALE_SECONDS, 0.0).wal_status == "extended"
    assert status(counters, SETTINGS, 1000.1 + SLOT_STALE_SECONDS, 0.0).wal_status is None


def test_after_the_connection_is_lost_it_is_unknown_whether_the_slot_is_active() -> None:
    assert status(Counters(state=State.STARTING, slot=LOOK), SETTINGS, 1010.0, 0.0).slot_active is False


def test_a_standby_does_not_claim_that_nothing_is_late() -> None:
    assert status(Counters(state=State.STANDBY, postgres_connected=True), SETTINGS, 0.0, 0.0).lag_seconds is None
    assert status(Counters(state=State.STREAMING, postgres_connected=True), SETTINGS, 0.0, 0.0).lag_seconds == 0.0


def test_after_the_connection_is_lost_the_lag_goes_on_growing() -> None:
    counters = Counters(state=State.STARTING, oldest_unacknowledged_timestamp=100.0)

    assert status(counters, SETTINGS, 160.0, 0.0).lag_seconds == 60.0
