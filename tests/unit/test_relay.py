"""The loop against a scripted stream and a scripted Kafka: what is confirmed is delivered, and all that is delivered is
confirmed, in whatever order things happen.

The server's rule that these tests judge by: a transaction is skipped for ever when its commit LSN lies below a confirmed one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_outbox.errors import (
    CdcOutboxError,
    ConfigurationError,
    ConnectionLost,
    PoisonEvent,
    ProtocolError,
    Undelivered,
    Unreachable,
)
from cdc_outbox.relay import Suspected
from tests.plugins import wire_builder as build
from tests.plugins.scripted import Rig, ScriptedPublisher, ScriptedStream, Told, event_id

COMMITTED = 1_794_000_000.25
"""Unix seconds."""

RELATION = build.xlogdata(build.relation())


def begin(commit_lsn: int) -> bytes:
    return build.xlogdata(build.begin(commit_lsn, commit_time=build.clock(COMMITTED)))


def insert(event: str, *, key: str = "k", topic: str = "order", headers: bytes | None = None) -> bytes:
    row = build.outbox_row(event.encode(), key=key.encode(), topic=topic.encode(), headers=headers)
    return build.xlogdata(build.insert(build.OUTBOX_OID, row))


def commit(commit_lsn: int, end_lsn: int | None = None) -> bytes:
    return build.xlogdata(build.commit(commit_lsn, commit_lsn + 8 if end_lsn is None else end_lsn))


def transaction(commit_lsn: int, *events: str) -> list[bytes]:
    """It ends 8 bytes after its commit LSN."""
    return [begin(commit_lsn), *map(insert, events), commit(commit_lsn)]


def nothing(_in_flight: int) -> Sequence[int]:
    """Kafka takes its time."""
    return ()


# The path of an event


def test_a_row_becomes_a_record_and_its_commits_end_is_confirmed() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    [record] = rig.publisher.log
    assert (record.topic, record.key, record.value) == ("outbox.event.order", b"k", b"{}")
    assert record.headers == [("id", b"e1"), ("type", b"OrderPlaced")]
    assert record.timestamp == round(COMMITTED * 1000)
    assert rig.stream.told[-1][:2] == (108, 108)
    assert rig.stream.ended == "closed"


def test_nothing_is_confirmed_before_it_is_delivered() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.choose = nothing
    rig.stop_when(lambda: rig.clock.now > 1_000_005)
    with pytest.raises(Undelivered) as raised:
        rig.run()
    assert raised.value.where == {"in_flight": 1, "lsn": "0/0"}
    assert {told.flush for told in rig.stream.told} == {0}
    assert rig.stream.told[-1].write == 108


def test_a_commit_alone_is_not_enough_and_the_last_report_is() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")])
    reported: list[int] = []

    def one_after_the_other(in_flight: int) -> Sequence[int]:
        reported.append(in_flight)
        return range(min(1, in_flight))

    rig.publisher.choose = one_after_the_other
    rig.stream.on_status = lambda told: check(told.flush == (108 if len(rig.ids) == 3 else 0))
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e1", "e2", "e3"]


def check(condition: bool) -> None:
    assert condition


def test_records_leave_in_the_order_of_the_stream_over_topics_and_transactions() -> None:
    rows = [insert("e1", topic="a"), insert("e2", topic="b"), insert("e3", topic="a")]
    rig = Rig([RELATION, begin(100), *rows, commit(100), *transaction(200, "e4"), *transaction(300, "e5")])
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run()
    assert [event_id(record) for record in rig.publisher.accepted] == ["e1", "e2", "e3", "e4", "e5"]


def test_each_transaction_has_its_own_commit_time() -> None:
    later = build.xlogdata(build.begin(200, commit_time=build.clock(COMMITTED + 60)))
    rig = Rig([RELATION, *transaction(100, "e1"), later, insert("e2"), commit(200)])
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run()
    first, second = (record.timestamp for record in rig.publisher.log)
    assert second - first == 60_000


def test_what_is_done_is_counted() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2"), *transaction(200), *transaction(300, "e3")])
    rig.clock.now = COMMITTED + 0.3 - 1_794_000_000.0
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run()
    counters = rig.counters
    assert counters.received == {"public.outbox": 3}
    assert counters.transactions == 2
    assert counters.topics["outbox.event.order"].delivered == 3
    assert sum(counters.latency_buckets) == 3
    assert counters.latency_sum == pytest.approx(0.9, abs=0.2)
    assert (counters.received_lsn, counters.confirmed_lsn) == (308, 308)
    assert (counters.in_flight_events, counters.in_flight_bytes) == (0, 0)
    assert counters.oldest_unacknowledged_timestamp is None
    assert counters.state == "draining"


def test_the_oldest_unacknowledged_commit_is_told_while_kafka_takes_nothing() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.choose = nothing
    rig.stop_when(lambda: rig.clock.now > 1_000_001)
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.counters.oldest_unacknowledged_timestamp == COMMITTED
    assert (rig.counters.in_flight_events, rig.counters.in_flight_bytes) == (1, 2)


def test_the_rows_of_other_tables_are_left_counted_and_told_once() -> None:
    other = build.xlogdata(build.relation(9, [("x", build.TEXT)], name="orders"))
    rows = [build.xlogdata(build.insert(9, [b"1"])), build.xlogdata(build.insert(9, [b"2"]))]
    rig = Rig([RELATION, other, begin(100), *rows, insert("e1"), commit(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e1"]
    assert rig.counters.skipped == {"other-table": 2}
    assert [line["table"] for line in rig.logged if line["event"] == "other-table"] == ["public.orders"]


def test_a_relation_that_changes_in_mid_transaction_is_read_in_its_new_shape() -> None:
    columns = [column for column in build.OUTBOX if column[0] != "seq"]
    row = build.outbox_row(b"e2", key=b"k")[1:]
    rig = Rig(
        [
            RELATION,
            begin(100),
            insert("e1"),
            build.xlogdata(build.relation(build.OUTBOX_OID, columns)),
            build.xlogdata(build.insert(build.OUTBOX_OID, row)),
            commit(100),
        ]
    )
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e1", "e2"]
    assert rig.counters.received == {"public.outbox": 2}


def test_messages_that_say_nothing_to_an_outbox_are_left() -> None:
    rest = [
        build.user_type(99, "public", "mood"),
        build.origin(1, "elsewhere"),
        build.truncate(build.OUTBOX_OID),
        build.update(build.OUTBOX_OID, []),
        build.delete(build.OUTBOX_OID, []),
        build.logical_message("other", b"content"),
    ]
    rig = Rig([RELATION, begin(100), *map(build.xlogdata, rest), insert("e1"), commit(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e1"]


# Keepalives and status updates


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


def test_a_question_is_answered_at_the_next_turn() -> None:
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


def test_a_storm_of_questions_gets_ten_answers_a_second() -> None:
    """A server that shuts down asks again and again, without end."""
    rig = Rig([build.keepalive(500, reply_requested=True)] * 2000)

    def one_each_millisecond() -> int:
        rig.clock.now += 0.001
        return 1

    rig.stream.portion = one_each_millisecond
    rig.stop_when(lambda: True)
    rig.run()
    assert 18 <= len(rig.stream.told) <= 22


def test_a_stopping_server_is_let_go_when_kafka_does_not_take_what_it_sent() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.choose = nothing

    def ask_again() -> None:
        rig.clock.now += 0.005
        rig.stream.script.append(build.keepalive(108, reply_requested=True))

    rig.stream.on_empty = ask_again
    with pytest.raises(ConnectionLost, match="PostgreSQL is shutting down"):
        rig.run()
    assert 10 <= rig.clock.now - 1_000_000 <= 11
    assert len(rig.stream.told) <= 115
    assert rig.stream.ended == "abandoned"


def test_a_stopping_server_is_not_let_go_when_kafka_takes_everything() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.choose = lambda count: range(count if rig.clock.now > 1_000_005 else 0)

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


def test_a_wire_that_stays_silent_is_dead() -> None:
    rig = Rig([build.keepalive(500)])
    with pytest.raises(ConnectionLost, match="silent for 6"):
        rig.run()
    assert 60 <= rig.clock.now - 1_000_000 <= 62
    assert rig.stream.ended == "abandoned"
    assert any(told.reply_requested for told in rig.stream.told)


def test_the_server_hears_from_us_while_kafka_takes_nothing() -> None:
    rig = Rig([RELATION, begin(100), *(insert(f"e{number}") for number in range(50)), commit(100)], capacity=3)
    rig.stream.wal_sender_timeout = 6.0
    rig.publisher.choose = lambda count: range(count if rig.clock.now > 1_000_060 else 0)
    rig.stream.on_status = lambda told: rig.stream.script.append(build.keepalive(50)) if told.reply_requested else None
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    moments = [1_000_000.0, *(told.at for told in rig.stream.told)]
    assert max(later - earlier for earlier, later in pairwise(moments)) <= 1.5
    assert rig.ids == [f"e{number}" for number in range(50)]


def test_nothing_said_before_the_first_keepalive_moves_the_slot() -> None:
    """Flush 0/0 is no statement."""
    rig = Rig()
    rig.stop_when(lambda: bool(rig.stream.told))
    rig.run()
    assert rig.stream.told[0][:2] == (0, 0)


# A full queue


def test_a_full_queue_loses_nothing_and_reorders_nothing() -> None:
    events = [f"e{number}" for number in range(40)]
    rig = Rig([RELATION, *transaction(100, *events[:30]), *transaction(200, *events[30:])], capacity=1)
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run()
    assert rig.ids == events
    assert rig.counters.received == {"public.outbox": 40}


def test_while_the_queue_is_full_nothing_is_read() -> None:
    rig = Rig([RELATION, begin(100), *(insert(f"e{number}") for number in range(30)), commit(100)], capacity=2)
    rig.stream.portion = lambda: 5
    rig.publisher.choose = lambda count: range(count if rig.clock.now > 1_000_020 else 0)
    unread: list[int] = []
    rig.stream.on_status = lambda told: unread.append(len(rig.stream.script)) if told.at < 1_000_020 else None
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert set(unread) == {28}
    assert rig.counters.backpressure_seconds >= 19


def test_a_queue_that_stays_full_is_told_once_and_so_is_its_end() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], capacity=1)
    rig.publisher.choose = lambda count: range(count if rig.clock.now > 1_000_020 else 0)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    told = [line["event"] for line in rig.logged if line["event"].startswith("backpressure")]
    assert told == ["backpressure", "backpressure.ended"]


# The end


def test_a_stop_between_transactions_delivers_confirms_and_says_goodbye() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.publisher.choose = lambda count: range(count if rig.stop.requested else 0)
    rig.stop_when(lambda: True)
    rig.run()
    assert rig.ids == ["e1", "e2"]
    assert (rig.flushed, rig.stream.ended) == (208, "closed")


def test_after_a_stop_no_further_transaction_is_begun() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.stream.portion = lambda: 4
    rig.stream.on_status = lambda _told: rig.stop.request()
    rig.run()
    assert rig.ids == ["e1"]
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
    assert 12.5 <= rig.clock.now - 1_000_000 <= 14
    assert (rig.ids, rig.flushed, rig.stream.ended) == (["e1"], 58, "closed")


@pytest.mark.parametrize("timeout", [0.5, 1.0, 2.0, 25.0])
def test_a_stop_ends_in_time_though_kafka_takes_nothing(timeout: float) -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.choose = nothing
    rig.stop_when(lambda: True)
    with pytest.raises(Undelivered):
        rig.run(rig.relay(shutdown_timeout=timeout))
    assert rig.stop.requested_at is not None
    assert timeout / 2 <= rig.clock.now - rig.stop.requested_at <= timeout
    assert (rig.flushed, rig.stream.ended) == (0, "closed")


def test_a_stop_in_mid_backpressure_ends_in_time() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], capacity=1)
    rig.publisher.choose = nothing
    rig.stream.on_status = lambda _told: rig.stop.request()
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.clock.now - 1_000_000 <= 25
    assert rig.flushed == 0


def test_a_connection_that_breaks_before_the_last_word_is_no_clean_end() -> None:
    """All is delivered, but the server does not know: it will send it again."""
    rig = Rig([RELATION, *transaction(100, "e1")])

    def breaks() -> None:
        rig.stream.broken = True
        rig.stop.request()

    rig.publisher.choose = lambda count: range(count if rig.stop.requested else 0)
    rig.stream.on_empty = breaks
    with pytest.raises(Undelivered):
        rig.run()
    assert (rig.ids, rig.flushed, rig.stream.ended) == (["e1"], 0, "abandoned")


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
    rig.publisher.choose = lambda count: range(count if rig.clock.now > 1_000_003 else 0)
    rig.run(rig.relay(target=250))
    assert (rig.ids, rig.flushed) == (["e1"], 300)


def test_what_somebody_else_found_out_ends_the_loop_with_all_delivered_confirmed() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])

    def guard(_paused: bool) -> None:
        if rig.ids:
            raise ConfigurationError("table public.outbox is gone")

    with pytest.raises(ConfigurationError, match="is gone"):
        rig.run(rig.relay(guard=guard))
    assert (rig.flushed, rig.stream.ended) == (108, "closed")


# What must not be


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ([b"x" + bytes(30)], "CopyData message of an unknown type"),
        ([build.keepalive(5)[:-1]], "primary keepalive has 17 bytes"),
        ([build.xlogdata(b"")], "XLogData"),
        ([b"w"], "XLogData"),
        ([build.xlogdata(b"?")], "unknown type"),
        ([begin(200)[:-1]], "malformed pgoutput Begin"),
        ([begin(200) + b"\0"], "malformed pgoutput Begin"),
        ([begin(200), begin(300)], "a Begin inside a transaction"),
        ([begin(200), commit(200)[:-1]], "malformed pgoutput Commit"),
        ([commit(200)], "Commit"),
        ([begin(200), commit(204)], "announced for 0/C8"),
        ([begin(104), commit(104, 108)], "ends at or before 0/6C"),
        ([insert("e2")], "an Insert outside a transaction"),
        ([begin(200), insert("e2")[:-1]], "malformed pgoutput Insert"),
        ([begin(200), insert("e2")[:27]], "Insert"),
        ([begin(200), build.xlogdata(build.insert(4711, [b"1"]))], "relation 4711, which was never described"),
        ([begin(200), build.xlogdata(build.relation())[:-1]], "malformed pgoutput Relation"),
    ],
)
def test_bytes_that_the_manual_does_not_allow_end_the_relay_with_all_before_them_confirmed(
    broken: list[bytes], message: str
) -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *broken])
    with pytest.raises(ProtocolError, match=message) as raised:
        rig.run()
    assert "lsn" in raised.value.where
    assert (rig.ids, rig.flushed, rig.stream.ended) == (["e1"], 108, "closed")


def test_a_renamed_table_is_named_with_the_cure() -> None:
    renamed = build.xlogdata(build.relation(name="Outbox_old"))
    rig = Rig([RELATION, *transaction(100, "e1"), begin(200), renamed, insert("e2"), commit(200)])
    with pytest.raises(ConfigurationError, match=r'public\.outbox has become public\."Outbox_old"') as raised:
        rig.run()
    assert '--table public."Outbox_old"' in raised.value.cure
    assert raised.value.where["lsn"] == "0/C8"
    assert rig.flushed == 108


def test_a_missing_column_is_found_at_the_first_row_that_lacks_it() -> None:
    columns = [(name, type_oid) for name, type_oid in build.OUTBOX if name != "payload"]
    rig = Rig([*transaction(100), build.xlogdata(build.relation(build.OUTBOX_OID, columns)), begin(200), insert("e1")])
    with pytest.raises(ConfigurationError, match="has no column payload") as raised:
        rig.run()
    assert raised.value.where["lsn"] == "0/C8"
    assert rig.flushed == 108


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_whatever_is_broken_on_the_wire_ends_in_one_of_our_errors(data: st.DataObject) -> None:
    script = [RELATION, *transaction(100, "e1", "e2"), build.keepalive(150), *transaction(200, "e3")]
    at = data.draw(st.integers(0, len(script) - 1))
    message = script[at]
    position = data.draw(st.integers(0, len(message)))
    cut = data.draw(st.integers(0, 3))
    script[at] = message[:position] + data.draw(st.binary(max_size=3)) + message[position + cut :] or b"?"
    rig = Rig(script, policy="skip")
    rig.stop_when(lambda: rig.clock.now > 1_000_001)
    with contextlib.suppress(CdcOutboxError):
        rig.run()
    assert rig.stream.ended


# What Kafka refuses


def test_a_poison_event_stops_with_all_before_it_confirmed_and_nothing_after_it() -> None:
    poison = insert("e2", headers=b"[]")
    rig = Rig([RELATION, *transaction(100, "e1"), begin(200), poison, insert("e3"), commit(200), build.keepalive(900)])
    with pytest.raises(PoisonEvent) as raised:
        rig.run()
    assert raised.value.where["id"] == "e2"
    assert raised.value.where["lsn"] == "0/C8"
    assert (rig.ids, rig.flushed) == (["e1"], 108)


@pytest.mark.parametrize(("policy", "letters"), [("skip", []), ("dead-letter", ["e2"])])
def test_a_poison_event_is_left_out_by_policy_counted_and_the_rest_goes_on(policy: str, letters: list[str]) -> None:
    rows = [insert("e1"), insert("e2", headers=b"[]"), insert("e3")]
    rig = Rig([RELATION, begin(100), *rows, commit(100)], policy=policy)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert [event_id(record) for record in rig.publisher.log if record.topic == "dead-letters"] == letters
    assert [event_id(record) for record in rig.publisher.log if record.topic != "dead-letters"] == ["e1", "e3"]
    counted = rig.counters.skipped if policy == "skip" else rig.counters.dead_lettered
    assert counted == {"bad-headers": 1}
    assert [line["event"] for line in rig.logged if line["event"] == "poison"] == ["poison"]


def test_a_failed_delivery_names_its_transaction_and_confirms_nothing_past_it() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")])
    rig.publisher.refuse = lambda record: KafkaError.MSG_SIZE_TOO_LARGE if event_id(record) == "e2" else None
    with pytest.raises(Suspected) as raised:
        rig.run()
    assert raised.value.lsns == {200}
    assert (rig.flushed, rig.stream.ended) == (108, "closed")
    assert rig.counters.delivery_errors == {("outbox.event.order", "MSG_SIZE_TOO_LARGE"): 1}


def test_a_suspected_transaction_goes_record_by_record_and_the_culprit_is_found() -> None:
    rig = Rig([RELATION, *transaction(200, "e1", "e2", "e3"), *transaction(300, "e4")], policy="skip")
    rig.publisher.refuse = lambda record: KafkaError.MSG_SIZE_TOO_LARGE if event_id(record) == "e2" else None
    in_flight: list[int] = []

    def deliver(count: int) -> Sequence[int]:
        in_flight.append(count)
        return range(count)

    rig.publisher.choose = deliver
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run(rig.relay(suspects=[200]))
    assert rig.ids == ["e1", "e3", "e4"]
    assert max(in_flight) == 1
    assert rig.counters.skipped == {"msg-size-too-large": 1}
    [told] = [line for line in rig.logged if line["event"] == "poison"]
    assert (told["id"], told["lsn"]) == ("e2", "0/C8")


def test_a_kafka_that_fails_without_a_culprit_is_tried_again_and_counted_once() -> None:
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2")])
    rig.publisher.refuse = lambda record: KafkaError.INVALID_PRODUCER_EPOCH if event_id(record) == "e2" else None
    with pytest.raises(Unreachable):
        rig.run()
    assert rig.publisher.broken
    assert rig.flushed == 108
    assert sum(rig.counters.delivery_errors.values()) == 1
    assert [line["event"] for line in rig.logged].count("delivery.failed") == 1


# Generations


def test_a_late_report_of_an_earlier_connection_moves_nothing() -> None:
    earlier = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), ConnectionLost("cut")])
    earlier.publisher.choose = nothing
    with pytest.raises(ConnectionLost):
        earlier.run()
    assert earlier.publisher.in_flight == 2
    later = Rig([RELATION, *transaction(100, "e1")])
    later.publisher = earlier.publisher
    held: list[int] = []

    def only_the_old_ones(count: int) -> Sequence[int]:
        held.append(count)
        return range(count) if later.clock.now > 1_000_010 else range(min(2, count) if len(held) == 1 else 0)

    later.publisher.choose = only_the_old_ones
    later.stream.on_status = lambda told: check(told.flush == 0 or later.clock.now > 1_000_010)
    later.stop_when(lambda: later.flushed == 108)
    later.run()
    assert later.ids == ["e1", "e2", "e1"]


# Any interleaving


class Choices:
    """A finite supply of decisions; when it is used up, everything goes as smoothly as can be."""

    def __init__(self, drawn: Iterator[int]) -> None:
        self._drawn = drawn

    def below(self, count: int) -> int | None:
        """One of `count`; None when the supply is used up."""
        drawn = next(self._drawn, None)
        return None if drawn is None or count == 0 else drawn % count

    def some(self, count: int) -> int:
        """0 to `count`."""
        chosen = self.below(count + 1)
        return count if chosen is None else chosen

    def rarely(self, one_in: int) -> bool:
        return self.below(one_in) == one_in - 1


choices = st.lists(st.integers(0, 255), max_size=120).map(lambda drawn: Choices(iter(drawn)))


@dataclass
class Committed:
    """A transaction of the script."""

    commit_lsn: int
    end_lsn: int
    messages: list[bytes]
    events: list[str]
    topics: dict[str, str]


@dataclass
class World:
    """A database with its transactions and keepalives in order, a slot, and what Kafka got."""

    steps: list[Committed | int] = field(default_factory=list)
    """Transactions, and keepalives by their wal_end: some lie back, as after a reconnect."""
    confirmed: int = 0

    @property
    def transactions(self) -> list[Committed]:
        return [step for step in self.steps if isinstance(step, Committed)]

    @property
    def ends(self) -> set[int]:
        """All that may ever be confirmed."""
        return {0} | {step if isinstance(step, int) else step.end_lsn for step in self.steps}

    @property
    def events(self) -> list[str]:
        return [event for each in self.transactions for event in each.events]

    def messages(self) -> list[bytes | Exception]:
        """What a connection gets to see: the server skips what commits below the confirmed LSN."""
        sent: list[bytes | Exception] = [RELATION]
        for step in self.steps:
            if isinstance(step, int):
                sent.append(build.keepalive(step))
            elif step.commit_lsn >= self.confirmed:
                sent += step.messages
        return sent


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world, at, number = World(), 1000, 0
    for kind in draw(st.lists(st.sampled_from("tttks"), max_size=8)):
        at += draw(st.integers(1, 50))
        if kind == "s":
            world.steps.append(draw(st.integers(0, at - 51)))
        elif kind == "k":
            world.steps.append(at)
        else:
            commit_lsn, at = at, at + draw(st.integers(1, 50))
            rows = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.booleans()), max_size=5))
            messages, topics = [begin(commit_lsn)], {}
            for topic, key, asked in rows:
                number += 1
                topics[f"e{number}"] = f"outbox.event.{topic}/{key}"
                messages.append(insert(f"e{number}", topic=topic, key=key))
                if asked:
                    messages.append(build.keepalive(commit_lsn, reply_requested=True))
            messages.append(commit(commit_lsn, at))
            world.steps.append(Committed(commit_lsn, at, messages, [*topics], topics))
    return world


class Judge:
    """Watches every status update of one connection."""

    def __init__(self, world: World, stream: ScriptedStream, publisher: ScriptedPublisher, spared: set[str]) -> None:
        self._world = world
        self._publisher = publisher
        self._spared = spared
        self._stream = stream
        self._before = Told(0, 0, False, 0.0)
        stream.on_status = self.judge

    def judge(self, told: Told) -> None:
        before, self._before = self._before, told
        assert told.flush in self._world.ends, "neither the end of a transaction nor a keepalive between two"
        assert told.flush >= before.flush
        assert told.write >= before.write
        assert told.write >= told.flush
        delivered = {event_id(record) for record in self._publisher.log} | self._spared
        for each in self._world.transactions:
            if not delivered.issuperset(each.events):
                assert told.flush <= each.commit_lsn, "the server would never send it again"
        self._world.confirmed = max(self._world.confirmed, told.flush)


def partition(record_topic: str, key: bytes | None) -> str:
    return f"{record_topic}/{(key or b'').decode()}"


def in_partition_order(publisher: ScriptedPublisher, choices: Choices) -> Sequence[int]:
    """Some records, each the first of its partition: their order across partitions is anybody's."""
    waiting = list(range(len(publisher.queue)))
    chosen: list[int] = []
    for _ in range(choices.some(len(waiting))):
        record = publisher.queue[waiting[choices.below(len(waiting)) or 0]][0]
        lane = partition(record.topic, record.key)
        first = next(
            at for at in waiting if partition(publisher.queue[at][0].topic, publisher.queue[at][0].key) == lane
        )
        waiting.remove(first)
        chosen.append(first)
    return chosen


def orders(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in world.transactions:
        for event, lane in each.topics.items():
            found.setdefault(lane, []).append(event)
    return found


def arrivals(publisher: ScriptedPublisher) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in publisher.log:
        found.setdefault(partition(record.topic, record.key), []).append(event_id(record))
    return found


@given(worlds(), choices, st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_any_interleaving_confirms_only_what_is_delivered_and_in_the_end_everything(
    world: World, choices: Choices, capacity: int
) -> None:
    rig = Rig(world.messages(), capacity=capacity)
    rig.stream.portion = lambda: choices.some(4)
    rig.publisher.choose = lambda _count: in_partition_order(rig.publisher, choices)
    Judge(world, rig.stream, rig.publisher, set())
    last = max(world.ends)
    rig.stop_when(lambda: rig.flushed == last)
    rig.run()
    assert rig.flushed == last
    assert [event_id(record) for record in rig.publisher.accepted] == world.events
    assert arrivals(rig.publisher) == orders(world)
    assert rig.counters.in_flight_events == rig.counters.in_flight_bytes == 0


@given(worlds(), choices, st.integers(1, 4), st.sampled_from([0.5, 5.0, 25.0]))
@settings(max_examples=200, deadline=None)
def test_a_stop_at_any_moment_ends_in_time_and_clean_only_if_all_that_was_read_is_confirmed(
    world: World, choices: Choices, capacity: int, timeout: float
) -> None:
    rig = Rig(world.messages(), capacity=capacity)
    Judge(world, rig.stream, rig.publisher, set())

    def deliver(_count: int) -> Sequence[int]:
        if choices.rarely(20):
            rig.stop.request()
        return in_partition_order(rig.publisher, choices)

    rig.stream.portion = lambda: choices.some(4)
    rig.publisher.choose = deliver
    rig.stop_when(lambda: True)
    try:
        rig.run(rig.relay(shutdown_timeout=timeout))
    except Undelivered:
        assert rig.flushed < max(world.ends)
    else:
        begun = [each for each in world.transactions if set(each.events) & {*map(event_id, rig.publisher.accepted)}]
        assert all(each.end_lsn <= rig.flushed for each in begun)
    assert rig.stop.requested_at is not None
    assert rig.clock.now - rig.stop.requested_at <= timeout
    assert rig.stream.ended == "closed"


class Cursed:
    """Kafka refuses these events, and with them whatever of their topic is in the same batch."""

    def __init__(self, events: set[str]) -> None:
        self._events = events

    def refuses(self, publisher: ScriptedPublisher, record_topic: str, event: str) -> int | None:
        batch = {event_id(record) for record, _ in publisher.queue if record.topic == record_topic}
        return KafkaError.MSG_SIZE_TOO_LARGE if self._events & {event, *batch} else None


@given(worlds(), choices, st.integers(1, 4), st.data())
@settings(max_examples=200, deadline=None)
def test_nothing_is_lost_over_any_number_of_generations(
    world: World, choices: Choices, capacity: int, data: st.DataObject
) -> None:
    """Connections that break anywhere, a Kafka that refuses batches: the slot and the log of Kafka are all that stays."""
    cursed = set(data.draw(st.lists(st.sampled_from(world.events), max_size=2))) if world.events else set()
    curse = Cursed(cursed)
    rig = Rig(policy="skip")
    suspects: set[int] = set()
    log = rig.publisher.log
    last = max(world.ends)
    for _ in range(60):
        publisher = rig.publisher
        publisher.capacity = capacity
        script = world.messages()
        if choices.rarely(2):
            script.insert(choices.some(len(script)), ConnectionLost("cut"))
        rig.stream = ScriptedStream(rig.clock, script)
        rig.stream.portion = lambda: choices.some(4)
        publisher.choose = lambda _count, own=publisher: in_partition_order(own, choices)  # type: ignore[misc]
        publisher.refuse = lambda record, own=publisher: curse.refuses(own, record.topic, event_id(record))  # type: ignore[misc]
        Judge(world, rig.stream, publisher, cursed)
        rig.stop_when(lambda: world.confirmed == last)
        try:
            rig.run(rig.relay(suspects=suspects))
            break
        except Suspected as found:
            suspects |= found.lsns
        except ConnectionLost:
            pass
        if publisher.broken:
            publisher.abandon()
            rig.publisher = ScriptedPublisher(rig.clock, rig.counters)
            rig.publisher.log = log
    assert rig.stop.requested, "it does not come to an end"
    assert world.confirmed == last
    assert set(world.events) == cursed | set(rig.ids)
    last_first = {lane: [*dict.fromkeys(reversed(events))][::-1] for lane, events in arrivals(rig.publisher).items()}
    wanted = {lane: [event for event in events if event not in cursed] for lane, events in orders(world).items()}
    assert last_first == {lane: events for lane, events in wanted.items() if events}
