"""A NAT that forgets idle connections: a first start that takes longer sends each row once, and then streams."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import ends_well, through
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness
    from tests.plugins.outbox import Outbox
    from tests.servers.proxy import Proxy

IDLE_SECONDS: Final = 4.0
"""The NAT forgets a connection after this time without a byte."""

SLOWLY: Final = ("--max-in-flight-events", "50", "-X", "linger.ms=200")
"""At most 250 rows a second."""

ROWS: Final = 2500
"""Ten seconds of rows."""


def behind_a_nat(outbox: Outbox, proxy: Callable[[str], Proxy]) -> str:
    """An outbox with rows and no slot. Returns the DSN by way of the NAT."""
    outbox.create()
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" SELECT 'order', n % 10, 'OrderPlaced', to_json(n) FROM generate_series(1, {ROWS}) n"
    )
    nat = proxy(outbox.database.dsn)
    nat.forget_idle(IDLE_SECONDS)
    return through(nat, outbox.database.dsn, wal_sender_timeout=IDLE_SECONDS)


def started_and_cut_off(outbox: Outbox, proxy: Callable[[str], Proxy]) -> Relay:
    """A relay in the middle of a first start, whose connections are lost while the server's side of them stays open."""
    outbox.create()
    outbox.add_all([{} for _ in range(ROWS)])
    network = proxy(outbox.database.dsn)
    relay = outbox.relay(*SLOWLY, dsn=through(network, outbox.database.dsn))
    relay.wait_for_log("snapshot.started")
    network.half_open(gone="client")
    return relay


def test_a_first_start_sends_each_row_once_and_then_streams(
    outbox: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    dsn = behind_a_nat(outbox, proxy)
    began = time.monotonic()
    relay = outbox.relay(*SLOWLY, dsn=dsn)
    relay.wait_for_log("streaming", timeout=60)
    assert time.monotonic() - began > 2 * IDLE_SECONDS
    verdict = ends_well(outbox, relay, witness)
    assert (verdict.events, verdict.duplicates) == (ROWS + 1, 0)


def test_a_first_start_whose_connections_are_lost_begins_again_although_the_server_keeps_its_session(
    outbox: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    """The old session holds the lock under which the slot is made, until the server finds that its client is gone."""
    relay = started_and_cut_off(outbox, proxy)
    relay.wait_for_log("snapshot.started", nth=2)
    relay.wait_for_log("streaming", timeout=60)
    ends_well(outbox, relay, witness)


@pytest.mark.nightly
def test_a_first_start_whose_host_is_gone_does_not_keep_the_next_relay_away(
    outbox: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    """A proxy that answers for the dead client: the server's TCP keepalives find nothing."""
    started_and_cut_off(outbox, proxy).kill()
    relay = outbox.relay()
    relay.wait_for_log("standby")
    relay.wait_for_log("streaming", timeout=60)
    ends_well(outbox, relay, witness)


@pytest.mark.nightly
def test_a_first_start_that_stood_still_longer_than_its_session_is_kept_begins_again(
    outbox: Outbox, witness: Witness
) -> None:
    outbox.create()
    outbox.add_all([{} for _ in range(ROWS)])
    relay = outbox.relay(*SLOWLY)
    outbox.records(until=100)
    relay.stop()
    held = (
        "SELECT l.pid FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
        " WHERE l.locktype = 'advisory' AND d.datname = current_database()"
    )
    eventually(lambda: not outbox.database.execute(held), "the server ends the session", seconds=60)
    relay.cont()
    relay.wait_for_log("snapshot.started", nth=2)
    relay.wait_for_log("streaming", timeout=60)
    ends_well(outbox, relay, witness)


def test_a_first_start_that_waits_for_kafka_sends_each_row_once_and_then_streams(
    fragile: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    dsn = behind_a_nat(fragile, proxy)
    relay = fragile.relay(*SLOWLY, dsn=dsn)
    fragile.records(until=100)
    assert fragile.kafka.proxy is not None
    fragile.kafka.proxy.freeze()
    frozen = time.monotonic()
    eventually(lambda: time.monotonic() - frozen > 2 * IDLE_SECONDS, "the NAT has had time to forget")
    fragile.kafka.proxy.thaw()
    relay.wait_for_log("streaming", timeout=60)
    verdict = ends_well(fragile, relay, witness)
    assert (verdict.events, verdict.duplicates) == (ROWS + 1, 0)
