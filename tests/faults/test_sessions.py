"""A connection, its ledger and its reports live and die together: the relay connects again by itself, and loses nothing."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.ports import free_port
from tests.faults.acts import (
    UNANSWERED,
    PatientWriters,
    all_confirmed,
    confirmed,
    ends_well,
    logged_at,
    metric,
    published,
    terminate_walsender,
    through,
)
from tests.plugins.outbox import Outbox
from tests.plugins.waiting import eventually
from tests.servers.proxy import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.postgres import PostgresServer
    from tests.servers.proxy import Proxy

TIMEOUT = 3.0
"""wal_sender_timeout of the tests that wait for it, seconds."""

LATE = 3.0
"""Seconds of grace for a busy machine, where a promise has a number."""


@pytest.fixture
def ready(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    return outbox


def test_a_terminated_walsender_is_followed_by_another_and_each_reconnect_is_counted(
    ready: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    relay = ready.streaming(http=True)
    with writers(rate=100) as load:
        for number in (1, 2, 3):
            written = load.committed
            eventually(lambda: load.committed > written + 100, "writers write")  # noqa: B023
            terminate_walsender(ready.database)
            relay.wait_for_log("streaming", nth=number + 1)
    assert metric(relay, "reconnects_total", component="postgres") == 3
    assert metric(relay, "reconnects_total", component="kafka") == 0
    assert metric(relay, "connected", component="postgres") == 1
    verdict = ends_well(ready, relay, witness, load)
    assert verdict.events > 300


@pytest.mark.parametrize("how", ["reset", "close", "in mid message to us", "in mid message to the server"])
def test_a_connection_that_is_cut_is_made_again(
    how: str,
    ready: Outbox,
    witness: Witness,
    writers: Callable[..., Writers],
    proxy: Callable[[str], Proxy],
) -> None:
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn))
    with writers(rate=100) as load:
        for number in (1, 2):
            written = load.committed
            eventually(lambda: load.committed > written + 100, "writers write")  # noqa: B023
            if how == "reset":
                wire.cut(how="reset")
            elif how == "close":
                wire.cut(how="close")
            elif how == "in mid message to us":
                wire.cut_after(10_007, Direction.TO_CLIENT)
            else:
                wire.cut_after(50, Direction.TO_SERVER)
            relay.wait_for_log("streaming", nth=number + 1)
    ends_well(ready, relay, witness, load)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restart_of_the_server_loses_nothing(
    mode: str,
    own_postgres: Callable[..., PostgresServer],
    kafka: KafkaCluster,
    relay: Callable[..., Relay],
) -> None:
    server = own_postgres(durable=True)
    ready = Outbox(server.create_database(), kafka, relay)
    ready.create()
    ready.create_slot()
    witness = _witness(ready)
    running = ready.streaming()
    with PatientWriters(ready.database, rate=100) as load:
        for number in (1, 2):
            written = load.committed
            eventually(lambda: load.committed > written + 100, "writers write")  # noqa: B023
            server.embedded.restart(mode)
            running.wait_for_log("streaming", nth=number + 1)
    ends_well(ready, running, witness, load)


def _witness(outbox: Outbox) -> Witness:
    from tests.plugins.oracle import Witness

    return Witness(outbox.database)


def test_a_silent_connection_is_given_up_within_the_servers_own_timeout(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn, wal_sender_timeout=TIMEOUT))
    ready.confirm()
    began = time.time()
    wire.freeze()
    ready.add()
    lost = relay.wait_for_log("postgres.disconnected")
    assert "no data from PostgreSQL" in lost["error"]
    assert TIMEOUT * 0.6 < logged_at(lost) - began < TIMEOUT + LATE
    wire.thaw()
    relay.wait_for_log("streaming", nth=2)
    ends_well(ready, relay, witness)


def test_a_relay_that_has_streamed_and_lost_postgresql_is_reconnecting(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn), http=True)
    wire.refuse()
    relay.wait_for_log("postgres.disconnected")
    eventually(lambda: metric(relay, "state", state="reconnecting") == 1, "the state is reconnecting")
    assert metric(relay, "state", state="starting") == 0
    assert metric(relay, "connected", component="postgres") == 0
    wire.accept()
    eventually(lambda: metric(relay, "state", state="streaming") == 1, "the relay streams again")
    ends_well(ready, relay, witness)


def test_a_server_that_vanishes_silently_is_noticed_and_the_next_connection_streams(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    """The server saw the connection end; we did not."""
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn, wal_sender_timeout=TIMEOUT))
    began = time.time()
    wire.half_open(gone="server")
    ready.add()
    assert logged_at(relay.wait_for_log("streaming", nth=2)) - began < TIMEOUT + LATE
    ends_well(ready, relay, witness)


def test_a_connection_that_ended_for_the_relay_only_keeps_the_slot_until_the_servers_timeout_and_no_longer(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn, wal_sender_timeout=TIMEOUT))
    began = time.time()
    wire.half_open(gone="client")
    ready.add()
    relay.wait_for_log("standby")
    assert logged_at(relay.wait_for_log("streaming", nth=2)) - began < TIMEOUT + LATE
    ends_well(ready, relay, witness)


def test_a_late_report_of_an_older_connection_moves_nothing(fragile: Outbox, witness: Witness) -> None:
    fragile.create()
    fragile.create_slot()
    kafka = fragile.kafka
    assert kafka.proxy is not None
    dsn = fragile.database.server.dsn_for(dbname=fragile.database.name, options="-c wal_sender_timeout=1s")
    relay = fragile.streaming(dsn=dsn, http=True)
    fragile.add()
    all_confirmed(fragile)
    kafka.proxy.freeze(Direction.TO_CLIENT)
    early = fragile.add_all([{} for _ in range(UNANSWERED)])
    fragile.records(until=1 + len(early))
    kafka.proxy.freeze(Direction.TO_SERVER)
    before = confirmed(fragile)
    terminate_walsender(fragile.database)
    relay.wait_for_log("streaming", nth=2)
    fragile.add()
    eventually(
        lambda: metric(relay, "events_received_total", table="public.outbox") >= 2 + 2 * len(early),
        "all are read again",
    )
    kafka.proxy.thaw(Direction.TO_CLIENT)
    eventually(lambda: published(relay, fragile) >= 1 + len(early), "the reports of the first connection are served")
    told = metric(relay, "last_feedback_timestamp_seconds")
    eventually(lambda: metric(relay, "last_feedback_timestamp_seconds") > told + 0.5, "the server is told where we are")
    assert confirmed(fragile) == before
    kafka.proxy.thaw()
    verdict = ends_well(fragile, relay, witness)
    assert verdict.duplicates == len(early)


def test_the_pauses_between_attempts_grow_are_jittered_and_end_with_a_stop(
    ready: Outbox, proxy: Callable[[str], Proxy]
) -> None:
    """Each attempt is taken, and ended, by a proxy that has no server behind it."""
    attempts = proxy(f"127.0.0.1:{free_port()}")
    relay = ready.relay(dsn=through(attempts, ready.database.dsn))
    times = []
    for number in range(1, 6):
        eventually(lambda: attempts.accepted >= number, "the next attempt")  # noqa: B023
        times.append(time.monotonic())
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    jitter = [pause - least for pause, least in zip(pauses, (0.2, 0.4, 0.8, 1.6), strict=True)]
    assert min(jitter) > -0.05, pauses
    assert max(jitter) < 0.5 + LATE, pauses
    assert max(jitter) - min(jitter) > 0.02, "no two relays would ever come at different times"
    began = time.monotonic()
    relay.terminate()
    assert relay.wait() == 0
    assert time.monotonic() - began < LATE
    assert attempts.accepted == 5
