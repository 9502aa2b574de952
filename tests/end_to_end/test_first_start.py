"""A first start: the rows that are in the table already, then the stream, without a gap; and never half a slot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import recover
from tests.plugins.oracle import judge
from tests.plugins.outbox import ended, event_id, ids, insert, no_slot_left
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

SLOWLY: Final = ("--max-in-flight-events", "50", "-X", "linger.ms=200")
"""At most 250 rows a second, so that there is a middle to be killed in."""


def fill(outbox: Outbox, rows: int) -> None:
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" SELECT 'order', n % 10, 'OrderPlaced', to_json(n) FROM generate_series(1, {rows}) n"
    )


def test_rows_already_there_then_the_stream_with_no_gap_and_no_duplicate_while_writers_write(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    fill(outbox, 20_000)
    with writers(threads=4, rate=200, own_keys=True) as load:
        eventually(lambda: load.committed > 100, "writers write")
        relay = outbox.streaming()
        sent_before_the_stream = relay.wait_for_log("snapshot.finished")["rows"]
        written_by_then = load.committed
        eventually(lambda: load.committed > written_by_then + 300, "writers go on")
    outbox.confirm()
    verdict = judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert verdict.duplicates == 0
    assert 20_100 < sent_before_the_stream < verdict.events - 300
    relay.terminate()
    assert relay.wait() == 0


def test_rows_are_sent_in_the_order_of_seq_whatever_their_order_in_the_table(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute(
        "INSERT INTO outbox (seq, aggregatetype, aggregateid, payload) OVERRIDING SYSTEM VALUE"
        " SELECT n * 7919 % 5003, 'order', '1', to_json(n * 7919 % 5003) FROM generate_series(1, 5002) n"
    )
    outbox.drain()
    assert [int(record.value or b"") for record in outbox.records()] == list(range(1, 5003))


def without_seq(outbox: Outbox, column: str = "") -> None:
    """A table without `seq`; `column`: one with the time of the insert. A hundred rows, stored in another order."""
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox DROP seq")
    if column:
        outbox.database.execute(f'ALTER TABLE outbox ADD "{column}" timestamptz')
    times = (f', "{column}"', ", now() + n * 7 % 101 * interval '1 s'") if column else ("", "")
    outbox.database.execute(
        f"INSERT INTO outbox (aggregatetype, aggregateid, payload{times[0]})"
        f" SELECT 'order', '1', to_json(n * 7 % 101){times[1]} FROM generate_series(1, 100) n"
    )


def values(outbox: Outbox) -> list[int]:
    return [int(record.value or b"") for record in outbox.records()]


@pytest.mark.parametrize("column", ["written", "created_at", "timestamp"])
def test_a_table_without_seq_is_sent_in_the_order_of_the_timestamp_column(outbox: Outbox, column: str) -> None:
    without_seq(outbox, column)
    relay = outbox.drain(*(("--timestamp-column", "written") if column == "written" else ()))
    assert values(outbox) == list(range(1, 101))
    assert relay.log_lines("snapshot.unordered") == []


def test_rows_of_one_transaction_have_equal_times_and_keep_the_order_of_their_inserts(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox DROP seq, ADD created_at timestamptz DEFAULT now()")
    fill(outbox, 3000)
    outbox.drain("--topic", f"{outbox.prefix}order")
    by_key: dict[bytes | None, list[int]] = {}
    for record in outbox.records():
        by_key.setdefault(record.key, []).append(int(record.value or b""))
    assert len(by_key) == 10
    assert all(numbers == sorted(numbers) for numbers in by_key.values())


def test_a_table_without_a_column_for_the_order_is_sent_with_a_warning_whose_cure_gives_it_one(outbox: Outbox) -> None:
    without_seq(outbox)
    warning = outbox.drain().wait_for_log("snapshot.unordered", level="warning")
    assert (warning["table"], warning["rows"]) == ("public.outbox", 100)
    outbox.database.execute(warning["cure"].partition(";")[0])
    outbox.database.execute("SELECT pg_drop_replication_slot('cdc_outbox')")
    assert outbox.drain().log_lines("snapshot.unordered") == []


@pytest.mark.parametrize("column", ["", "created_at"])
def test_a_recovery_sends_in_the_same_order_and_with_the_same_warning(outbox: Outbox, column: str) -> None:
    without_seq(outbox, column)
    outbox.create_slot()
    stderr = recover(outbox)
    assert ("snapshot.unordered" in stderr) is (not column)
    assert sorted(values(outbox)) == list(range(1, 101))
    assert not column or values(outbox) == list(range(1, 101))


def test_one_row_has_an_order(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox DROP seq")
    outbox.add()
    assert outbox.drain().log_lines("snapshot.unordered") == []


def test_several_tables_are_sent_one_after_the_other_each_in_its_own_order(outbox: Outbox) -> None:
    tables = ("outbox", "outbox_of_returns")
    outbox.create(*tables)
    for number in range(20):
        outbox.add(tables[number % 2], payload=str(number))
    outbox.drain(*(word for table in tables for word in ("--table", table)))
    even, odd = list(range(0, 20, 2)), list(range(1, 20, 2))
    assert values(outbox) == [*even, *odd]
    later = [outbox.add(tables[number % 2], payload=str(number)) for number in range(20, 26)]
    outbox.drain(*(word for table in tables for word in ("--table", table)))
    assert ids(outbox.records())[20:] == later, "the stream has the order of commits across tables"


def test_killed_in_the_middle_it_leaves_no_slot_and_the_next_start_sends_all_with_the_same_ids(
    outbox: Outbox, witness: Witness
) -> None:
    outbox.create()
    fill(outbox, 2000)
    relay = outbox.relay(*SLOWLY)
    seen = set(ids(outbox.records(until=100)))
    (temporary,) = [slot for slot in outbox.slots() if slot != "witness"]
    assert temporary != "cdc_outbox"
    relay.kill()
    eventually(lambda: outbox.slots() == ["witness"], "no slot is left")
    outbox.drain()
    records = outbox.records()
    verdict = judge(witness.committed(), records)
    assert verdict.events == 2000
    assert 100 <= verdict.duplicates < 2000
    assert seen <= set(ids(records))


def test_stopped_in_the_middle_it_leaves_no_slot_and_reports_that_events_will_be_sent_again(outbox: Outbox) -> None:
    outbox.create()
    fill(outbox, 2000)
    relay = outbox.relay(*SLOWLY)
    outbox.records(until=100)
    relay.terminate()
    assert relay.wait() == 75
    no_slot_left(outbox)


def test_it_waits_for_transactions_that_are_open_and_sends_their_rows_once(outbox: Outbox, witness: Witness) -> None:
    outbox.create()
    slow = outbox.database.connect(autocommit=False)
    insert(slow, "outbox", {})
    relay = outbox.relay("--until", "caught-up")
    eventually(lambda: len(outbox.slots()) == 2, "the slot is being created")
    insert(slow, "outbox", {})
    slow.commit()
    outbox.add()
    assert relay.wait() == 0
    outbox.drain()
    assert judge(witness.committed(), outbox.records()).events == 3
    assert len(outbox.records()) == 3


def test_a_stop_does_not_wait_for_transactions_that_are_open(outbox: Outbox) -> None:
    outbox.create()
    slow = outbox.database.connect(autocommit=False)
    insert(slow, "outbox", {})
    relay = outbox.relay()
    eventually(outbox.slots, "the slot is being created")
    relay.terminate()
    assert relay.wait(10) == 0
    no_slot_left(outbox)


def test_two_first_starts_at_once_lose_nothing_and_one_of_them_stands_by(outbox: Outbox, witness: Witness) -> None:
    outbox.create()
    fill(outbox, 3000)
    relays = [outbox.relay("-X", f"client.id=relay-{number}") for number in (1, 2)]
    eventually(lambda: any(relay.log_lines("standby") for relay in relays), "one stands by")
    eventually(lambda: any(relay.log_lines("streaming") for relay in relays), "one streams")
    fill(outbox, 10)
    outbox.confirm()
    assert judge(witness.committed(), outbox.records()).events == 3011
    assert outbox.slots() == ["cdc_outbox", "witness"]
    for relay in relays:
        relay.terminate()
    assert [relay.wait() for relay in relays] == [0, 0]


def test_without_select_it_refuses_names_the_grant_and_leaves_no_slot(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    outbox.database.execute("CREATE ROLE blind LOGIN REPLICATION PASSWORD 'blind-password'")
    dsn = outbox.database.dsn_for("blind", "blind-password")
    last = ended(outbox.relay(dsn=dsn), 77, "public.outbox", "blind")
    assert 'GRANT SELECT ON "public"."outbox" TO "blind"' in last["cure"]
    no_slot_left(outbox)
    outbox.database.execute('GRANT SELECT ON "public"."outbox" TO "blind"')
    outbox.drain(dsn=dsn)
    assert len(outbox.records()) == 1


def test_rows_that_a_policy_hides_are_not_left_out_in_silence(outbox: Outbox) -> None:
    outbox.create()
    outbox.add_all([{}, {}])
    outbox.database.execute(
        "CREATE ROLE half LOGIN REPLICATION PASSWORD 'half-password'; GRANT SELECT ON outbox TO half;"
        "ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON outbox USING (seq = 1)"
    )
    dsn = outbox.database.dsn_for("half", "half-password")
    last = ended(outbox.relay(dsn=dsn), 77, "public.outbox", "policy")
    no_slot_left(outbox)
    outbox.database.execute(last["cure"].partition(";")[0])
    outbox.drain(dsn=dsn)
    assert len(outbox.records()) == 2


def test_no_snapshot_leaves_the_rows_that_are_there_and_needs_no_select(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    outbox.database.execute("CREATE ROLE blind LOGIN REPLICATION PASSWORD 'blind-password'")
    dsn = outbox.database.dsn_for("blind", "blind-password")
    outbox.drain("--no-snapshot", dsn=dsn)
    later = outbox.add()
    outbox.drain("--no-snapshot", dsn=dsn)
    assert ids(outbox.records()) == [later]


def test_no_create_slot_ends_where_there_is_none_and_streams_where_there_is_one(outbox: Outbox) -> None:
    outbox.create()
    before = outbox.add()
    last = ended(outbox.relay("--no-create-slot"), 78, "cdc_outbox", "does not exist")
    assert "cdc-outbox slot create" in last["cure"]
    assert outbox.slots() == []
    outbox.create_slot()
    written = outbox.add()
    outbox.drain("--no-create-slot")
    assert [event_id(record) for record in outbox.records()] == [written]
    assert before not in ids(outbox.records())


def test_the_rows_are_counted_in_a_warning(outbox: Outbox) -> None:
    outbox.create()
    fill(outbox, 123)
    relay = outbox.drain()
    assert relay.wait_for_log("snapshot.started", level="info")["rows"] == 123
    assert relay.wait_for_log("snapshot.finished")["rows"] == 123


def test_an_administrators_timeouts_do_not_end_a_long_reading(outbox: Outbox) -> None:
    outbox.create()
    fill(outbox, 300)
    admin = outbox.database.connect()
    names = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
    if admin.info.server_version >= 170000:
        names.append("transaction_timeout")
    for name in names:
        admin.execute(f"ALTER DATABASE {outbox.database.name} SET {name} = '400ms'".encode())
    outbox.drain(*SLOWLY)
    assert len(outbox.records()) == 300


def test_it_waits_for_the_table_and_the_publication_that_a_migration_creates(outbox: Outbox) -> None:
    relay = outbox.relay("--wait-for-table", "60s")
    assert "public.outbox" in json.dumps(relay.wait_for_log("waiting"))
    outbox.create_table()
    written = outbox.add()
    assert "publication cdc_outbox" in json.dumps(relay.wait_for_log("waiting", nth=2))
    outbox.publish("outbox")
    relay.wait_for_log("streaming", timeout=40)
    later = outbox.add()
    assert sorted(ids(outbox.records(until=2))) == sorted([written, later])
    assert len(relay.log_lines("waiting")) == 2
    relay.terminate()
    assert relay.wait() == 0


def test_a_table_that_does_not_come_within_the_limit_ends_the_start(outbox: Outbox) -> None:
    relay = outbox.relay("--wait-for-table", "3s")
    ended(relay, 78, "public.outbox", "does not exist")
    assert len(relay.log_lines("waiting")) == 1


def test_a_slot_that_has_missed_rows_does_not_wait_for_the_publication(outbox: Outbox) -> None:
    outbox.create()
    outbox.drain()
    outbox.database.execute("DROP PUBLICATION cdc_outbox")
    relay = outbox.relay("--wait-for-table", "60s")
    ended(relay, 78, "cdc_outbox", "does not exist")
    assert relay.log_lines("waiting") == []


def test_rows_that_are_older_than_a_slot_made_by_hand_are_named_at_its_first_start(outbox: Outbox) -> None:
    outbox.create()
    older = outbox.add_all([{}, {}, {}])
    outbox.create_slot()
    later = outbox.add()
    relay = outbox.drain()
    warned = relay.wait_for_log("slot.older-rows", level="warning")
    assert (warned["slot"], warned["table"], warned["rows"]) == ("cdc_outbox", "public.outbox", 3)
    assert "cdc-outbox slot recover" in warned["cure"]
    assert ids(outbox.records()) == [later]

    assert outbox.drain().log_lines("slot.older-rows") == [], "a process has streamed from the slot"
    recover(outbox)
    assert outbox.drain().log_lines("slot.older-rows") == [], "the recovery has sent them"
    assert ids(outbox.records()) == [later, *older, later]


def test_rows_that_a_first_start_has_sent_are_not_named_by_the_next_start(outbox: Outbox) -> None:
    outbox.create()
    sent = outbox.add_all([{}, {}])
    outbox.drain()
    assert outbox.drain().log_lines("slot.older-rows") == []
    assert ids(outbox.records()) == sent


def test_rows_that_are_to_be_left_out_are_not_named(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    outbox.create_slot()
    assert outbox.drain("--no-snapshot").log_lines("slot.older-rows") == []
