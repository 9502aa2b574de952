"""Order: of inserts in a transaction, of commits for a key; and what never comes: what was not committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import ids, insert
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox


def test_rows_of_one_transaction_come_in_the_order_in_which_they_were_inserted(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    written = outbox.add_all([{"aggregateid": "7"} for _ in range(500)])
    outbox.drain()
    assert ids(outbox.records()) == written


def test_records_of_a_key_come_in_commit_order_not_in_the_order_of_inserts(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    early, late = (outbox.database.connect(autocommit=False) for _ in range(2))
    inserted_first = insert(early, "outbox", {"aggregateid": "7"})
    inserted_second = insert(late, "outbox", {"aggregateid": "7"})
    late.commit()
    early.commit()
    outbox.drain()
    assert ids(outbox.records()) == [inserted_second, inserted_first]


def test_a_transaction_that_is_still_open_delays_no_other_and_is_sent_when_it_commits(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    slow = outbox.database.connect(autocommit=False)
    opened = insert(slow, "outbox", {"aggregateid": "7"})
    quick = outbox.add(aggregateid="7")
    outbox.drain()
    assert ids(outbox.records()) == [quick]
    slow.commit()
    outbox.drain()
    assert ids(outbox.records()) == [quick, opened]


def test_many_writers_at_once_keep_commit_order_for_every_key(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming()
    with writers(threads=4, rate=500) as load:
        eventually(lambda: load.committed > 1500, "writers write")
    outbox.confirm()
    verdict = judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert verdict.events > 1500
    assert verdict.duplicates == 0
    assert load.rolled_back, "nothing was rolled back: this test says less than it should"
    relay.terminate()
    assert relay.wait() == 0


def test_a_rollback_sends_nothing_and_what_follows_it_is_sent(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    writer = outbox.database.connect(autocommit=False)
    insert(writer, "outbox", {})
    writer.rollback()
    after = insert(writer, "outbox", {})
    writer.commit()
    outbox.drain()
    assert ids(outbox.records()) == [after]


def test_a_savepoint_rolled_back_takes_only_its_own_rows(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    writer = outbox.database.connect(autocommit=False)
    before = insert(writer, "outbox", {})
    writer.execute("SAVEPOINT a")
    insert(writer, "outbox", {})
    writer.execute("ROLLBACK TO a")
    kept_inside = insert(writer, "outbox", {})
    writer.execute("RELEASE a")
    after = insert(writer, "outbox", {})
    writer.commit()
    outbox.drain()
    assert ids(outbox.records()) == [before, kept_inside, after]


def test_a_row_deleted_in_the_transaction_that_inserted_it_is_sent(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    writer = outbox.database.connect(autocommit=False)
    written = [insert(writer, "outbox", {}) for _ in range(2)]
    writer.execute("DELETE FROM outbox")
    writer.commit()
    outbox.drain()
    assert ids(outbox.records()) == written


def test_updates_deletes_and_truncates_of_the_outbox_send_nothing(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    written = outbox.add()
    outbox.database.execute("UPDATE outbox SET payload = '{}'; DELETE FROM outbox; TRUNCATE outbox")
    last = outbox.add()
    outbox.drain()
    assert ids(outbox.records()) == [written, last]
    assert outbox.records()[0].value == b'{"total": 99}'


def test_the_oracle_finds_what_is_lost_out_of_order_or_a_ghost(outbox: Outbox) -> None:
    """The judge of the other tests, judged."""
    outbox.create()
    outbox.create_slot()
    first, second, ghost = outbox.add_all([{"aggregateid": "7"} for _ in range(3)])
    outbox.drain()
    one, two, three = outbox.records()
    committed = [Event(first, "7"), Event(second, "7")]
    assert judge(committed, [one, two, one]).duplicates == 1
    assert judge(committed, [two, one, two], last_counts=True).duplicates == 1
    with pytest.raises(AssertionError, match="1 of 2 committed events are lost"):
        judge(committed, [one])
    with pytest.raises(AssertionError, match="out of commit order"):
        judge(committed, [two, one])
    with pytest.raises(AssertionError, match="1 events were never committed"):
        judge(committed, [one, two, three])
    with pytest.raises(AssertionError, match="1 rolled-back events were sent"):
        judge(committed, [one, two, three], rolled_back=[ghost])
