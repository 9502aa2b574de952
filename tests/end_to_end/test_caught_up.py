"""`--until caught-up`: all that was committed before the start is delivered and confirmed, then 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Writers
    from tests.plugins.outbox import Outbox
    from tests.servers.proxy import Proxy


def test_with_nothing_to_do_it_ends_at_once(outbox: Outbox) -> None:
    outbox.create()
    for _ in range(3):
        outbox.drain()
    assert outbox.slots() == ["cdc_outbox"]


def test_what_it_delivered_is_confirmed_when_it_ends(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    written = outbox.add_all([{} for _ in range(1000)])
    reached = outbox.current_lsn()
    outbox.drain()
    assert outbox.confirmed_past(reached)
    assert ids(outbox.records()) == written
    outbox.drain()
    assert ids(outbox.records()) == written


def test_it_ends_while_others_go_on_writing(outbox: Outbox, writers: Callable[..., Writers]) -> None:
    outbox.create()
    outbox.create_slot()
    with writers(threads=3, rate=400) as load:
        eventually(lambda: load.committed > 100, "writers write")
        before = outbox.add()
        relay = outbox.relay("--until", "caught-up")
        assert relay.wait() == 0
        assert load.committed > 100
    assert before in ids(outbox.records())


def test_a_lost_connection_is_made_again_before_it_ends(outbox: Outbox, proxy: Callable[[str], Proxy]) -> None:
    outbox.create()
    outbox.create_slot()
    between = proxy(outbox.database.dsn)
    through_it = {"dbname": outbox.database.name, "host": "127.0.0.1", "port": str(between.port)}
    written = outbox.add_all([{"payload": f'"{"x" * 1000}"'} for _ in range(500)])
    relay = outbox.relay(
        *("--until", "caught-up", "--max-in-flight-events", "50", "-X", "linger.ms=100"),
        dsn=outbox.database.server.dsn_for(**through_it),
    )
    outbox.records(until=50)
    between.cut()
    assert relay.wait() == 0
    assert relay.wait_for_log("postgres.disconnected")
    assert ids(outbox.records())[-500:] == written


def test_a_quiet_server_that_writes_other_wal_is_caught_up_with(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.database.execute("CREATE TABLE other AS SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n")
    reached = outbox.current_lsn()
    outbox.drain()
    assert outbox.confirmed_past(reached)
