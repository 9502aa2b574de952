"""A slot in danger is one log event with a cure, and one more when the danger is over."""

from __future__ import annotations

from dataclasses import replace

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State
from cdc_outbox.observe.slot_alarm import CALM_SECONDS, SlotAlarm

from .conftest import Lines

SETTINGS = Settings(brokers="kafka:9092", slot="orders")
NOW = 1_700_000_000.0
MIB = 1 << 20
WELL = SlotCounters(
    active=True,
    wal_status="reserved",
    current_lsn=200 * MIB,
    restart_lsn=40 * MIB,
    confirmed_flush_lsn=90 * MIB,
    safe_wal_bytes=600 * MIB,
    seen_timestamp=NOW,
    wal_bytes_per_second=1.0,
)


def test_each_danger_is_logged_once_with_its_sql_and_its_end_after_a_calm_minute(json_lines: Lines) -> None:
    counters = Counters(state=State.STREAMING, postgres_connected=True, kafka_connected=True, slot=WELL)
    alarm = SlotAlarm(counters, SETTINGS, wall=lambda: NOW)
    second = 0.0

    def pass_seconds(count: float, **slot: object) -> None:
        nonlocal second
        counters.slot = replace(WELL, **slot)  # type: ignore[arg-type]
        until = second + count
        while second < until:
            second += 1
            alarm.tick(second)

    pass_seconds(10)
    pass_seconds(30, wal_bytes_per_second=1.0 * MIB)
    pass_seconds(CALM_SECONDS / 2)
    pass_seconds(10, wal_bytes_per_second=1.0 * MIB)
    pass_seconds(10, wal_status="unreserved", safe_wal_bytes=-1)
    pass_seconds(10, wal_status="lost", safe_wal_bytes=None)
    pass_seconds(2 * CALM_SECONDS)

    endangered, unreserved, lost, safe = json_lines()
    assert (lost["code"], lost["cure"]) == ("slot-lost", "cdc-outbox slot recover --slot orders")
    assert (endangered["event"], endangered["level"], endangered["code"]) == (
        "slot.endangered",
        "error",
        "slot-endangered",
    )
    assert endangered["error"] == "The slot is lost in 10 min if it stands still, at the present rate of WAL"
    assert endangered["cure"].endswith("max_slot_wal_keep_size = '1520MB'; SELECT pg_reload_conf();")
    assert unreserved["code"] == "slot-unreserved"
    assert (safe["event"], safe["level"], safe["seconds"]) == ("slot.safe", "info", 90)


def test_a_slot_that_is_not_known_is_in_no_danger(json_lines: Lines) -> None:
    alarm = SlotAlarm(Counters(), SETTINGS)
    alarm.tick(1.0)

    assert json_lines() == []
