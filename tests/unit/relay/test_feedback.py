"""What the server hears from the relay, and when; what keepalives mean."""

from __future__ import annotations

from itertools import pairwise

import pytest

from cdc_outbox.errors import ConnectionLost, Undelivered
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Rig, Told, begin, commit, insert, nothing, transaction


def test_a_quiet_outbox_in_a_busy_database_releases_wal() -> None:
    rig = Rig([build.keepalive(500), build.keepalive(700)])
    rig.stop_when(lambda: rig.flushed == 700)
    rig.run()
    assert rig.stream.told[-1].write == 700


def test_a_keepalive_inside_a_transaction_confirms_nothing() -> None:
    """Measured: it carries the commit LSN of the transaction that is being sent."""
    rig = Rig([RELATION, begin(100), insert("e1"), build.keepalive(100)])
    rig.stop_when(lambda: rig.clock.now > 1_000_030)
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.ids == ["e1"]
    assert {told.flush for told in rig.stream.told} == {0}


def test_a_keepalive_request_is_answered_at_the_next_turn() -> None:
    rig = Rig([build.keepalive(500)])
    asked: list[float] = []

    def ask() -> None:
        if rig.clock.now > 1_000_003 and not asked:
            asked.append(rig.clock.now)
            rig.stream.script.append(build.keepalive(500, reply_requested=True))
        elif rig.clock.now > 1_000_005:
            rig.stop.request()

    rig.stream.on_empty = ask
    rig.run()
    assert any(0 <= told.at - asked[0] <= 0.001 for told in rig.stream.told)


def test_a_flood_of_keepalive_requests_gets_ten_answers_a_second() -> None:
    """A server that shuts down asks again and again, without end."""
    rig = Rig([build.keepalive(500, reply_requested=True)] * 2000)

    def one_each_millisecond() -> int:
        rig.clock.now += 0.001
        return 1

    rig.stream.portion = one_each_millisecond
    rig.stop_when(lambda: True)
    rig.run()
    seconds = rig.clock.now - 1_000_000
    assert 9 * seconds <= len(rig.stream.told) <= 10 * seconds + 2


def test_the_relay_disconnects_from_a_stopping_server_when_kafka_confirms_nothing() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing

    def ask_again() -> None:
        rig.clock.now += 0.005
        rig.stream.script.append(build.keepalive(108, reply_requested=True))

    rig.stream.on_empty = ask_again
    with pytest.raises(ConnectionLost, match="PostgreSQL is shutting down"):
        rig.run()
    assert 10 <= rig.clock.now - 1_000_000 <= 11
    assert len(rig.stream.told) <= 115
    assert rig.stream.ended == "abandoned"


def test_a_server_that_sends_data_with_each_keepalive_request_is_not_stopping() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_015 else 0)

    def go_on() -> None:
        rig.clock.now += 0.01
        if rig.clock.now < 1_000_015:
            rig.stream.script.append(build.keepalive(int(200 + rig.clock.now * 1000 - 1e9), reply_requested=True))
        elif rig.flushed > 108:
            rig.stop.request()

    rig.stream.on_empty = go_on
    rig.run()
    assert rig.ids == ["e1"]


def test_the_relay_stays_connected_to_a_stopping_server_until_kafka_has_confirmed_everything() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_005 else 0)

    def ask_again() -> None:
        rig.clock.now += 0.005
        if rig.clock.now < 1_000_006:
            rig.stream.script.append(build.keepalive(108, reply_requested=True))
        elif rig.flushed == 108 and rig.clock.now > 1_000_030:
            rig.stop.request()

    rig.stream.on_empty = ask_again
    rig.run()
    assert rig.ids == ["e1"]


@pytest.mark.parametrize(("timeout", "between"), [(60.0, 10.0), (6.0, 1.0), (3.0, 0.5)])
def test_a_quiet_server_is_asked_for_a_keepalive_well_within_its_timeout(timeout: float, between: float) -> None:
    rig = Rig()
    rig.stream.wal_sender_timeout = timeout

    def answer(told: Told) -> None:
        if told.reply_requested:
            rig.stream.script.append(build.keepalive(500))

    rig.stream.on_status = answer
    rig.stop_when(lambda: rig.clock.now > 1_000_000 + 20 * between)
    rig.run()
    questions = [told.at for told in rig.stream.told if told.reply_requested]
    assert len(questions) >= 10
    assert max(later - earlier for earlier, later in pairwise(questions)) <= 2 * between


def test_a_connection_that_stays_silent_is_given_up() -> None:
    rig = Rig([build.keepalive(500)])
    with pytest.raises(ConnectionLost, match="no data from PostgreSQL for 6"):
        rig.run()
    assert 60 <= rig.clock.now - 1_000_000 <= 62
    assert rig.stream.ended == "abandoned"
    assert any(told.reply_requested for told in rig.stream.told)


def test_the_server_gets_status_updates_while_kafka_takes_nothing() -> None:
    rig = Rig([RELATION, begin(100), *(insert(f"e{number}") for number in range(50)), commit(100)], capacity=3)
    rig.stream.wal_sender_timeout = 6.0
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_060 else 0)
    rig.stream.on_status = lambda told: rig.stream.script.append(build.keepalive(50)) if told.reply_requested else None
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    moments = [1_000_000.0, *(told.at for told in rig.stream.told)]
    assert max(later - earlier for earlier, later in pairwise(moments)) <= 1.5
    assert rig.ids == [f"e{number}" for number in range(50)]


def test_no_status_before_the_first_keepalive_moves_the_slot() -> None:
    """Flush 0/0 is no statement."""
    rig = Rig()
    rig.stop_when(lambda: bool(rig.stream.told))
    rig.run()
    assert rig.stream.told[0][:2] == (0, 0)
