"""What the watch leaves behind of each look at the slot."""

from __future__ import annotations

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres.slot import SlotInfo
from cdc_outbox.relay import catalog_watch
from cdc_outbox.relay.catalog import Catalog
from cdc_outbox.relay.claim_limit import ClaimLimit
from cdc_outbox.relay.server_shutdown import ServerShutdown
from tests.plugins.scripted import Clock


def test_the_slot_s_figures_are_left_also_those_of_a_lost_one_with_the_rate_of_wal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, counters = Clock(), Counters()
    monkeypatch.setattr(catalog_watch, "time", clock)
    settings = Settings(brokers="b")
    looks = catalog_watch.CatalogWatch(settings, counters, Catalog(settings), ClaimLimit(Lsn(0)), ServerShutdown())
    info = SlotInfo(
        name="cdc_outbox",
        plugin="pgoutput",
        slot_type="logical",
        database="shop",
        temporary=False,
        active=False,
        active_pid=None,
        wal_status="lost",
        restart_lsn=None,
        confirmed_flush_lsn=Lsn(1000),
        safe_wal_bytes=None,
        failover=False,
        current_database="shop",
    )
    looks._note(info, Lsn(4000))
    assert counters.slot is not None
    assert (counters.slot.wal_status, counters.slot.lag_bytes, counters.slot.retained_wal_bytes) == ("lost", 3000, None)
    assert counters.slot.wal_bytes_per_second is None

    clock.now += 30
    looks._note(info, Lsn(10_000))
    assert counters.slot.wal_bytes_per_second == 200.0
    assert counters.slot.seen_timestamp == clock.time()
