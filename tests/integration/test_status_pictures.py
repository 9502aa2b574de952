"""The status page of a slot in danger, with set figures, as a picture in docs/images and compared by its text.

The other situations are those of a real relay, in tests/faults/test_status_pictures.py.
`CDC_OUTBOX_PICTURES=write` with this test writes pictures and texts anew; look at them before they are committed.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State, TopicCounters
from cdc_outbox.observe import Versions, http, logs
from cdc_outbox.observe.history import SAMPLE_SECONDS, History
from cdc_outbox.observe.metrics import build_registry
from cdc_outbox.observe.recent import RecentWarnings

if TYPE_CHECKING:
    from tests.plugins.browser import Browser

IMAGES: Final = Path(__file__).parents[2] / "docs" / "images"
WIDTH: Final = 1100
SHOWN: Final = "document.querySelector('#facts dd')"
SETTINGS: Final = Settings(brokers="kafka-0.shop:9092,kafka-1.shop:9092", slot="shop_orders", publication="shop_orders")
NOW: Final = 1_767_605_400.0
"""2026-01-05 09:30 UTC."""

MIB: Final = 1 << 20
GIB: Final = 1 << 30
SLOT: Final = SlotCounters(
    active=True,
    wal_status="reserved",
    current_lsn=200 * GIB,
    restart_lsn=200 * GIB - 48 * MIB,
    confirmed_flush_lsn=200 * GIB - 312,
    safe_wal_bytes=100 * GIB,
    seen_timestamp=NOW,
    wal_bytes_per_second=2.0 * MIB,
)
FROZEN: Final = {
    "in_flight_events": 4_120,
    "in_flight_bytes": 3 * MIB,
    "unconfirmed_since_monotonic": -35.0,
    "oldest_unacknowledged_timestamp": NOW - 35.0,
}
REFUSED: Final = "kafka-0.shop:9092/0: Connect to ipv4#10.0.3.7:9092 failed: Connection refused"
IN_DANGER: Final = {
    **FROZEN,
    "slot": replace(
        SLOT, restart_lsn=148 * GIB, confirmed_flush_lsn=148 * GIB, safe_wal_bytes=4 * GIB, wal_status="extended"
    ),
    "kafka_error": REFUSED,
}
"""What differs from a relay that is well."""


def relay(changes: dict[str, Any]) -> Counters:
    """A relay that has streamed for a while."""
    counters = Counters(
        state=State.STREAMING,
        postgres_connected=True,
        database="shop at db.shop:5432",
        kafka_connected=True,
        kafka_since_timestamp=NOW - 299.0,
        topics={
            "outbox.event.order": TopicCounters(delivered=1_482_311, delivered_bytes=1_482_311 * 640),
            "outbox.event.payment": TopicCounters(delivered=391_007, delivered_bytes=391_007 * 420),
        },
        delivery_errors={},
        slot=SLOT,
    )
    return replace(counters, **changes)


def lived(counters: Counters) -> History:
    """The last five minutes: busy until a minute ago."""
    clock = [0.0]
    history = History(counters, monotonic=lambda: clock[0], wall=lambda: NOW - 300.0 + clock[0])
    while clock[0] < 300.0:
        clock[0] += SAMPLE_SECONDS
        swing = 1.0 + 0.15 * ((clock[0] / 2) % 7 - 3) / 3
        fresh = int((400.0 if clock[0] < 240.0 else 0.0) * SAMPLE_SECONDS * swing)
        for name, share in (("outbox.event.order", 0.8), ("outbox.event.payment", 0.2)):
            if name in counters.topics:
                counters.topics[name].delivered += int(fresh * share)
                counters.topics[name].delivered_bytes += int(fresh * share) * 600
        counters.latency_buckets[1] += fresh // 2
        counters.latency_buckets[3] += fresh // 2
        if counters.slot is not None:
            counters.slot = replace(counters.slot, seen_timestamp=NOW - 300.0 + clock[0])
        history.tick(clock[0])
    return history


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One machine, one process, one log: a picture does not depend on where it is made."""
    monkeypatch.setattr(http, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(socket, "gethostname", lambda: "cdc-outbox-6c9f7d5b8-x2x7q")
    monkeypatch.setattr("cdc_outbox.observe.status_page.os.getpid", lambda: 1)
    recent = RecentWarnings()
    recent.note(
        {
            "timestamp": "2026-01-05T09:27:10Z",
            "level": "warning",
            "event": "postgres.disconnected",
            "error": "PostgreSQL ended the connection: terminating connection due to administrator command",
            "cure": "nothing: the relay connects again",
        }
    )
    monkeypatch.setattr(logs, "RECENT", recent)


@pytest.mark.usefixtures("fixed")
def test_the_page_of_a_slot_in_danger_has_the_text_of_its_picture(browser: Browser) -> None:
    counters = relay(IN_DANGER)
    history = lived(counters)
    registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
    browser.command("Emulation.setTimezoneOverride", timezoneId="UTC")
    with http.serve(
        "127.0.0.1:0", counters, SETTINGS, registry, history=history, monotonic=lambda: 0.0, wall=lambda: NOW
    ) as address:
        browser.open(f"http://{address}/")
        browser.until(SHOWN, "the page shows the relay")
        said = "\n".join(
            line.strip() for line in str(browser.run("document.body.innerText")).splitlines() if line.strip()
        )
        title = str(browser.run("document.title"))
        icon = str(browser.run("document.querySelector('link[rel=icon]').href"))
        browser.picture(WIDTH, 600)
        height = int(browser.run("document.documentElement.scrollHeight"))
        picture = browser.picture(WIDTH, height)
    text = f"{title}\n{said}\n"
    kept = IMAGES / "status-slot-in-danger.txt"
    if os.environ.get("CDC_OUTBOX_PICTURES") == "write":
        kept.write_text(text, encoding="utf-8")
        kept.with_suffix(".png").write_bytes(picture)

    assert text == kept.read_text(encoding="utf-8")
    assert kept.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert icon.startswith("data:image/svg+xml,")


@pytest.mark.usefixtures("fixed")
def test_the_icon_and_the_title_follow_the_health(browser: Browser) -> None:
    icons = set()
    for changes in ({}, FROZEN, {"slot": replace(SLOT, wal_status="lost")}, {"state": State.STARTING}):
        counters = relay(changes)
        registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
        with http.serve(
            "127.0.0.1:0", counters, SETTINGS, registry, monotonic=lambda: 0.0, wall=lambda: NOW
        ) as address:
            browser.open(f"http://{address}/")
            browser.until(SHOWN, "the page shows the relay")
            icons.add(browser.run("document.querySelector('link[rel=icon]').href"))
    assert len(icons) == 4


@pytest.mark.usefixtures("fixed")
def test_on_a_phone_nothing_is_wider_than_the_screen(browser: Browser) -> None:
    counters = relay(FROZEN)
    registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
    with http.serve("127.0.0.1:0", counters, SETTINGS, registry, history=lived(counters), wall=lambda: NOW) as at:
        browser.open(f"http://{at}/")
        browser.until(SHOWN, "the page shows the relay")
        browser.picture(360, 800)
        assert browser.run("document.documentElement.scrollWidth") <= 360
        browser.picture(WIDTH, 800)
