"""One of three brokers stands still with its connections open: how long until events flow again, with the default settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import ends_well, published
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox
    from tests.servers.three_brokers import ThreeBrokers

FLOWS_SECONDS: Final = 40.0
"""15 s until a request times out, and what a busy machine adds; librdkafka's own default alone is 60 s."""


@pytest.mark.nightly
def test_a_frozen_leader_holds_events_up_for_seconds_and_not_for_a_minute(
    replicated: Outbox,
    three_brokers: ThreeBrokers,
    witness: Witness,
    writers: Callable[..., Writers],
    record_property: Callable[[str, object], None],
) -> None:
    topic = f"{replicated.prefix}order"
    relay = replicated.streaming(http=True)
    with writers(threads=3, rate=100) as load:
        eventually(lambda: published(relay, replicated) > 200, "the relay is in full flow")
        three_brokers.pause(three_brokers.leader(topic))
        frozen_at = time.monotonic()
        before = published(relay, replicated)
        eventually(lambda: published(relay, replicated) > before + 300, "events flow again", seconds=120)
        seconds = time.monotonic() - frozen_at
        record_property("seconds", round(seconds, 1))
        print(f"events flow again after {seconds:.1f} s")
        three_brokers.heal()
    verdict = ends_well(replicated, relay, witness, load)
    assert verdict.duplicates == 0
    assert seconds < FLOWS_SECONDS


@pytest.mark.nightly
def test_a_frozen_follower_repeats_nothing(
    replicated: Outbox, three_brokers: ThreeBrokers, witness: Witness, writers: Callable[..., Writers]
) -> None:
    topic = f"{replicated.prefix}order"
    relay = replicated.streaming(http=True)
    with writers(threads=3, rate=100) as load:
        eventually(lambda: published(relay, replicated) > 200, "the relay is in full flow")
        leader = three_brokers.leader(topic)
        three_brokers.pause(next(node for node in three_brokers.nodes if node != leader))
        before = published(relay, replicated)
        eventually(lambda: published(relay, replicated) > before + 300, "events flow again", seconds=60)
        three_brokers.heal()
    assert ends_well(replicated, relay, witness, load).duplicates == 0
