"""The loop against a scripted stream and a scripted Kafka: what it takes, what it makes of it, what it will not take."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_outbox.counters import State
from cdc_outbox.errors import (
    CatalogFinding,
    CdcOutboxError,
    ConfigurationError,
    ConnectionLost,
    ProtocolError,
    Undelivered,
)
from tests.plugins import wire_builder as build
from tests.plugins.scripted import (
    COMMITTED,
    RELATION,
    Rig,
    begin,
    commit,
    event_id,
    insert,
    nothing,
    transaction,
)


def test_a_row_becomes_a_record_and_its_commits_end_is_confirmed() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    [record] = rig.kafka.log
    assert (record.topic, record.key, record.value) == ("outbox.event.order", b"k", b"{}")
    assert record.headers == [("id", b"e1"), ("type", b"OrderPlaced")]
    assert record.timestamp == round(COMMITTED * 1000)
    assert rig.stream.told[-1][:2] == (108, 108)
    assert rig.stream.ended == "closed"


def test_nothing_is_confirmed_before_it_is_delivered() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing
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

    rig.kafka.choose = one_after_the_other
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
    assert [event_id(record) for record in rig.kafka.accepted] == ["e1", "e2", "e3", "e4", "e5"]
    delivered = {topic: counts.delivered for topic, counts in rig.counters.topics.items()}
    assert delivered == {"outbox.event.a": 2, "outbox.event.b": 1, "outbox.event.order": 2}


def test_each_transaction_has_its_own_commit_time() -> None:
    later = begin(200, commit_time=COMMITTED + 60)
    rig = Rig([RELATION, *transaction(100, "e1"), later, insert("e2"), commit(200)])
    rig.stop_when(lambda: rig.flushed == 208)
    rig.run()
    first, second = (record.timestamp for record in rig.kafka.log)
    assert second - first == 60_000


def test_work_of_the_consumer_is_counted() -> None:
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
    assert counters.state is State.DRAINING


def test_the_oldest_unacknowledged_commit_is_reported_while_kafka_takes_nothing() -> None:
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.kafka.choose = nothing
    rig.stop_when(lambda: rig.clock.now > 1_000_001)
    with pytest.raises(Undelivered):
        rig.run()
    assert rig.counters.oldest_unacknowledged_timestamp == COMMITTED
    assert rig.counters.in_flight_events == 1
    assert rig.counters.in_flight_bytes > 2


def test_the_rows_of_other_tables_are_ignored_counted_and_logged_once() -> None:
    other = build.xlogdata(build.relation(9, [("x", build.TEXT)], name="orders"))
    rows = [build.xlogdata(build.insert(9, [b"1"])), build.xlogdata(build.insert(9, [b"2"]))]
    rig = Rig([RELATION, other, begin(100), *rows, insert("e1"), commit(100)])
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert rig.ids == ["e1"]
    assert rig.counters.skipped == {"other-table": 2}
    assert [line["table"] for line in rig.logged if line["event"] == "row.ignored"] == ["public.orders"]


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


def test_messages_without_meaning_for_an_outbox_are_ignored() -> None:
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
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_020 else 0)
    unread: list[int] = []
    rig.stream.on_status = lambda told: unread.append(len(rig.stream.script)) if told.at < 1_000_020 else None
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert set(unread) == {28}
    assert rig.counters.backpressure_seconds >= 19


def test_a_queue_that_stays_full_is_logged_once_and_so_is_its_end() -> None:
    rig = Rig([RELATION, *transaction(100, "e1", "e2", "e3")], capacity=1)
    rig.kafka.choose = lambda count: range(count if rig.clock.now > 1_000_020 else 0)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    told = [line["event"] for line in rig.logged if line["event"].startswith("backpressure")]
    assert told == ["backpressure", "backpressure.ended"]


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
        ([insert("e2")], "an event outside a transaction"),
        ([begin(200), insert("e2")[:-1]], "malformed pgoutput Insert"),
        ([begin(200), insert("e2")[:27]], "Insert"),
        ([begin(200), build.xlogdata(build.insert(4711, [b"1"]))], "relation 4711, which was never described"),
        ([begin(200), build.xlogdata(build.relation())[:-1]], "malformed pgoutput Relation"),
    ],
)
def test_a_message_that_violates_the_protocol_ends_the_relay_with_all_before_it_confirmed(
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
    with pytest.raises(CatalogFinding, match=r'public\.outbox has become public\."Outbox_old"') as raised:
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
def test_any_broken_stream_ends_with_an_error_of_the_package(data: st.DataObject) -> None:
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


def test_a_late_report_of_an_earlier_connection_moves_nothing() -> None:
    earlier = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), ConnectionLost("cut")])
    earlier.kafka.choose = nothing
    with pytest.raises(ConnectionLost):
        earlier.run()
    assert earlier.publisher.in_flight == 2
    later = Rig([RELATION, *transaction(100, "e1")])
    later.publisher, later.kafka = earlier.publisher, earlier.kafka
    held: list[int] = []

    def only_the_old_ones(count: int) -> Sequence[int]:
        held.append(count)
        return range(count) if later.clock.now > 1_000_010 else range(min(2, count) if len(held) == 1 else 0)

    later.kafka.choose = only_the_old_ones
    later.stream.on_status = lambda told: check(told.flush == 0 or later.clock.now > 1_000_010)
    later.stop_when(lambda: later.flushed == 108)
    later.run()
    assert later.ids == ["e1", "e2", "e1"]
