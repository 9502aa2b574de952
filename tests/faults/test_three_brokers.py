"""A cluster of three brokers (replication 3, min.insync.replicas 2) that loses some: nothing is lost, order is kept, and what
Kafka has not taken is not confirmed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import QUICK_RECONNECT, ends_well, metric, published, warmed_up
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox
    from tests.servers.three_brokers import ThreeBrokers

MOVED_SECONDS: Final = 60
"""For a new leader, three seconds on an idle machine."""


@pytest.mark.nightly
@pytest.mark.parametrize("act", ["stop", "kill", "pause"])
def test_a_leader_that_is_away_is_replaced_and_nothing_is_lost_or_repeated(
    replicated: Outbox, three_brokers: ThreeBrokers, witness: Witness, writers: Callable[..., Writers], act: str
) -> None:
    topic = f"{replicated.prefix}order"
    relay = replicated.streaming(*QUICK_RECONNECT, http=True)
    with writers(threads=3, rate=100) as load:
        eventually(lambda: published(relay, replicated) > 200, "the relay is in full flow")
        leader = three_brokers.leader(topic)
        getattr(three_brokers, act)(leader)
        before = published(relay, replicated)
        eventually(
            lambda: published(relay, replicated) > before + 300,
            "another broker leads, events flow",
            seconds=MOVED_SECONDS,
        )
        assert three_brokers.leader(topic) != leader
        three_brokers.heal()
        before = published(relay, replicated)
        eventually(lambda: published(relay, replicated) > before + 200, "events flow with three", seconds=MOVED_SECONDS)
    verdict = ends_well(replicated, relay, witness, load)
    assert verdict.duplicates == 0
    assert len(relay.log_lines("streaming")) == 1, "the session with PostgreSQL is not concerned"


@pytest.mark.nightly
def test_with_two_of_three_away_nothing_is_confirmed_and_all_arrives_when_they_are_back(
    replicated: Outbox, three_brokers: ThreeBrokers, witness: Witness
) -> None:
    topic = f"{replicated.prefix}order"
    relay = replicated.streaming(*QUICK_RECONNECT, http=True)
    warmed_up(replicated)
    replicated.confirm()
    leader = three_brokers.leader(topic)
    three_brokers.kill(*[node for node in three_brokers.nodes if node != leader])
    written = replicated.add_all([{"aggregateid": str(number % 7)} for number in range(300)])

    end = replicated.current_lsn()

    eventually(lambda: metric(relay, "in_flight_events") == len(written), "all are with the producer")
    # A request's time-out later every batch has been sent, was not acknowledged by two replicas, and waits again.
    eventually(lambda: metric(relay, "lag_seconds") > 17, "a request has timed out", seconds=60)
    assert metric(relay, "in_flight_events") == len(written)
    assert not replicated.confirmed_past(end)
    assert relay.running

    three_brokers.heal()
    verdict = ends_well(replicated, relay, witness)
    assert verdict.events > len(written)
