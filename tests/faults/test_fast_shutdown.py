"""A fast shutdown of PostgreSQL waits for its walsenders: never long for one whose relay has a Kafka that is down."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.relay.catalog_watch import PAUSED_WATCH_SECONDS
from cdc_outbox.relay.server_shutdown import GRACE_SECONDS
from tests.faults.acts import QUICK_RECONNECT, STATUS_BYTES, commit_one_by_one, down, judged, metric, through, up
from tests.plugins.oracle import Witness
from tests.plugins.outbox import Outbox
from tests.plugins.waiting import eventually
from tests.servers.proxy import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer
    from tests.servers.proxy import Proxy

LATE: Final = 3.0
"""Seconds of grace for a busy machine."""

STATUS_A_SECOND: Final = 10

CONNECT_BYTES: Final = 1_000
"""At most what a connection that is refused, or asks a few things, sends besides: some 600 bytes seen."""


@pytest.fixture
def server(own_postgres: Callable[..., PostgresServer]) -> PostgresServer:
    return own_postgres()


@pytest.fixture
def shop(server: PostgresServer, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox of which both servers may be broken."""
    outbox = Outbox(server.create_database(), fragile_kafka, relay)
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.create()
    outbox.create_slot()
    return outbox


def stop(server: PostgresServer) -> float:
    """Stop it fast. How long that took, in seconds."""
    assert server.embedded is not None
    began = time.monotonic()
    server.embedded.stop("fast", timeout=60)
    return time.monotonic() - began


def start_again(server: PostgresServer, shop: Outbox, running: Relay, witness: Witness) -> None:
    """Server and Kafka are there again: everything arrives."""
    assert server.embedded is not None
    server.embedded.start()
    up(shop.kafka)
    running.wait_for_log("streaming", nth=2)
    shop.confirm()
    running.terminate()
    assert running.wait() == 0
    judged(shop, witness)


def test_with_kafka_up_a_fast_shutdown_takes_no_time(server: PostgresServer, shop: Outbox) -> None:
    witness = Witness(shop.database)
    running = shop.streaming()
    commit_one_by_one(shop, 500)
    assert stop(server) < 2
    start_again(server, shop, running, witness)


@pytest.mark.nightly
def test_with_kafka_down_a_fast_shutdown_waits_ten_seconds_and_is_not_flooded_with_status_updates(
    server: PostgresServer, shop: Outbox, proxy: Callable[[str], Proxy]
) -> None:
    witness = Witness(shop.database)
    wire = proxy(shop.database.dsn)
    running = shop.streaming(*QUICK_RECONNECT, dsn=through(wire, shop.database.dsn))
    shop.add()
    shop.records(until=1)
    down(shop.kafka)
    shop.add()
    connections, sent = wire.accepted, wire.forwarded[Direction.TO_SERVER]
    seconds = stop(server)
    sent = wire.forwarded[Direction.TO_SERVER] - sent
    assert seconds < GRACE_SECONDS + LATE
    assert sent / STATUS_BYTES > seconds, "the server is answered"
    assert (sent - (wire.accepted - connections) * CONNECT_BYTES) / STATUS_BYTES < STATUS_A_SECOND * seconds + 1
    lost = running.wait_for_log("postgres.disconnected")
    assert "PostgreSQL is shutting down; disconnecting, because Kafka did not confirm" in lost["error"]
    start_again(server, shop, running, witness)


@pytest.mark.nightly
def test_with_reading_paused_by_backpressure_a_fast_shutdown_waits_little_longer(
    server: PostgresServer, shop: Outbox
) -> None:
    witness = Witness(shop.database)
    running = shop.streaming("--max-in-flight-events", "50", *QUICK_RECONNECT, http=True)
    shop.add()
    shop.records(until=1)
    down(shop.kafka)
    commit_one_by_one(shop, 2000)
    eventually(lambda: metric(running, "backpressure_seconds_total") > 0.2, "reading is paused")
    assert stop(server) < GRACE_SECONDS + PAUSED_WATCH_SECONDS + LATE
    assert "PostgreSQL is shutting down" in running.wait_for_log("postgres.disconnected")["error"]
    start_again(server, shop, running, witness)
