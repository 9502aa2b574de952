"""A stop: what was read is delivered and confirmed, the slot is free, and it never takes longer than it may."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.demo.ports import free_port
from tests.plugins.command import environment
from tests.plugins.oracle import judge
from tests.plugins.outbox import Outbox, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.postgres import Database
    from tests.servers.kafka import Kafka
    from tests.servers.proxy import Proxy

SLOWLY: Final = ("--max-in-flight-events", "50", "-X", "linger.ms=200")
"""At most 250 rows a second, so that a transaction has a middle to be stopped in."""


def server(outbox: Outbox) -> Kafka:
    assert outbox.kafka.server is not None
    return outbox.kafka.server


def slot_is_free(outbox: Outbox) -> bool:
    slot = outbox.slot()
    return slot is not None and not slot["active"]


def test_sigterm_under_load_ends_with_0_frees_the_slot_and_the_next_start_repeats_nothing(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.create_slot()
    with writers(threads=3, rate=400) as load:
        for _ in range(3):
            relay = outbox.streaming()
            before = load.committed
            eventually(lambda before=before: load.committed > before + 300, "writers write")  # type: ignore[misc]
            relay.terminate()
            assert relay.wait() == 0
            assert slot_is_free(outbox)
            assert relay.wait_for_log("stopped", exit_code=0)
    outbox.drain()
    verdict = judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert verdict.events > 900
    assert verdict.duplicates == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_relay_stops_at_once(outbox: Outbox, number: signal.Signals) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming()
    began = time.monotonic()
    relay.send_signal(number)
    assert relay.wait() == 0
    assert time.monotonic() - began < 8, "of 25 seconds that it may take"
    assert slot_is_free(outbox)


def test_in_the_middle_of_a_transaction_it_reads_on_to_the_end_of_it(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    written = outbox.add_all([{} for _ in range(400)])
    relay = outbox.relay(*SLOWLY)
    outbox.records(until=50)
    relay.terminate()
    assert relay.wait() == 0
    assert len(outbox.records()) == 400
    outbox.drain()
    assert ids(outbox.records()) == written


def test_a_transaction_that_takes_too_long_is_left_and_sent_again_with_the_same_ids(
    outbox: Outbox, witness: Witness
) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.add_all([{} for _ in range(1500)])
    relay = outbox.relay(*SLOWLY, "--shutdown-timeout", "2s")
    outbox.records(until=50)
    began = time.monotonic()
    relay.terminate()
    assert relay.wait() == 75
    assert time.monotonic() - began < 6
    outbox.drain()
    verdict = judge(witness.committed(), outbox.records())
    assert verdict.events == 1500
    assert verdict.duplicates >= 50


@pytest.fixture
def fragile(database: Database, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox whose Kafka may be broken."""
    outbox = Outbox(database, fragile_kafka, relay)
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    return outbox


def stuck(outbox: Outbox, *arguments: str) -> Relay:
    """A relay that has events in flight which a Kafka that no longer answers will never confirm."""
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming(*arguments)
    outbox.add()
    outbox.records(until=1)
    server(outbox).pause()
    before = outbox.current_lsn()
    outbox.add_all([{} for _ in range(20)])
    received = f"SELECT sent_lsn > '{before}' FROM pg_stat_replication WHERE application_name = 'cdc-outbox'"
    eventually(lambda: outbox.database.execute(received) == [(True,)], "the relay has been sent the events")
    return relay


def test_with_kafka_frozen_it_ends_within_the_shutdown_timeout_reports_it_and_loses_nothing(
    fragile: Outbox, witness: Witness
) -> None:
    stuck_relay = stuck(fragile, "--shutdown-timeout", "3s")
    began = time.monotonic()
    stuck_relay.terminate()
    assert stuck_relay.wait() == 75
    assert time.monotonic() - began < 8
    assert slot_is_free(fragile)
    server(fragile).resume()
    fragile.drain()
    assert judge(witness.committed(), fragile.records()).events == 21


def test_a_second_signal_ends_it_now(fragile: Outbox) -> None:
    stuck_relay = stuck(fragile)
    stuck_relay.terminate()
    stuck_relay.wait_for_log("draining")
    assert stuck_relay.running
    began = time.monotonic()
    stuck_relay.terminate()
    assert stuck_relay.wait() == 75
    assert time.monotonic() - began < 8, "of 25 seconds that it may take"
    eventually(lambda: slot_is_free(fragile), "the slot is free")


def test_with_kafka_gone_it_ends_within_the_shutdown_timeout(fragile: Outbox) -> None:
    stuck_relay = stuck(fragile, "--shutdown-timeout", "3s")
    assert fragile.kafka.proxy is not None
    fragile.kafka.proxy.refuse()
    stuck_relay.wait_for_log("kafka.unreachable")
    began = time.monotonic()
    stuck_relay.terminate()
    assert stuck_relay.wait() == 75
    assert time.monotonic() - began < 8
    assert slot_is_free(fragile)


def test_while_it_waits_for_kafka_at_start(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.relay(brokers=f"127.0.0.1:{free_port()}")
    relay.wait_for_log("waiting")
    began = time.monotonic()
    relay.terminate()
    assert relay.wait() == 0
    assert time.monotonic() - began < 8
    assert outbox.slots() == []


def test_while_it_asks_kafka_for_the_first_time(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.relay(brokers=f"127.0.0.1:{free_port()}")
    relay.wait_for_log("kafka.unreachable")
    relay.terminate()
    assert relay.wait() == 0


def test_while_it_waits_for_postgres_at_start(outbox: Outbox) -> None:
    relay = outbox.relay(dsn=f"postgresql://relay@127.0.0.1:{free_port()}/shop")
    relay.wait_for_log("waiting")
    began = time.monotonic()
    relay.terminate()
    assert relay.wait() == 0
    assert time.monotonic() - began < 8


def test_a_stopped_relay_that_cannot_reach_postgres_does_not_claim_that_all_is_confirmed(
    outbox: Outbox, proxy: Callable[[str], Proxy]
) -> None:
    outbox.create()
    outbox.create_slot()
    between = proxy(outbox.database.dsn)
    through_it = {"dbname": outbox.database.name, "host": "127.0.0.1", "port": str(between.port)}
    relay = outbox.streaming(dsn=outbox.database.server.dsn_for(**through_it))
    between.freeze()
    relay.terminate()
    assert relay.wait() == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_after_the_stop_does_not_change_the_exit_code(outbox: Outbox, number: signal.Signals) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming()
    relay.terminate()
    relay.wait_for_log("stopped", exit_code=0)
    while relay.running:
        relay.send_signal(number)
    assert relay.wait() == 0


def test_usr1_logs_a_summary_and_hup_that_it_is_not_supported(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming()
    relay.send_signal(signal.SIGUSR1)
    assert relay.wait_for_log("summary")
    os.kill(relay.pid, signal.SIGHUP)
    assert relay.wait_for_log("hangup")
    assert relay.running


@pytest.mark.parametrize("closed", [True, False])
def test_hup_stops_a_relay_only_when_its_terminal_has_closed(outbox: Outbox, *, closed: bool) -> None:
    outbox.create()
    outbox.create_slot()
    ours, theirs = pty.openpty()
    settings = {"CDC_OUTBOX_DSN": outbox.database.dsn, "CDC_OUTBOX_BROKERS": outbox.kafka.brokers}
    command = [sys.executable, "-m", "cdc_outbox", "run", "--http", "off", "--topic", outbox.prefix + "{aggregatetype}"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(settings)) as relay:
        os.close(theirs)
        try:
            eventually(lambda: (slot := outbox.slot()) is not None and slot["active"], "it streams")
            outbox.confirm()
            if closed:
                os.close(ours)
                relay.send_signal(signal.SIGHUP)
                relay.send_signal(signal.SIGHUP)  # a shell passes on what the kernel has sent already
                assert relay.wait(20) == 0
            else:
                relay.send_signal(signal.SIGHUP)
                shown = b""
                while b"hangup" not in shown:
                    shown += os.read(ours, 4096)
                assert relay.poll() is None
                os.close(ours)
        finally:
            relay.terminate()
