"""Two relays on one slot: one streams, the other stands by and takes over."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.plugins.outbox import ended, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox


def is_ready(relay: Relay) -> bool:
    try:
        with urllib.request.urlopen(f"{relay.http_url}/readyz") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as refused:
        refused.close()
        return False


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_the_second_relay_takes_over_when_the_first_is_gone(outbox: Outbox, how: str) -> None:
    outbox.create()
    outbox.create_slot()
    first = outbox.streaming()
    one = outbox.add()
    end = outbox.current_lsn()
    eventually(lambda: outbox.confirmed_past(end), "the first relay works")
    second = outbox.relay(http=True)
    assert second.wait_for_log("standby")["slot"] == "cdc_outbox"
    eventually(lambda: is_ready(second), "a standby is ready")
    first.terminate() if how == "stopped" else first.kill()
    second.wait_for_log("streaming", timeout=10)
    two = outbox.add()
    assert ids(outbox.records(until=2)) == [one, two]
    with urllib.request.urlopen(f"{second.http_url}/status") as answer:
        assert json.load(answer)["state"] == "streaming"
    second.terminate()
    assert second.wait() == 0


def test_on_slot_busy_exit_ends_with_75_and_names_the_process_that_streams(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    first = outbox.streaming()
    (pid,) = outbox.database.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'cdc_outbox'")[0]
    ended(outbox.relay("--on-slot-busy", "exit"), 75, "cdc_outbox", str(pid))
    assert first.running


def test_a_standby_stops_at_once_and_leaves_the_slot_alone(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    first = outbox.streaming()
    second = outbox.relay()
    second.wait_for_log("standby")
    second.terminate()
    assert second.wait(10) == 0
    slot = outbox.slot()
    assert slot is not None
    assert slot["active"]
    assert first.running
