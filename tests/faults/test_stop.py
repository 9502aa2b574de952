"""A stop at moments when something is broken or unfinished: it ends in time, says honestly how, and leaves nothing behind."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import (
    commit_at_once,
    commit_one_by_one,
    confirmed,
    judged,
    published,
    slot_is_free,
    through,
)
from tests.plugins.outbox import no_slot_left
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness
    from tests.plugins.outbox import Outbox
    from tests.servers.proxy import Proxy

SOON: Final = 4.0
"""Seconds for a stop that has nothing to wait for, on a busy machine."""

SLOWLY: Final = ("--max-in-flight-events", "50", "-X", "linger.ms=200")
"""At most 250 rows a second."""


def stopped(relay: Relay, code: int, *, within: float = SOON) -> None:
    """SIGTERM, and it ends with `code` in time."""
    began = time.monotonic()
    relay.terminate()
    assert relay.wait() == code, relay.stderr_text
    took = time.monotonic() - began
    assert took < within, f"the stop took {took:.1f} s\n{relay.stderr_text}"


@pytest.mark.parametrize("streamed", [False, True], ids=["at the start", "after it has streamed"])
def test_while_it_connects_to_a_host_that_does_not_answer(
    streamed: bool, outbox: Outbox, proxy: Callable[[str], Proxy]
) -> None:
    outbox.create()
    outbox.create_slot()
    wire = proxy(outbox.database.dsn)
    if streamed:
        relay = outbox.streaming(dsn=through(wire, outbox.database.dsn, connect_timeout=30))
        outbox.confirm()  # from then on, nothing is left to send again
        wire.refuse()
        relay.wait_for_log("postgres.disconnected")
        wire.freeze()
        wire.accept()
    else:
        wire.freeze()
        relay = outbox.relay(dsn=through(wire, outbox.database.dsn, connect_timeout=30))
        relay.wait_for_log("started")
    stopped(relay, 0)


def test_while_the_rows_of_a_first_start_are_locked_away(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    migration = outbox.database.connect(autocommit=False)
    migration.execute("LOCK TABLE outbox")
    relay = outbox.relay("--shutdown-timeout", "2s")
    waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    eventually(lambda: outbox.database.execute(waits) == [(1,)], "the relay waits for the lock")
    stopped(relay, 0)
    no_slot_left(outbox)


def test_in_a_pause_between_attempts_with_events_in_flight_it_does_not_claim_that_all_is_confirmed(
    fragile: Outbox, proxy: Callable[[str], Proxy], witness: Witness
) -> None:
    fragile.create()
    fragile.create_slot()
    wire = proxy(fragile.database.dsn)
    relay = fragile.streaming(dsn=through(wire, fragile.database.dsn), http=True)
    fragile.add()
    eventually(lambda: published(relay, fragile) == 1, "the relay works")
    assert fragile.kafka.proxy is not None
    fragile.kafka.proxy.freeze()
    fragile.add()
    wait_until_sent(fragile)
    wire.refuse()
    relay.wait_for_log("postgres.disconnected")
    stopped(relay, 75)
    fragile.kafka.proxy.thaw()
    fragile.drain()
    assert judged(fragile, witness).events == 2


def test_a_connection_that_ends_while_a_stop_reads_a_transaction_to_its_end_is_a_stop_before_all_was_delivered(
    outbox: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    outbox.create()
    outbox.create_slot()
    commit_at_once(outbox, 3000)
    wire = proxy(outbox.database.dsn)
    relay = outbox.relay(*SLOWLY, dsn=through(wire, outbox.database.dsn, wal_sender_timeout=3))
    outbox.records(until=1)
    relay.terminate()
    wire.refuse()
    assert relay.wait(10) == 75
    eventually(lambda: slot_is_free(outbox), "the slot is free")
    outbox.drain()
    assert judged(outbox, witness).events == 3000


def test_a_clean_stop_with_a_backlog_that_is_not_read_yet_keeps_its_last_acknowledgement(
    outbox: Outbox, witness: Witness
) -> None:
    """What is closed with unread data in its socket is reset, and the acknowledgement before it may be lost."""
    outbox.create()
    outbox.create_slot()
    commit_one_by_one(outbox, 20_000)
    for _ in range(3):
        before = len(outbox.records())
        relay = outbox.streaming("--max-in-flight-events", "100", "-X", "linger.ms=20")
        outbox.records(until=before + 200)
        stopped(relay, 0, within=10)
        eventually(lambda: slot_is_free(outbox), "the slot is free")
    stood = confirmed(outbox)
    outbox.drain()
    verdict = judged(outbox, witness)
    assert verdict.duplicates == 0
    last = witness.transactions()[-1].end_lsn
    assert stood < last, "there was no backlog left: this test says less than it should"


def wait_until_sent(outbox: Outbox) -> None:
    """Wait until the server has sent all that is committed."""
    lsn = outbox.current_lsn()
    query = (
        f"SELECT sent_lsn >= '{lsn}' FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
        " WHERE s.slot_name = 'cdc_outbox'"
    )
    eventually(lambda: outbox.database.execute(query) == [(True,)], "the relay has been sent the events")
