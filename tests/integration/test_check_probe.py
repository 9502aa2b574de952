"""`check --probe`: one real event from the table to Kafka, which disturbs neither a relay nor who reads the topics."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from cdc_outbox.check import probe
from cdc_outbox.commands.install import InstallOptions, apply_install
from cdc_outbox.config.shards import Shard
from cdc_outbox.config.value_types import Secret
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop
from tests.integration.test_check import Bench, Checked
from tests.plugins.command import run_command
from tests.plugins.outbox import Outbox, event_id

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database


@pytest.fixture
def bench(database: Database, kafka: KafkaCluster) -> Bench:
    return Bench(database, kafka)


def probed(bench: Bench, **changes: Any) -> Checked:
    return bench.check(probed=True, **changes)


def rows(bench: Bench) -> int:
    return int(bench.database.execute("SELECT count(*) FROM outbox")[0][0])


def slots(bench: Bench) -> list[Any]:
    query = "SELECT slot_name, confirmed_flush_lsn FROM pg_replication_slots WHERE database = current_database()"
    return bench.database.execute(query)


def test_an_event_is_delivered_timed_and_marked_and_leaves_nothing_behind(bench: Bench) -> None:
    bench.create_slot()
    bench.add()
    before = slots(bench)
    found = probed(bench)
    delivered = found.only(
        "probe.delivery", "ok", f"delivered to {bench.prefix}cdc-outbox-probe", " ms after its commit"
    )
    found.only("probe.relay", "not-checked", "no relay streams from slot")
    [record] = bench.kafka.consume(f"^{bench.prefix}", 1)
    assert event_id(record) in delivered.what
    assert record.header("type") == b"cdc-outbox.probe"
    assert record.header("outbox.probe") == b"true"
    assert (record.key, json.loads(record.value or b"")) == (b"cdc-outbox-probe", {"probe": "cdc-outbox check --probe"})
    assert rows(bench) == 1, "the row of the probe is gone, the other one is not"
    assert slots(bench) == before, "a slot was left, or the relay's has moved"


def test_a_relay_that_runs_delivers_it_too_confirms_it_and_goes_on(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.streaming()
    done = run_command(
        *("check", "--probe", "--topic", outbox.prefix + "{aggregatetype}"),
        *("--brokers", outbox.kafka.brokers),
        dsn=outbox.database.dsn,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if "probe." in line}
    assert lines["probe.delivery"].startswith("ok")
    assert "the relay that streams confirmed it" in lines["probe.relay"]
    first, second = outbox.records(2)
    assert event_id(first) == event_id(second), "who drops duplicates sees it once"
    assert first.topic == f"{outbox.prefix}cdc-outbox-probe"
    sent = outbox.add()
    assert sent in [event_id(record) for record in outbox.records(3)]
    relay.terminate()
    assert relay.wait() == 0


def test_it_is_not_sent_where_a_running_relay_would_stop_at_it(
    database: Database, own_kafka: Callable[..., KafkaCluster]
) -> None:
    bench = Bench(database, own_kafka(properties={"auto.create.topics.enable": "false"}))
    topic = f"{bench.prefix}cdc-outbox-probe"
    refused = probed(bench)
    refused.failed("probe.delivery", f"its topic {topic} is not there", "would stop", f"--create --topic {topic}")
    assert rows(bench) == 0
    bench.kafka.create_topic(topic)
    probed(bench).only("probe.delivery", "ok")


def test_it_is_not_sent_into_the_topic_that_everybody_reads_unless_that_is_wanted(bench: Bench) -> None:
    topic = bench.kafka.create_topic(f"{bench.prefix}events")
    probed(bench, topic=topic).failed("probe.delivery", "names no column", "--probe-shared-topic")
    assert bench.kafka.consume(topic, 0) == []
    probed(bench, topic=topic, shared_topic=True).only("probe.delivery", "ok", topic)
    assert len(bench.kafka.consume(topic, 1)) == 1


def test_a_role_that_may_not_write_gets_the_grant_and_then_the_function_is_used(bench: Bench) -> None:
    bench.database.execute("REVOKE EXECUTE ON FUNCTION outbox_emit FROM PUBLIC; GRANT SELECT ON outbox TO PUBLIC")
    dsn = bench.role()
    role = dict(part.split("=", 1) for part in dsn.split())["user"]
    probed(bench, dsn=Secret.of(dsn)).failed("probe.delivery", "permission denied", f'TO "{role}"')
    bench.database.execute(f"GRANT EXECUTE ON FUNCTION outbox_emit TO {role}")
    probed(bench, dsn=Secret.of(dsn)).only("probe.delivery", "ok", "its row stays in the table")
    assert rows(bench) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_a_shard_is_checked_and_probed_by_an_event_of_its_own(bench: Bench, index: int) -> None:
    apply_install(bench.database.dsn, InstallOptions(shards=2), lambda _warning: None)
    shard = Shard(index, 2)
    bench.add(key="whose?")
    found = probed(bench, shard=shard, publication=shard.name("cdc_outbox"))
    found.only("publication.table", "ok", f"every row of shard {index}/2")
    found.only("probe.delivery", "ok")
    [record] = bench.kafka.consume(f"^{bench.prefix}", 1)
    assert (record.key or b"").startswith(b"cdc-outbox-probe-")


def test_what_failed_before_is_to_be_cured_first(bench: Bench) -> None:
    bench.database.execute("DROP PUBLICATION cdc_outbox")
    probed(bench).failed("probe.delivery", "not sent", "publication.table")
    assert rows(bench) == 0


def test_a_logical_message_is_probed_as_well(bench: Bench) -> None:
    found = probed(bench, source="message", tables=())
    found.only("probe.delivery", "ok")
    [record] = bench.kafka.consume(f"^{bench.prefix}", 1)
    assert record.header("outbox.probe") == b"true"


def test_a_broker_that_confirms_nothing_ends_the_wait_and_the_row_is_gone(
    database: Database, own_kafka: Callable[..., KafkaCluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(database, own_kafka())
    broker = bench.kafka.server
    assert broker is not None
    deliver = probe.Probe._deliver

    def deliver_to_a_frozen_broker(*arguments: Any) -> None:
        broker.pause()
        deliver(*arguments)

    monkeypatch.setattr(probe, "PROBE_SECONDS", 8.0)
    monkeypatch.setattr(probe.Probe, "_deliver", deliver_to_a_frozen_broker)
    try:
        found = probed(bench)
    finally:
        broker.resume()
    found.failed("probe.delivery", "Kafka has not confirmed the record", "not within 8 s", "replicas in sync")
    assert rows(bench) == 0


def test_a_relay_that_streams_and_does_not_confirm_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.create_slot()
    stop = Stop()
    stream = ReplicationStream.start(
        ReplicationSession(bench.database.dsn, stop), stop, slot=bench.settings.slot, publication="cdc_outbox"
    )
    monkeypatch.setattr(probe, "PROBE_SECONDS", 6.0)
    try:
        found = probed(bench)
    finally:
        stream.close()
    found.only("probe.delivery", "ok")
    found.failed("probe.relay", bench.settings.slot, "has not confirmed the event", "/readyz")
    assert rows(bench) == 0


def test_an_open_transaction_that_holds_up_the_slot_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = bench.database.connect(autocommit=False, application_name="nightly-batch")
    writer.execute("SELECT pg_current_xact_id()")
    monkeypatch.setattr(probe, "PROBE_SECONDS", 2.0)
    found = probed(bench)
    found.failed("probe.delivery", "no slot for the probe yet", "database.transactions")
    found.warned("database.transactions", "nightly-batch")
    assert rows(bench) == 0


def test_offline_and_probe_contradict_each_other() -> None:
    assert run_command("check", "--offline", "--probe", "--brokers", "127.0.0.1:1").returncode == 2
