"""How the relay ends: in time, and clean only if everything is delivered and the server knows."""

from __future__ import annotations

import pytest

from cdc_outbox.counters import State
from cdc_outbox.errors import ConfigurationError, ConnectionLost, Undelivered
from cdc_outbox.observe.health import liveness, passed
from cdc_outbox.records.router import KafkaRecord
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Rig, begin, commit, insert, nothing, transaction


def test_a_stop_between_transactions_delivers_confirms_and_ends_the_stream() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.kafka.choose = lambda count: range(count if rig.stop.requested else 0)
    rig.stop_when(lambda: True)
    rig.run()
    assert rig.ids == ["e1", "e2"]
    assert (rig.flushed, rig.stream.ended) == (208, "closed")


def test_a_stop_sends_what_waits_for_linger_at_once() -> None:
    """Nothing comes behind it. With a `linger.ms` longer than a stop may take, each stop would end with 75."""
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing

    def flush(_seconds: float) -> int:
        if rig.counters.state is State.DRAINING:
            rig.kafka.choose = range
        return 0

    rig.kafka.flush = flush  # type: ignore[method-assign]
    rig.stop_when(lambda: True)
    rig.run()
    assert rig.ids == ["e1"]
    assert rig.flushed == 108


def test_after_a_stop_no_further_transaction_is_begun() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.stream.portion = lambda: 4
    rig.stream.on_status = lambda _told: rig.stop.request()
    rig.run()
    assert rig.ids == ["e1"]
    assert rig.flushed == 108


def test_a_stop_late_in_a_transaction_ends_with_that_transaction() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2"), *transaction(200, "e3"), *transaction(300, "e4")])

    def stop_now(_record: KafkaRecord) -> None:
        rig.stop.request()

    rig.kafka.refuse_at_once = stop_now
    rig.run()
    assert rig.ids == ["e1", "e2"]
    assert rig.flushed == 108


def test_a_stop_in_mid_transaction_reads_on_to_its_end() -> None:
    rig = Rig([RELATION, begin(100), insert("e1")])
    rest = [insert("e2"), commit(100)]

    def later() -> None:
        rig.stop.request()
        if rig.clock.now > 1_000_005 and rest:
            rig.stream.script.extend(rest)
            rest.clear()

    rig.stream.on_empty = later
    rig.run()
    assert rig.ids == ["e1", "e2"]
    assert rig.flushed == 108


def test_a_stop_in_mid_transaction_leaves_it_after_half_the_time() -> None:
    rig = Rig([*transaction(50), RELATION, begin(100), insert("e1")])
    rig.stop_when(lambda: True)
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.stop.requested_at is not None
    assert 12.5 <= rig.clock.now - rig.stop.requested_at <= 13.5
    assert (rig.ids, rig.flushed, rig.stream.ended) == (["e1"], 58, "closed")


@pytest.mark.parametrize("timeout", [0.5, 1.0, 2.0, 25.0])
def test_a_stop_ends_in_time_though_kafka_takes_nothing(timeout: float) -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing
    rig.stop_when(lambda: True)
    with pytest.raises(Undelivered):
        rig.run(rig.relay(shutdown_timeout=timeout))
    assert rig.stop.requested_at is not None
    assert timeout / 2 <= rig.clock.now - rig.stop.requested_at <= timeout
    assert (rig.flushed, rig.stream.ended) == (0, "closed")


def test_a_stop_in_mid_backpressure_ends_in_time() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], capacity=1)
    rig.kafka.choose = nothing
    rig.stream.on_status = lambda _told: rig.stop.request()
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.clock.now - 1_000_000 <= 25
    assert rig.flushed == 0


def test_a_connection_that_breaks_before_the_last_status_update_is_no_clean_end() -> None:
    """All is delivered, but the server does not know: it will send it again."""
    rig = Rig([RELATION, *transaction(100, "e1")])

    def breaks() -> None:
        rig.stream.broken = True
        rig.stop.request()

    rig.kafka.choose = lambda count: range(count if rig.stop.requested else 0)
    rig.stream.on_empty = breaks
    with pytest.raises(Undelivered):
        rig.run()
    assert (rig.ids, rig.flushed, rig.stream.ended) == (["e1"], 0, "abandoned")


def test_a_last_status_update_that_the_server_may_not_have_read_is_no_clean_end() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.stream.last_status_is_read = False
    rig.stop_when(lambda: rig.flushed == 108)
    with pytest.raises(Undelivered):
        rig.run()


def test_caught_up_means_delivered_and_confirmed_up_to_the_target() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), build.keepalive(300), *transaction(400, "late")])
    rig.stream.portion = lambda: 1
    rig.run(rig.relay(target=250))
    assert rig.ids == ["e1"]
    assert rig.flushed == 300


def test_catching_up_asks_the_server_how_far_it_is() -> None:
    """On a quiet database nothing would come for a while."""
    rig = Rig()
    rig.stream.on_status = lambda told: rig.stream.script.append(build.keepalive(300)) if told.reply_requested else None
    rig.run(rig.relay(target=300))
    assert rig.flushed == 300
    assert rig.clock.now - 1_000_000 < 1


def test_caught_up_waits_for_what_is_in_flight() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), build.keepalive(300)])
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_003 else 0)
    rig.run(rig.relay(target=250))
    assert (rig.ids, rig.flushed) == (["e1"], 300)


def test_caught_up_in_the_middle_of_a_later_transaction_is_at_its_end() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), build.keepalive(300), begin(400), insert("late")])
    rig.stream.on_empty = lambda: rig.stream.script.append(commit(400))
    rig.run(rig.relay(target=250))
    assert (rig.ids, rig.flushed) == (["e1", "late"], 408)


def test_a_finding_of_the_catalog_watch_ends_the_loop_with_all_delivered_confirmed() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])

    def raise_findings(_paused: bool) -> None:
        if rig.ids:
            raise ConfigurationError("table public.outbox is gone")

    with pytest.raises(ConfigurationError, match="is gone"):
        rig.run(rig.relay(raise_findings=raise_findings))
    assert (rig.flushed, rig.stream.ended) == (108, "closed")


def test_a_drain_that_lasts_longer_than_a_turn_may_is_no_loop_that_has_stuck() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing
    rig.stop_when(lambda: True)
    alive: list[bool] = []
    rig.stream.on_status = lambda _told: alive.append(passed(liveness(rig.counters, rig.clock.now)))
    began = rig.clock.now
    with pytest.raises(Undelivered):
        rig.run(rig.relay(shutdown_timeout=120.0))

    assert rig.clock.now - began > 100
    assert len(alive) > 10
    assert all(alive)


def test_a_loop_that_has_stuck_in_a_wait_is_not_alive() -> None:
    rig = Rig([RELATION])
    seen: list[bool] = []

    def stuck(_seconds: float) -> None:
        for _ in range(40):
            rig.clock.now += 1
            seen.append(passed(liveness(rig.counters, rig.clock.now)))
        raise ConnectionLost("at last")

    rig.stream.wait = stuck  # type: ignore[method-assign]
    with pytest.raises(ConnectionLost):
        rig.run()

    assert seen == [True] * 30 + [False] * 10
