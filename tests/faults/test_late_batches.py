"""A connection to Kafka whose packets are late, while the relay goes on over another one: what a late batch can do.

A batch that arrives twice from one producer is dropped by the broker, by its sequence number. A producer that was replaced has
another id, so its late batch is accepted: as duplicates. That their events come again, in the same order, and that the first of
an id is in order all the same, holds because
* a new producer sends again everything that is not confirmed, in order, and so every event of the late batch as well;
* the broker takes batches of one producer in a partition in the order of their numbers, or not at all: what it has of the old
  producer is the beginning of what that one sent.
So the events of a key come as two interleaved sequences, both in order, and the new one begins no later than the old one.

A process replaces its producer
* after a refused batch, in the stream: when all that is in flight is answered, or after 20 s (both below);
* after a refused batch of a first start or a replay, after a refused record that was sent alone, and for a topic that takes
  only smaller batches: with nothing in flight;
* after a fatal error: at once. The new session begins at the confirmed position, so the reasoning above covers it.
A new connection to PostgreSQL keeps the producer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import metric
from tests.plugins.oracle import examine, judge
from tests.plugins.outbox import Outbox, ids
from tests.plugins.waiting import eventually
from tests.servers.proxy import Direction, Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database

LIMIT: Final = 20_000
"""Bytes that the small topic takes in one record."""

QUICK: Final = ("-X", "reconnect.backoff.max.ms=200", "-X", "socket.timeout.ms=4000", "-X", "request.timeout.ms=3000")
"""A request that is held is given up after four seconds: then librdkafka connects again."""


@pytest.fixture
def outbox(database: Database, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox with two topics of one partition, the second one for small records only."""
    outbox = Outbox(database, fragile_kafka, relay)
    outbox.create()
    outbox.create_slot()
    outbox.kafka.create_topic(outbox.prefix + "order", partitions=1)
    outbox.kafka.create_topic(outbox.prefix + "small", partitions=1, config={"max.message.bytes": str(LIMIT)})
    return outbox


def wire(outbox: Outbox) -> Proxy:
    assert outbox.kafka.proxy is not None
    return outbox.kafka.proxy


def held(outbox: Outbox) -> str:
    """One event, whose batch waits in the proxy. Its id."""
    proxy = wire(outbox)
    before = proxy.held(Direction.TO_SERVER)
    written = outbox.add(payload='"held"')
    eventually(lambda: proxy.held(Direction.TO_SERVER) > before + 100, "the batch is on its way")
    return written


def orders(outbox: Outbox, until: int | Callable[..., bool] = 0) -> list[str]:
    return ids(outbox.kafka.consume(f"{outbox.prefix}order", until))


def refused_while_another_batch_is_held(outbox: Outbox, relay: Relay) -> str:
    """A record of one topic is refused; the answer arrives when a batch of the other topic is on its way. Its event's id."""
    proxy = wire(outbox)
    proxy.stall(Direction.TO_CLIENT)
    before = proxy.held(Direction.TO_CLIENT)
    outbox.add(aggregatetype="small", aggregateid="small", payload='"' + "x" * LIMIT + '"')
    eventually(lambda: proxy.held(Direction.TO_CLIENT) > before, "the broker has refused the record")
    proxy.stall(Direction.TO_SERVER)
    late = held(outbox)
    proxy.release(Direction.TO_CLIENT)
    assert relay.running
    return late


@pytest.fixture
def flowing(outbox: Outbox, witness: Witness) -> Callable[..., Relay]:
    """Starts a relay that leaves poison out; it has a record in each partition."""

    def start(*options: str) -> Relay:
        relay = outbox.streaming("--on-poison", "skip", "-X", "compression.type=none", *options, http=True)
        outbox.add_all([{}, {"aggregatetype": "small", "aggregateid": "small", "payload": "1"}])
        outbox.confirm()
        return relay

    return start


def test_a_late_copy_from_the_same_producer_is_dropped_by_the_broker(
    outbox: Outbox, flowing: Callable[..., Relay], witness: Witness
) -> None:
    """The request times out, the producer connects again and sends the batch a second time; then the first copy arrives."""
    relay = flowing(*QUICK)
    wire(outbox).stall(Direction.TO_SERVER)
    late = held(outbox)
    behind = outbox.add_all([{}, {}, {}])
    orders(outbox, lambda records: {late, *behind} <= set(ids(records)))
    wire(outbox).release(Direction.TO_SERVER)
    outbox.confirm()
    assert judge(witness.committed(), outbox.records()).duplicates == 0
    assert len(relay.log_lines("streaming")) == 1


def test_a_replaced_producer_is_waited_for_so_that_its_batch_comes_before_its_successors(
    outbox: Outbox, flowing: Callable[..., Relay], witness: Witness
) -> None:
    relay = flowing()
    late = refused_while_another_batch_is_held(outbox, relay)
    eventually(lambda: metric(relay, "lag_seconds") > 4, "the refusal has been known for seconds")
    assert not relay.log_lines("delivery.isolating"), "the refusal is handled when every batch is answered"
    wire(outbox).release(Direction.TO_SERVER)
    relay.wait_for_log("delivery.isolating")
    behind = outbox.add_all([{}, {}])
    outbox.confirm()
    found = orders(outbox)
    assert not examine(witness.committed(), outbox.records()).disorder
    assert max(place for place, each in enumerate(found) if each == late) < found.index(behind[0])


def test_a_batch_that_is_later_than_that_is_a_duplicate_and_the_first_of_each_id_is_in_order(
    outbox: Outbox, flowing: Callable[..., Relay], witness: Witness
) -> None:
    relay = flowing(*QUICK)
    late = refused_while_another_batch_is_held(outbox, relay)
    relay.wait_for_log("delivery.isolating", timeout=60)
    behind = outbox.add_all([{}, {}])
    found = orders(outbox, lambda records: set(behind) <= set(ids(records)))
    assert [each for each in found if each in {late, *behind}] == [late, *behind]
    wire(outbox).release(Direction.TO_SERVER)
    found = orders(outbox, lambda records: ids(records).count(late) == 2)
    assert found[-1] == late, "it comes behind newer records of its key"
    assert not examine(witness.committed(), outbox.records()).disorder
