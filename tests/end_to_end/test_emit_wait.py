"""`cdc-outbox emit --wait`: one real event, timed from its commit to its confirmation by the relay's slot."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING, Any

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install
from tests.plugins.command import run_command, started_command
from tests.plugins.outbox import SLOT, event_id

if TYPE_CHECKING:
    import subprocess

    from tests.plugins.outbox import Outbox

EVENT = ("emit", "--aggregate-type", "order", "--aggregate-id", "42", "--type", "OrderPlaced", "--payload", "{}")

CONFIRMED = rf"confirmed by slot {SLOT} (\d+) ms after the commit\n"


def install(outbox: Outbox, **options: Any) -> None:
    apply_install(outbox.database.dsn, InstallOptions(**options), lambda _warning: None)


def emit(outbox: Outbox, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(*EVENT, *arguments, dsn=outbox.database.dsn)


def rows(outbox: Outbox) -> int:
    return int(outbox.database.execute("SELECT count(*) FROM outbox")[0][0])


@pytest.mark.parametrize("source", ["table", "message"])
def test_a_confirmed_event_is_in_kafka_and_its_time_is_printed(outbox: Outbox, source: str) -> None:
    install(outbox, source=source)
    outbox.create_slot()
    relay = outbox.streaming("--source", source)
    done = emit(outbox, "--wait", "30s")

    assert done.returncode == 0, done.stderr
    assert (found := re.fullmatch(CONFIRMED, done.stderr)), done.stderr
    assert 0 <= int(found[1]) < 30_000
    relay.terminate()
    assert relay.wait() == 0
    assert [event_id(record) for record in outbox.records()] == [done.stdout.strip()]


def test_an_event_that_no_relay_sends_is_not_confirmed(outbox: Outbox) -> None:
    install(outbox)
    outbox.create_slot()
    done = emit(outbox, "--wait", "0.5s")

    assert (done.returncode, rows(outbox)) == (1, 1)
    assert f"not confirmed by slot {SLOT} within 0.5 s: no relay streams from it" in done.stderr
    assert "cure: cdc-outbox status" in done.stderr
    assert done.stdout.strip() == outbox.database.execute("SELECT id::text FROM outbox")[0][0]


def test_an_event_that_the_relay_has_not_delivered_is_not_confirmed(outbox: Outbox) -> None:
    install(outbox)
    outbox.create_slot()
    relay = outbox.streaming()
    relay.stop()
    done = emit(outbox, "--wait", "1s")
    relay.cont()

    assert done.returncode == 1
    assert re.search(rf"not confirmed by slot {SLOT} within 1 s: server process \d+ streams from it", done.stderr)


def test_without_the_slot_nothing_is_written(outbox: Outbox) -> None:
    install(outbox)
    done = emit(outbox, "--wait", "5s", "--slot", "other")

    assert (done.returncode, done.stdout, rows(outbox)) == (78, "", 0)
    assert "slot other does not exist" in done.stderr
    assert "cure: cdc-outbox run --slot other creates the slot" in done.stderr


def test_a_slot_that_is_dropped_meanwhile_ends_the_wait(outbox: Outbox) -> None:
    install(outbox)
    outbox.create_slot()
    with started_command(*EVENT, "--wait", "60s", dsn=outbox.database.dsn) as command:
        command.wait_for_lines(1)
        outbox.database.execute("SELECT pg_drop_replication_slot(%s)", [SLOT])
        assert command.wait() == 78, command.report


def test_ctrl_c_ends_the_wait(outbox: Outbox) -> None:
    install(outbox)
    outbox.create_slot()
    with started_command(*EVENT, "--wait", "60s", dsn=outbox.database.dsn) as command:
        command.wait_for_lines(1)
        command.process.send_signal(signal.SIGINT)
        assert command.wait() == 130, command.report


@pytest.mark.parametrize("wait", ["0", "-1", "soon"])
def test_a_wait_is_a_duration_above_0(wait: str) -> None:
    assert run_command(*EVENT, "--wait", wait).returncode == 2
