"""SIGKILL at the moments that matter, each reached from outside: no loss, order kept, and no more repeated than has to be."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import (
    UNANSWERED,
    commit_at_once,
    commit_one_by_one,
    confirmed,
    judged,
    slot_is_free,
    through,
    warmed_up,
)
from tests.plugins.kafka import KafkaCluster
from tests.plugins.metrics import metrics
from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import Outbox, ids, no_slot_left
from tests.plugins.waiting import eventually
from tests.servers.mock_kafka import Request
from tests.servers.proxy import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database
    from tests.servers.mock_kafka import MockKafka
    from tests.servers.proxy import Proxy

SLOWLY: Final = ("--max-in-flight-events", "100", "-X", "linger.ms=50")
"""At most 2,000 events a second: time to act in the middle of a few thousand."""


@pytest.fixture
def ready(fragile: Outbox) -> Outbox:
    fragile.create()
    fragile.create_slot()
    return fragile


def killed(relay: Relay, outbox: Outbox) -> None:
    """SIGKILL, and the server has noticed."""
    relay.kill()
    eventually(lambda: slot_is_free(outbox), "the server lets go of the slot")


def nothing_of_the_last_transaction_is_confirmed(outbox: Outbox, witness: Witness) -> bool:
    return confirmed(outbox) < witness.transactions()[-1].end_lsn


def broker_proxy(kafka: KafkaCluster) -> Proxy:
    assert kafka.proxy is not None
    return kafka.proxy


def test_before_anything_is_produced(ready: Outbox, witness: Witness) -> None:
    """Read from PostgreSQL, in librdkafka's queue, and Kafka has none of it: all comes, once."""
    relay = ready.streaming(http=True)
    broker_proxy(ready.kafka).freeze()
    commit_one_by_one(ready, 300)
    eventually(lambda: metrics(relay)["in_flight_events"] == 300, "all is read")
    killed(relay, ready)
    assert ready.records() == []
    broker_proxy(ready.kafka).cut()
    broker_proxy(ready.kafka).thaw()
    assert confirmed(ready) < witness.transactions()[0].end_lsn
    ready.drain()
    verdict = judged(ready, witness)
    assert (verdict.events, verdict.duplicates) == (300, 0)


def test_after_delivery_before_its_report(ready: Outbox, witness: Witness) -> None:
    """Kafka has them, and the relay does not know it: all of them come again, with the same ids."""
    relay = ready.streaming()
    warmed_up(ready)
    broker_proxy(ready.kafka).freeze(Direction.TO_CLIENT)
    written = ready.add_all([{} for _ in range(UNANSWERED)])
    ready.records(until=1 + len(written))
    killed(relay, ready)
    assert nothing_of_the_last_transaction_is_confirmed(ready, witness)
    broker_proxy(ready.kafka).cut()
    broker_proxy(ready.kafka).thaw()
    ready.drain()
    verdict = judged(ready, witness)
    assert (verdict.events, verdict.duplicates) == (1 + len(written), len(written))


def test_after_delivery_before_the_status(ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]) -> None:
    """The relay knows it, and the server does not: the proxy holds the status updates back."""
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn), http=True)
    warmed_up(ready)
    wire.freeze(Direction.TO_SERVER)
    written = ready.add_all([{} for _ in range(100)])
    end = witness.transactions()[-1].end_lsn
    eventually(
        lambda: metrics(relay)["confirmed_lsn_bytes"] >= end, "all is delivered, and the relay has acknowledged it"
    )
    relay.kill()
    wire.cut()
    eventually(lambda: slot_is_free(ready), "the server lets go of the slot")
    assert nothing_of_the_last_transaction_is_confirmed(ready, witness), "a status came through"
    wire.thaw()
    ready.drain()
    verdict = judged(ready, witness)
    assert (verdict.events, verdict.duplicates) == (101, len(written))


def test_after_the_status_before_copydone(ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]) -> None:
    """Stopping: the server has the last acknowledgement, and the end of the copy never reaches it. Nothing comes again."""
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn))
    ready.add_all([{} for _ in range(100)])
    now = ready.current_lsn()
    eventually(lambda: ready.confirmed_past(now), "all is confirmed")
    wire.freeze(Direction.TO_SERVER)
    relay.terminate()
    relay.wait_for_log("draining")
    assert relay.running
    relay.kill()
    assert not relay.log_lines("stopped")
    wire.cut()
    eventually(lambda: slot_is_free(ready), "the server lets go of the slot")
    wire.thaw()
    ready.drain()
    verdict = judged(ready, witness)
    assert (verdict.events, verdict.duplicates) == (100, 0)


def test_after_copydone_before_the_server_has_ended_the_copy(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    """The server hears everything, and its answer never comes."""
    wire = proxy(ready.database.dsn)
    relay = ready.streaming(dsn=through(wire, ready.database.dsn))
    warmed_up(ready)
    ready.add_all([{} for _ in range(100)])
    ready.records(until=101)
    wire.freeze(Direction.TO_CLIENT)
    relay.terminate()
    eventually(lambda: slot_is_free(ready), "the server has ended the copy")
    assert relay.running
    relay.kill()
    wire.cut()
    wire.thaw()
    ready.drain()
    verdict = judged(ready, witness)
    assert (verdict.events, verdict.duplicates) == (101, 0)


def test_in_the_middle_of_a_transaction(ready: Outbox, witness: Witness) -> None:
    """Its first rows are in Kafka, and its last ones are not read: it is not confirmed, and all of it comes again."""
    relay = ready.streaming(*SLOWLY, http=True)
    warmed_up(ready)
    commit_at_once(ready, 5000)
    orders = f'events_published_total{{topic="{ready.prefix}order"}}'
    eventually(lambda: metrics(relay)[orders] > 1000, "some of it is delivered")
    killed(relay, ready)
    assert nothing_of_the_last_transaction_is_confirmed(ready, witness)
    sent = len(ready.records())
    assert 1000 < sent < 5000
    ready.drain()
    verdict = judged(ready, witness)
    assert verdict.events == 5001
    assert verdict.duplicates == sent - 1


@pytest.mark.nightly
def test_under_load_little_is_repeated(ready: Outbox, witness: Witness) -> None:
    """Confirmed closely: what comes again is what was on its way, whatever the backlog."""
    commit_one_by_one(ready, 30_000)
    kills = 3
    orders = f'events_published_total{{topic="{ready.prefix}order"}}'
    for _ in range(kills):
        relay = ready.streaming("--max-in-flight-events", "2000", http=True)
        eventually(lambda relay=relay: metrics(relay).get(orders, 0) > 3000, "the relay is in full flow")
        killed(relay, ready)
    ready.drain()
    verdict = judged(ready, witness)
    assert verdict.events == 30_000
    assert verdict.duplicates < kills * 10_000
    print(f"{verdict.duplicates} of {verdict.events} came again after {kills} kills")


def test_in_the_middle_of_a_snapshot(fragile: Outbox) -> None:
    """No slot is left behind; the next start sends all rows again, with the same ids."""
    fragile.create()
    written = fragile.add_all([{"aggregateid": str(number % 7)} for number in range(5000)])
    relay = fragile.relay(*SLOWLY, http=True)
    relay.wait_for_log("snapshot.started")
    eventually(lambda: metrics(relay)["snapshot_rows_total"] > 1000, "some rows are delivered")
    relay.kill()
    no_slot_left(fragile)
    sent = set(ids(fragile.records()))
    assert 1000 < len(sent) < 5000
    fragile.drain()
    verdict = judge([Event(id_, str(number % 7)) for number, id_ in enumerate(written)], fragile.records())
    assert verdict.duplicates >= len(sent)


def test_between_the_last_row_of_a_snapshot_and_the_slot(
    database: Database, mock_kafka: MockKafka, relay: Callable[..., Relay]
) -> None:
    """All rows are in Kafka, and no report comes back: the slot is not made before, and the next start begins again."""
    outbox = Outbox(database, KafkaCluster(mock_kafka.brokers), relay)
    outbox.create()
    mock_kafka.create_topic(f"{outbox.prefix}order", partitions=1)
    keys = [str(number) for number in range(8)]  # a key's second record waits until its first is confirmed
    written = outbox.add_all([{"aggregateid": key} for key in keys])
    mock_kafka.fail(Request.PRODUCE, 0, late=60)
    victim = outbox.relay("-X", "linger.ms=200")  # one request for all of them
    victim.wait_for_log("snapshot.started")
    outbox.records(until=8)
    assert not victim.log_lines("slot.created")
    victim.kill()
    no_slot_left(outbox)
    outbox.drain()
    events = [Event(id_, key) for id_, key in zip(written, keys, strict=True)]
    assert judge(events, outbox.records()).duplicates == 8


def test_in_the_middle_of_the_search_for_a_rejected_record(ready: Outbox, witness: Witness) -> None:
    """Some transactions are isolated already, the rejected record is not found: the next start searches again."""
    topic = ready.kafka.create_topic(ready.prefix + "small", partitions=1, config={"max.message.bytes": "2000"})
    rows = [{"aggregatetype": "small", "aggregateid": str(number % 3)} for number in range(400)]
    rows[399]["payload"] = '"' + secrets.token_hex(10_000) + '"'
    rejected = ready.add_all(rows)[399]
    broker_proxy(ready.kafka).delay(0.01)
    relay = ready.streaming("--on-poison", "skip", "-X", "linger.ms=200", http=True)
    relay.wait_for_log("delivery.isolating")
    small = f'events_published_total{{topic="{topic}"}}'
    eventually(lambda: metrics(relay).get(small, 0) > 20, "some went alone")
    assert not relay.log_lines("poison")
    killed(relay, ready)
    broker_proxy(ready.kafka).delay(0.0)
    ready.drain("--on-poison", "skip")
    committed = [event for event in witness.committed() if event.id != rejected]
    assert judge(committed, ready.records(), last_counts=True).events == 399
