"""`slot recover` replaces our slot, and nobody else's."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

import pytest

from tests.faults.acts import recover as recover_as_run
from tests.plugins.command import run_command
from tests.plugins.outbox import ended, ids

if TYPE_CHECKING:
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database


def recover(database: Database, kafka: KafkaCluster, *more: str) -> tuple[int, str]:
    done = run_command(
        "slot", "recover", "--yes", "--topic", f"{kafka.unique_topic_prefix()}.events", *more,
        dsn=database.dsn, env={"CDC_OUTBOX_BROKERS": kafka.brokers},
    )  # fmt: skip
    return done.returncode, done.stderr


@pytest.fixture
def installed(database: Database) -> Database:
    assert run_command("sql", "install", "--apply", dsn=database.dsn).returncode == 0
    return database


@pytest.mark.parametrize(
    "make",
    [
        "pg_create_physical_replication_slot(%s)",
        "pg_create_logical_replication_slot(%s, 'test_decoding')",
    ],
)
def test_a_slot_of_another_plugin_is_never_replaced(installed: Database, kafka: KafkaCluster, make: str) -> None:
    name = f"theirs_{installed.name[-12:]}"
    installed.execute(f"SELECT {make}", (name,))
    before = installed.execute("SELECT slot_type, plugin FROM pg_replication_slots WHERE slot_name = %s", (name,))
    try:
        code, stderr = recover(installed, kafka, "--slot", name)
        after = installed.execute("SELECT slot_type, plugin FROM pg_replication_slots WHERE slot_name = %s", (name,))
    finally:
        installed.execute("SELECT pg_drop_replication_slot(%s)", (name,))
    assert code == 78
    assert "not of pgoutput" in stderr
    assert after == before


def test_a_lost_slot_is_replaced_and_of_a_pruned_table_the_first_complete_time_is_reported(
    installed: Database, kafka: KafkaCluster
) -> None:
    name = f"lost_{installed.name[-12:]}"
    installed.execute("SELECT outbox_emit('order', g::text, 'OrderPlaced', '1') FROM generate_series(1, 10) g")
    installed.execute("DELETE FROM outbox WHERE seq <= 4")
    installed.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
    code, stderr = recover(installed, kafka, "--slot", name)
    assert code == 0
    [(oldest,)] = installed.execute("SELECT created_at::text FROM outbox ORDER BY seq LIMIT 1")
    assert f'"complete_since":"{oldest}"'[:40] in stderr
    assert '"rows":6' in stderr


def test_recovery_without_the_rows_is_refused(installed: Database, kafka: KafkaCluster) -> None:
    code, stderr = recover(installed, kafka, "--no-snapshot")
    assert code == 2
    assert "leave --no-snapshot out" in stderr


@pytest.mark.parametrize("policy", [("skip",), ("dead-letter", "--dead-letter-topic", "{prefix}dead")])
def test_the_cure_that_is_printed_has_the_policy_with_which_old_poison_was_left_out(
    outbox: Outbox, policy: tuple[str, ...]
) -> None:
    outbox.create()
    outbox.create_slot()
    options = ("--on-poison", *(word.format(prefix=outbox.prefix) for word in policy))
    outbox.add(headers="[1]")
    good = outbox.add()
    relay = outbox.streaming(*options)
    outbox.confirm()
    outbox.database.execute("DROP PUBLICATION cdc_outbox")
    outbox.add()
    outbox.publish("outbox")
    last = ended(relay, 78, "cdc-outbox slot recover", timeout=60)
    typed = re.search(r"cdc-outbox slot recover((?: --\S+ [^ ,;]+)*)", last["cure"])
    assert typed is not None
    assert shlex.split(typed[1]) == list(options)
    recover_as_run(outbox, *shlex.split(typed[1]))
    assert ids([each for each in outbox.records() if each.topic.endswith("order")]).count(good) == 2
