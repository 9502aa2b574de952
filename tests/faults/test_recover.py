"""`slot recover` at bad moments: what is committed meanwhile is not lost, and until the very end the old slot is as it was."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.demo.ports import free_port
from tests.faults.acts import commit_at_once, confirmed, judged, recover, recovery
from tests.plugins.outbox import SLOT, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

SLOWLY: Final = ("--max-in-flight-events", "50", "-X", "linger.ms=200")


@pytest.fixture
def ready(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    return outbox


def test_what_is_committed_meanwhile_is_not_lost_and_comes_in_order(
    ready: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    with writers(rate=100, own_keys=True) as load:
        eventually(lambda: load.committed > 200, "writers write")
        said = recover(ready)
        written = load.committed
        eventually(lambda: load.committed > written + 100, "writers write")
    rows = next(line["rows"] for line in map(json.loads, said.splitlines()[1:]) if line["event"] == "snapshot.started")
    assert rows >= 200
    ready.drain()
    assert judged(ready, witness, load).duplicates == 0


def ours(outbox: Outbox) -> list[str]:
    """Our slot, and the temporary one of a recovery that is under way."""
    return [name for name in outbox.slots() if name.startswith(SLOT)]


@pytest.fixture
def half_way(ready: Outbox) -> Iterator[subprocess.Popen[str]]:
    """A recovery of 2000 rows that takes eight seconds, and has begun."""
    commit_at_once(ready, 2000)
    ready.drain()
    running = subprocess.Popen([sys.executable, *recovery(ready, *SLOWLY)], stderr=subprocess.PIPE, text=True)
    eventually(lambda: len(ours(ready)) == 2, "the new slot is being made")
    ready.records(until=2001)
    yield running
    running.kill()
    running.communicate()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_ended_half_way_it_leaves_the_old_slot_as_it_was(
    how: signal.Signals, ready: Outbox, witness: Witness, half_way: subprocess.Popen[str]
) -> None:
    stood = confirmed(ready)
    behind = ready.add()
    half_way.send_signal(how)
    _, said = half_way.communicate(timeout=10)
    assert half_way.returncode == (75 if how is signal.SIGTERM else -9), said
    eventually(lambda: ours(ready) == [SLOT], "the temporary slot is gone")
    assert confirmed(ready) == stood
    ready.drain()
    assert behind in ids(ready.records())
    judged(ready, witness)


def test_a_slot_in_use_is_not_replaced(ready: Outbox) -> None:
    ready.streaming()
    ready.add()
    ready.records(until=1)
    slot = ready.slot()
    assert slot is not None
    assert str(slot["active_pid"]) in recover(ready, code=75)
    assert ready.slots() == [SLOT]
    assert len(ready.records()) == 1


def test_with_kafka_down_it_ends_and_the_old_slot_is_as_it_was(ready: Outbox) -> None:
    written = ready.add()
    stood = confirmed(ready)
    recover(ready, "--brokers", f"127.0.0.1:{free_port()}", code=69)
    assert ready.slots() == [SLOT]
    assert confirmed(ready) == stood
    ready.drain()
    assert ids(ready.records()) == [written]


def test_without_any_slot_it_makes_one(ready: Outbox) -> None:
    ready.database.execute(f"SELECT pg_drop_replication_slot('{SLOT}')")
    written = ready.add()
    recover(ready)
    assert ids(ready.records()) == [written]
    behind = ready.add()
    ready.drain()
    assert ids(ready.records()) == [written, behind]
