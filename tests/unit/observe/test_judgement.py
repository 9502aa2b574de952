"""One judgement of health: what makes a relay warn, what is critical, and every screen shows the same."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State
from cdc_outbox.observe import Versions
from cdc_outbox.observe.health import (
    BEHIND_SECONDS,
    CRITICAL,
    ENDANGERED_SECONDS,
    OK,
    STUCK_AFTER_SECONDS,
    UNCONFIRMED_SECONDS,
    WARNING,
    judge,
    status,
)
from cdc_outbox.observe.history import History
from cdc_outbox.observe.http import Views
from cdc_outbox.observe.metrics import build_registry
from cdc_outbox.observe.status_document import StatusDocument
from cdc_outbox.observe.summary import Summary
from cdc_outbox.observe.systemd import Systemd
from cdc_outbox.shutdown import Stop

from .conftest import Lines

SETTINGS = Settings(brokers="kafka:9092", slot="orders")
NOW, MONOTONIC = 1_700_000_000.0, 500.0
MIB = 1 << 20
WELL = Counters(state=State.STREAMING, postgres_connected=True, kafka_connected=True, last_turn_monotonic=MONOTONIC)
SLOT = SlotCounters(
    active=True,
    wal_status="reserved",
    current_lsn=100 * MIB,
    restart_lsn=40 * MIB,
    confirmed_flush_lsn=90 * MIB,
    safe_wal_bytes=40 * MIB,
    seen_timestamp=NOW,
    wal_bytes_per_second=MIB / 1024,
)


def changed(**changes: object) -> Counters:
    return replace(WELL, **changes)  # type: ignore[arg-type]


def at_rate(seconds: float) -> SlotCounters:
    """A slot that is lost after these seconds if it stands still."""
    return replace(SLOT, wal_bytes_per_second=40 * MIB / seconds)


def keeps(seconds: float, *, safe_seconds: float = 600.0) -> SlotCounters:
    """A slot that keeps the WAL of the last `seconds`, and is lost `safe_seconds` later if it stands still."""
    kept = int(seconds * MIB)
    return replace(
        SLOT,
        current_lsn=1000 * MIB,
        restart_lsn=1000 * MIB - kept,
        confirmed_flush_lsn=1000 * MIB,
        safe_wal_bytes=int(safe_seconds * MIB),
        wal_bytes_per_second=float(MIB),
    )


UNCONFIRMED = {"in_flight_events": 7, "unconfirmed_since_monotonic": MONOTONIC - UNCONFIRMED_SECONDS}


@pytest.mark.parametrize(
    ("counters", "level", "codes"),
    [
        (WELL, OK, []),
        (changed(state=State.STARTING, kafka_connected=False), OK, []),
        (changed(state=State.STANDBY, kafka_connected=False), OK, []),
        (changed(state=State.DRAINING), OK, []),
        (changed(slot=SLOT), OK, []),
        (changed(slot=replace(SLOT, wal_bytes_per_second=None)), OK, []),
        (changed(slot=replace(SLOT, wal_status="extended")), OK, []),
        (changed(**UNCONFIRMED), WARNING, ["kafka-unconfirmed"]),
        (changed(**{**UNCONFIRMED, "unconfirmed_since_monotonic": MONOTONIC - 4.9}), OK, []),
        (changed(state=State.STARTING, **UNCONFIRMED), WARNING, ["kafka-unconfirmed"]),
        (changed(state=State.DRAINING, **UNCONFIRMED), WARNING, ["kafka-unconfirmed"]),
        (changed(kafka_connected=False, kafka_error="refused"), WARNING, ["kafka-unreachable"]),
        (changed(state=State.RECONNECTING, **UNCONFIRMED), WARNING, ["postgres-disconnected"]),
        (changed(state=State.STARTING, last_error="no route"), WARNING, ["not-started"]),
        (changed(state=State.STOPPED, last_error="the table is gone"), CRITICAL, ["stopped"]),
        (changed(slot=at_rate(ENDANGERED_SECONDS - 1)), CRITICAL, ["slot-endangered"]),
        (changed(slot=at_rate(ENDANGERED_SECONDS)), OK, []),
        (changed(slot=keeps(BEHIND_SECONDS)), OK, []),
        (changed(slot=keeps(BEHIND_SECONDS + 1)), CRITICAL, ["slot-endangered"]),
        (changed(slot=keeps(61.0, safe_seconds=60.0)), CRITICAL, ["slot-endangered"]),
        (changed(slot=keeps(60.0, safe_seconds=60.0)), OK, []),
        (changed(slot=replace(SLOT, wal_status="unreserved", safe_wal_bytes=-1)), CRITICAL, ["slot-unreserved"]),
        (changed(slot=replace(SLOT, wal_status="lost", safe_wal_bytes=None)), CRITICAL, ["slot-lost"]),
        (changed(last_turn_monotonic=MONOTONIC - STUCK_AFTER_SECONDS - 1), CRITICAL, ["loop-stuck"]),
        (
            changed(slot=at_rate(60.0), kafka_connected=False, **UNCONFIRMED),
            CRITICAL,
            ["slot-endangered", "kafka-unreachable"],
        ),
    ],
)
def test_each_condition_has_its_level_and_reason(counters: Counters, level: str, codes: list[str]) -> None:
    document = status(counters, SETTINGS, NOW, MONOTONIC)

    assert (document.health, [reason.code for reason in document.reasons]) == (level, codes)
    assert judge(document).headline == (document.reasons[0].text if codes else judge(document).headline)
    assert [reason.level for reason in document.reasons] == sorted(
        (reason.level for reason in document.reasons), key=[CRITICAL, WARNING].index
    )


def test_a_slot_in_danger_names_the_sql_that_doubles_what_it_may_keep() -> None:
    [reason] = status(changed(slot=at_rate(600.0)), SETTINGS, NOW, MONOTONIC).reasons

    assert reason.text == "The slot is lost in 10 min if it stands still, at the present rate of WAL"
    assert reason.cure.endswith("ALTER SYSTEM SET max_slot_wal_keep_size = '200MB'; SELECT pg_reload_conf();")


@pytest.mark.parametrize(("seconds", "shown"), [(0.4, False), (1.0, True)])
def test_the_headline_of_an_unreachable_kafka_has_the_time_from_one_second_on(seconds: float, *, shown: bool) -> None:
    waiting = {"in_flight_events": 1, "unconfirmed_since_monotonic": MONOTONIC - seconds}
    [reason] = status(changed(kafka_connected=False, **waiting), SETTINGS, NOW, MONOTONIC).reasons

    assert ("confirmed nothing for 1 s" in reason.text) is shown


def test_an_unused_slot_is_a_warning_only_where_no_relay_answers() -> None:
    document = StatusDocument(None, "orders", "orders", (), slot_active=False, wal_status="reserved")

    assert [reason.code for reason in judge(document).reasons] == ["slot-unused"]
    assert judge(replace(document, state="standby")).reasons == ()
    assert judge(replace(document, slot_active=True)).reasons == ()


def test_secrets_are_masked_in_the_reasons() -> None:
    counters = changed(state=State.RECONNECTING, last_error="no answer from postgresql://relay:s3cr3t@db/shop")

    assert "s3cr3t" not in json.dumps(status(counters, SETTINGS, NOW, MONOTONIC).members())


@pytest.mark.parametrize(
    "counters",
    [
        changed(in_flight_events=7, unconfirmed_since_monotonic=MONOTONIC - 35.0),
        changed(slot=replace(SLOT, wal_status="unreserved")),
        changed(state=State.RECONNECTING, postgres_connected=False, last_error="the server closed the connection"),
    ],
)
def test_every_screen_shows_the_same_judgement(counters: Counters, json_lines: Lines) -> None:
    [reason, *_] = status(counters, SETTINGS, NOW, MONOTONIC).reasons
    registry = build_registry(counters, Versions("1", "3", "2", "18"), clock=lambda: NOW, monotonic=lambda: MONOTONIC)
    views = Views(counters, SETTINGS, registry, History(counters), monotonic=lambda: MONOTONIC, wall=lambda: NOW)
    document = json.loads(views.answer("/status", "")[2])
    page = json.loads(views.answer("/page.json", "")[2])
    Summary(counters, monotonic=lambda: MONOTONIC, wall=lambda: NOW).log_now()
    unit: list[str] = []
    Systemd(counters, Stop(), lambda message: not unit.append(message), wall=lambda: NOW).tick(MONOTONIC)

    assert (document["health"], document["reasons"][0]["text"]) == (reason.level, reason.text)
    assert (page["status"]["health"], page["headline"]) == (reason.level, reason.text)
    assert f"[i] health: {reason.level}: {reason.text}" in views.answer("/readyz?verbose", "")[2].decode().splitlines()
    assert [(line["health"], line["problem"]) for line in json_lines()] == [(reason.level, reason.text)]
    assert unit[-1].startswith(f"STATUS={reason.level}: {reason.text}; ")
    assert health_metric(views.answer("/metrics", "")[2].decode()) == reason.level


def health_metric(text: str) -> str:
    """The level whose sample is 1."""
    [family] = [each for each in text_string_to_metric_families(text) if each.name == "cdc_outbox_health"]
    [level] = [sample.labels["level"] for sample in family.samples if sample.value == 1]
    return level
