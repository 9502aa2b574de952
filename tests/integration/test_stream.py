"""The replication stream against a real server: what comes, what our two LSNs do to the slot, and how it ends."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import ConfigurationError, ConnectionLost, SlotBusy
from cdc_outbox.lsn import Lsn, format_lsn, parse_lsn
from cdc_outbox.postgres import pgoutput, wire
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop
from tests.plugins.waiting import PATIENCE, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database


@pytest.fixture
def shop(database: Database) -> Database:
    """A table, its publication, a slot."""
    database.execute("CREATE TABLE outbox (id int, payload text); CREATE PUBLICATION shop FOR TABLE outbox")
    database.execute("SELECT pg_create_logical_replication_slot('shop', 'pgoutput')")
    return database


@pytest.fixture
def start(shop: Database) -> Iterator[Callable[[], ReplicationStream]]:
    """Starts streams; whatever the test does not close is closed."""
    streams: list[ReplicationStream] = []

    def begin(stop: Stop | None = None) -> ReplicationStream:
        stop = stop or Stop()
        session = ReplicationSession(shop.dsn, stop)
        try:
            streams.append(ReplicationStream.start(session, stop, slot="shop", publication="shop"))
        except BaseException:
            session.close()
            raise
        return streams[-1]

    yield begin
    for stream in streams:
        stream.abandon()


def read(stream: ReplicationStream, enough: Callable[[list[pgoutput.Message]], bool]) -> list[pgoutput.Message]:
    """Decoded messages, keepalives left out, until there are enough."""
    found: list[pgoutput.Message] = []
    deadline = time.monotonic() + PATIENCE
    while not enough(found):
        assert time.monotonic() < deadline, f"only {found}"
        stream.wait(0.1)
        found += [
            pgoutput.decode(message, wire.XLOGDATA_HEADER_BYTES)
            for message in stream.receive(1000)
            if message[0] == wire.XLOGDATA
        ]
    return found


def commits(messages: list[pgoutput.Message]) -> list[pgoutput.Commit]:
    return [message for message in messages if isinstance(message, pgoutput.Commit)]


def confirmed(shop: Database) -> Lsn:
    (row,) = shop.execute("SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'shop'")
    return parse_lsn(row[0])


def insert(shop: Database, number: int, rows: int = 1) -> None:
    shop.execute(f"INSERT INTO outbox SELECT {number}, repeat('x', 500) FROM generate_series(1, {rows})")


def test_a_transaction_comes_as_begin_relation_rows_and_commit(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    insert(shop, 1, rows=2)
    insert(shop, 2)
    messages = read(start(), lambda found: len(commits(found)) == 2)
    kinds = [type(message).__name__ for message in messages]
    assert kinds == ["Begin", "Relation", "Insert", "Insert", "Commit", "Begin", "Insert", "Commit"]
    begin, relation, commit = messages[0], messages[1], messages[4]
    assert isinstance(begin, pgoutput.Begin)
    assert isinstance(relation, pgoutput.Relation)
    assert isinstance(commit, pgoutput.Commit)
    assert (relation.schema, relation.name, [column.name for column in relation.columns]) == (
        "public",
        "outbox",
        ["id", "payload"],
    )
    assert begin.final_lsn == commit.commit_lsn < commit.end_lsn
    assert begin.commit_time == commit.commit_time


def test_flush_moves_the_slot_to_the_commits_end_and_write_alone_does_not(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    insert(shop, 1)
    stream = start()
    before = confirmed(shop)
    (commit,) = commits(read(stream, lambda found: bool(commits(found))))
    stream.send_status(write=commit.end_lsn, flush=0)
    read_status = "SELECT 1 FROM pg_stat_replication WHERE application_name = 'cdc-outbox' AND write_lsn = %s::pg_lsn"
    eventually(lambda: shop.execute(read_status, (format_lsn(commit.end_lsn),)), "the server has read the status")
    assert confirmed(shop) == before
    stream.send_status(write=commit.end_lsn, flush=commit.end_lsn)
    eventually(lambda: confirmed(shop) == commit.end_lsn, "the slot follows")


def test_the_next_stream_begins_after_the_confirmed_position_and_sends_the_rest_again(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    for number in (1, 2, 3):
        insert(shop, number)
    first = start()
    one, two, three = commits(read(first, lambda found: len(commits(found)) == 3))
    first.send_status(write=three.end_lsn, flush=one.end_lsn)
    assert first.close()
    again = commits(read(start(), lambda found: len(commits(found)) == 2))
    assert [commit.end_lsn for commit in again] == [two.end_lsn, three.end_lsn]


def test_a_keepalive_is_sent_on_request_and_its_position_moves_an_idle_slot(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    stream = start()
    shop.execute("CREATE TABLE other AS SELECT generate_series(1, 1000)")
    (row,) = shop.execute("SELECT pg_current_wal_lsn()::text")

    def told() -> Lsn | None:
        stream.send_status(write=0, flush=0, reply_requested=True)
        stream.wait(0.2)
        keepalives = [wire.parse_keepalive(each) for each in stream.receive(100) if each[0] == wire.KEEPALIVE]
        return next((each.wal_end for each in keepalives if each.wal_end >= parse_lsn(row[0])), None)

    wal_end = eventually(told, "a keepalive that is as far as the server")
    assert wal_end is not None
    stream.send_status(write=wal_end, flush=wal_end)
    eventually(lambda: confirmed(shop) >= parse_lsn(row[0]), "the slot follows")


def test_a_status_sent_just_before_the_close_is_read_although_much_is_unread(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    insert(shop, 1)
    insert(shop, 2, rows=40_000)
    stream = start()
    first = commits(read(stream, lambda found: bool(commits(found))))[0]
    stream.send_status(write=first.end_lsn, flush=first.end_lsn)
    assert stream.close()
    assert confirmed(shop) == first.end_lsn
    assert shop.execute("SELECT active FROM pg_replication_slots WHERE slot_name = 'shop'") == [(False,)]


def test_a_busy_slot_is_refused_and_the_same_session_may_try_again(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    first, stop = start(), Stop()
    session = ReplicationSession(shop.dsn, stop)
    with pytest.raises(SlotBusy, match="shop"):
        ReplicationStream.start(session, stop, slot="shop", publication="shop")
    first.close()
    second = ReplicationStream.start(session, stop, slot="shop", publication="shop")
    insert(shop, 1)
    assert commits(read(second, lambda found: bool(commits(found))))
    second.close()


def test_a_missing_slot_is_a_matter_of_configuration(shop: Database) -> None:
    stop = Stop()
    session = ReplicationSession(shop.dsn, stop)
    with pytest.raises(ConfigurationError, match='"nobody" does not exist'):
        ReplicationStream.start(session, stop, slot="nobody", publication="shop")
    session.close()


def test_a_terminated_walsender_is_a_lost_connection(shop: Database, start: Callable[..., ReplicationStream]) -> None:
    stream = start()
    shop.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'shop'")
    with pytest.raises(ConnectionLost):
        read(stream, lambda _: False)
    assert not stream.close()


def test_a_wait_ends_at_once_when_a_stop_is_requested_and_waits_again_afterwards(
    shop: Database, start: Callable[..., ReplicationStream]
) -> None:
    stop = Stop()
    stream = start(stop)
    eventually(lambda: not stream.receive(100), "nothing more to read")
    threading.Timer(0.1, stop.request).start()
    began = time.monotonic()
    while not stop.requested:
        stream.wait(30.0)
        stream.receive(100)
    assert time.monotonic() - began < 5

    def waits_again() -> bool:
        stream.receive(100)  # a keepalive may wake it
        began = time.monotonic()
        stream.wait(0.1)
        return time.monotonic() - began > 0.09

    eventually(waits_again, "a request that is known by now wakes nobody, or a drain would spin")


def test_receive_keeps_to_its_limit_and_loses_nothing(shop: Database, start: Callable[..., ReplicationStream]) -> None:
    insert(shop, 1, rows=5000)
    stream, sizes, inserts = start(), [], 0
    deadline = time.monotonic() + PATIENCE
    while inserts < 5000:
        assert time.monotonic() < deadline
        stream.wait(0.1)
        messages = stream.receive(700)
        sizes.append(len(messages))
        inserts += sum(
            each[0] == wire.XLOGDATA and each[wire.XLOGDATA_HEADER_BYTES] == pgoutput.INSERT for each in messages
        )
    assert max(sizes) <= 700
    assert inserts == 5000
