"""A slot waits for transactions that are open: the relay and `slot recover` name them, and the cure ends the wait."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.faults.acts import recovery
from tests.plugins.outbox import Outbox, insert
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

WITHIN_SECONDS: Final = 10.0
"""From the start of the wait to the log line that names what it waits for."""


@pytest.mark.parametrize("snapshot", ["--snapshot", "--no-snapshot"])
def test_a_first_start_behind_an_open_transaction_names_its_pid_and_a_cure_that_ends_it(
    outbox: Outbox, snapshot: str
) -> None:
    outbox.create()
    slow = outbox.database.connect(autocommit=False)
    insert(slow, "outbox", {})
    relay = outbox.relay(snapshot)
    eventually(outbox.slots, "the slot is being created")
    waiting = relay.wait_for_log("slot.waiting", timeout=WITHIN_SECONDS)
    pid = slow.info.backend_pid
    assert (waiting["level"], waiting["slot"]) == ("warning", "cdc_outbox")
    assert f"pid {pid} " in waiting["error"]
    cure = f"SELECT pg_terminate_backend({pid});"
    assert cure in waiting["cure"]
    outbox.database.execute(cure)
    relay.wait_for_log("streaming")
    relay.terminate()
    assert relay.wait() == 0


@pytest.fixture
def prepared(own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox with a slot-less table, and a prepared transaction that has written into it."""
    server = own_postgres(settings={"wal_level": "logical", "max_prepared_transactions": "2"})
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    return outbox


def prepare(outbox: Outbox) -> None:
    with contextlib.closing(outbox.database.connect(autocommit=False)) as half:
        insert(half, "outbox", {})
        half.execute("PREPARE TRANSACTION 'order''s two phases'")


def roll_back_as_the_cure_writes(outbox: Outbox, waiting: dict[str, Any]) -> None:
    statement = "ROLLBACK PREPARED 'order''s two phases'"
    assert "'order''s two phases'" in waiting["error"]
    assert f"{statement};" in waiting["cure"]
    outbox.database.execute(statement)


def test_a_first_start_and_a_recovery_behind_a_prepared_transaction_name_its_gid_and_a_cure(prepared: Outbox) -> None:
    prepare(prepared)
    relay = prepared.relay()
    eventually(prepared.slots, "the slot is being created")
    roll_back_as_the_cure_writes(prepared, relay.wait_for_log("slot.waiting", timeout=WITHIN_SECONDS))
    relay.wait_for_log("streaming")
    relay.terminate()
    assert relay.wait() == 0

    prepare(prepared)
    command = [sys.executable, *recovery(prepared)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as recovering:
        assert recovering.stderr is not None
        roll_back_as_the_cure_writes(prepared, first_wait(recovering.stderr))
        recovering.stderr.read()
    assert recovering.returncode == 0


def first_wait(lines: Iterator[str]) -> dict[str, Any]:
    """The first `slot.waiting` of a log."""
    for line in lines:
        if line.startswith("{") and (found := json.loads(line))["event"] == "slot.waiting":
            return dict(found)
    raise AssertionError("the recovery ended without a slot.waiting")
