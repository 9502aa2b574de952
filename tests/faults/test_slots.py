"""A slot dropped, made again or lost underneath: the relay stops, names a cure, and after the cure nothing is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.acts import all_confirmed, ends_well, judged, recover, slot_is_free, terminate_walsender, through
from tests.plugins.oracle import Witness
from tests.plugins.outbox import SLOT, Outbox, ended, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer
    from tests.servers.proxy import Proxy

SMALL_WAL: Final = {
    "max_slot_wal_keep_size": "1MB",
    "wal_keep_size": "0",
    "min_wal_size": "32MB",
    "max_wal_size": "32MB",
}
"""A slot is lost after two segments, of 16 MB each."""


class Away:
    """A relay that is kept from its server, so that a test can do to the slot what it likes."""

    def __init__(self, outbox: Outbox, wire: Proxy, *arguments: str) -> None:
        self._outbox, self._wire = outbox, wire
        dsn = through(wire, outbox.database.dsn, wal_sender_timeout=2)
        self.relay = outbox.streaming(*arguments, dsn=dsn, http=True)
        outbox.add()
        outbox.records(until=1)
        all_confirmed(outbox)
        wire.refuse()
        eventually(lambda: slot_is_free(outbox), "the slot is free")

    def comes_back(self) -> Relay:
        self._wire.accept()
        return self.relay


@pytest.fixture
def ready(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    return outbox


@pytest.fixture
def away(ready: Outbox, proxy: Callable[[str], Proxy]) -> Callable[..., Away]:
    return lambda *arguments: Away(ready, proxy(ready.database.dsn), *arguments)


def drop_slot(outbox: Outbox) -> None:
    outbox.database.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")


def wal_status(outbox: Outbox) -> Any:
    slot = outbox.slot()
    return slot and slot["wal_status"]


# Dropped, made again


def test_a_slot_that_was_dropped_while_the_relay_ran_stops_it_and_the_next_start_sends_what_is_in_the_table(
    ready: Outbox, witness: Witness, away: Callable[..., Away]
) -> None:
    gone = away()
    drop_slot(ready)
    ready.add()
    ended(gone.comes_back(), 78, SLOT, "is gone", "slot recover", "new start")
    ready.drain()
    assert judged(ready, witness).duplicates == 1


def test_on_slot_lost_recover_makes_a_slot_that_was_dropped_again_by_itself(
    ready: Outbox, witness: Witness, away: Callable[..., Away]
) -> None:
    gone = away("--on-slot-lost", "recover")
    drop_slot(ready)
    ready.add()
    relay = gone.comes_back()
    assert relay.wait_for_log("snapshot.finished")["rows"] == 2
    relay.wait_for_log("streaming", nth=2)
    ready.add()
    assert ends_well(ready, relay, witness).duplicates == 1


def test_a_recovered_slot_is_known_when_its_connection_is_lost_at_once(
    ready: Outbox, witness: Witness, away: Callable[..., Away]
) -> None:
    gone = away("--on-slot-lost", "recover")
    drop_slot(ready)
    ready.add()
    relay = gone.comes_back()
    relay.wait_for_log("streaming", nth=2)
    terminate_walsender(ready.database)
    relay.wait_for_log("streaming", nth=3)
    ends_well(ready, relay, witness)


def test_a_slot_that_was_created_again_is_not_taken_for_the_old_one_and_recovery_closes_the_gap(
    ready: Outbox, witness: Witness, away: Callable[..., Away]
) -> None:
    gone = away()
    drop_slot(ready)
    skipped = ready.add()
    ready.create_slot()
    ended(gone.comes_back(), 78, SLOT, "made again", "slot recover")
    assert skipped not in ids(ready.records())
    recover(ready)
    ready.drain()
    judged(ready, witness)


def test_a_relay_that_has_stood_by_notices_that_its_slot_was_made_again(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    wire = proxy(ready.database.dsn)
    first = ready.streaming()
    second = ready.relay(dsn=through(wire, ready.database.dsn, wal_sender_timeout=2))
    second.wait_for_log("standby")
    ready.add()
    first.terminate()
    assert first.wait() == 0
    second.wait_for_log("streaming")
    ready.confirm()
    wire.refuse()
    second.wait_for_log("postgres.disconnected")
    eventually(lambda: slot_is_free(ready), "the slot is free")
    drop_slot(ready)
    skipped = ready.add()
    ready.create_slot()
    wire.accept()
    ended(second, 78, SLOT, "made again", "slot recover")
    assert skipped not in ids(ready.records())
    recover(ready)
    ready.drain()
    judged(ready, witness)


def test_a_slot_that_was_advanced_by_hand_is_a_gap(ready: Outbox, witness: Witness, away: Callable[..., Away]) -> None:
    gone = away()
    ready.add()
    ready.database.execute(f"SELECT pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())")
    ended(gone.comes_back(), 78, SLOT, "advanced by hand", "slot recover")
    recover(ready)
    ready.drain()
    judged(ready, witness)


def test_relays_that_start_together_on_a_missing_slot_send_the_table_once(outbox: Outbox, witness: Witness) -> None:
    outbox.create()
    outbox.add_all([{} for _ in range(3000)])
    relays = [outbox.relay() for _ in range(3)]
    eventually(lambda: any(each.log_lines("streaming") for each in relays), "one of them streams")
    for each in relays:
        if not each.log_lines("streaming"):
            each.wait_for_log("standby", nth=2 if each.log_lines("slot.exists") else 1)
    outbox.confirm()
    assert sum(len(each.log_lines("snapshot.started")) for each in relays) == 1
    for each in relays:
        each.terminate()
    assert [each.wait() for each in relays] == [0, 0, 0]
    assert judged(outbox, witness).duplicates == 0


def test_of_two_relays_that_recover_one_slot_one_sends_the_table(
    ready: Outbox, witness: Witness, away: Callable[..., Away]
) -> None:
    gone = away("--on-slot-lost", "recover")
    drop_slot(ready)
    ready.add_all([{} for _ in range(3000)])
    other = ready.relay("--on-slot-lost", "recover")
    relay = gone.comes_back()
    other.wait_for_log("started")
    eventually(lambda: len(relay.log_lines("streaming")) == 2 or other.log_lines("streaming"), "one of them streams")
    ready.confirm()
    assert len(relay.log_lines("snapshot.started")) + len(other.log_lines("snapshot.started")) == 1
    for each in (relay, other):
        each.terminate()
        assert each.wait() == 0
    judged(ready, witness)


def test_a_slot_of_another_plugin_under_our_name_stops_a_running_relay(
    ready: Outbox, away: Callable[..., Away]
) -> None:
    gone = away()
    drop_slot(ready)
    ready.database.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'test_decoding')")
    ended(gone.comes_back(), 78, SLOT, "test_decoding")


# Lost: the server gave it up


@pytest.fixture
def server(own_postgres: Callable[..., PostgresServer]) -> PostgresServer:
    return own_postgres(settings=SMALL_WAL)


@pytest.fixture
def small(server: PostgresServer, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox on a server that keeps little WAL, and with a Kafka that may be broken."""
    outbox = Outbox(server.create_database(), fragile_kafka, relay)
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.create()
    outbox.create_slot()
    return outbox


def lose_slot(outbox: Outbox) -> None:
    """Write WAL until the server gives the slot up."""

    def lost() -> bool:
        outbox.database.execute("SELECT pg_logical_emit_message(false, 'filler', 'x'), pg_switch_wal()")
        outbox.database.execute("CHECKPOINT")
        return bool(wal_status(outbox) == "lost")

    eventually(lost, "the slot is lost")


def test_a_lost_slot_is_refused_and_recovery_sends_every_row_in_the_table(small: Outbox) -> None:
    relay = small.streaming()
    first = small.add()
    small.records(until=1)
    relay.terminate()
    assert relay.wait() == 0
    missed = small.add()
    lose_slot(small)
    ended(small.relay(), 78, SLOT, "is lost", "slot recover")
    ended(small.relay(), 78, SLOT, "is lost", "slot recover")
    recovered = small.streaming("--on-slot-lost", "recover")
    assert recovered.log_lines("snapshot.finished", rows=2)
    later = small.add()
    records = small.records(until=4)
    assert ids(records) == [first, first, missed, later]
    assert wal_status(small) == "reserved"
    recovered.terminate()
    assert recovered.wait() == 0


@pytest.mark.parametrize("policy", ["stop", "recover"])
def test_a_slot_that_is_lost_under_a_relay_whose_kafka_is_down(policy: str, small: Outbox) -> None:
    relay = small.streaming("--on-slot-lost", policy, "-X", "reconnect.backoff.max.ms=200", "--shutdown-timeout", "3s")
    first = small.add()
    small.records(until=1)
    assert small.kafka.proxy is not None
    small.kafka.proxy.refuse()
    missed = small.add()
    lose_slot(small)
    if policy == "stop":
        ended(relay, 78, SLOT, "is lost", "slot recover")
        small.kafka.proxy.accept()
        recover(small)
        small.drain()
    else:
        relay.wait_for_log("postgres.disconnected")
        small.kafka.proxy.accept()
        relay.wait_for_log("snapshot.finished")
        relay.wait_for_log("streaming", nth=2)
        small.confirm()
        relay.terminate()
        assert relay.wait() == 0
    assert {first, missed} <= set(ids(small.records()))


def test_a_slot_that_was_idle_for_too_long_is_reported_as_such(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    server = own_postgres(settings={})
    if server.version < 180_000:
        pytest.skip("idle_replication_slot_timeout came with PostgreSQL 18")
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.create_slot()
    with server.connect() as admin:
        admin.execute("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'")
        admin.execute("SELECT pg_reload_conf()")
    missed = outbox.add()

    def lost() -> bool:
        outbox.database.execute("CHECKPOINT")
        return bool(wal_status(outbox) == "lost")

    eventually(lost, "the slot has been idle for too long")
    ended(outbox.relay(), 78, SLOT, "is lost", "slot recover")
    recover(outbox)
    outbox.drain()
    assert ids(outbox.records()) == [missed]
