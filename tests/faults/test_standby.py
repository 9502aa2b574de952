"""A standby follows within a second a holder that died, and within `wal_sender_timeout` one that stands still."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest
from psycopg.conninfo import make_conninfo

from tests.faults.acts import ends_well, logged_at, metric, slot_is_free, through
from tests.plugins.outbox import ended
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox
    from tests.servers.proxy import Proxy

TIMEOUT: Final = 3.0
"""wal_sender_timeout here, seconds."""

LATE: Final = 2.0
"""Seconds of grace for a busy machine."""


@pytest.fixture
def ready(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    return outbox


def holder(outbox: Outbox) -> int:
    """The server process that streams from the slot."""
    slot = outbox.slot()
    assert slot is not None
    return int(slot["active_pid"])


def states(relay: Relay) -> dict[str, float]:
    return {state: metric(relay, "state", state=state) for state in ("starting", "standby", "streaming")}


def test_it_names_the_holder_and_follows_a_killed_one_within_a_second_under_load(
    ready: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    first = ready.streaming()
    second = ready.relay(http=True)
    assert str(holder(ready)) in second.wait_for_log("standby")["error"]
    assert states(second) == {"starting": 0, "standby": 1, "streaming": 0}
    assert metric(second, "connected", component="postgres") == 1
    with writers(rate=100) as load:
        eventually(lambda: load.committed > 200, "writers write")
        began = time.time()
        first.kill()
        taken_over = second.wait_for_log("streaming")
        written = load.committed
        eventually(lambda: load.committed > written + 100, "writers write")
    assert logged_at(taken_over) - began < 1.0 + LATE
    assert states(second) == {"starting": 0, "standby": 0, "streaming": 1}
    ends_well(ready, second, witness, load)


def test_it_follows_a_frozen_one_within_wal_sender_timeout_which_then_stands_by_for_it(
    ready: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    dsn = make_conninfo(ready.database.dsn, options=f"-c wal_sender_timeout={TIMEOUT:.0f}s")
    first = ready.streaming(dsn=dsn)
    second = ready.relay(dsn=dsn)
    second.wait_for_log("standby")
    with writers(rate=50) as load:
        eventually(lambda: load.committed > 100, "writers write")
        began = time.time()
        first.stop()
        assert logged_at(second.wait_for_log("streaming")) - began < TIMEOUT + 1.0 + LATE
        first.cont()
        assert str(holder(ready)) in first.wait_for_log("standby")["error"]
    first.terminate()
    assert first.wait() == 0
    ends_well(ready, second, witness, load)


def test_a_relay_that_was_away_while_another_came_and_went_goes_on(
    ready: Outbox, witness: Witness, proxy: Callable[[str], Proxy]
) -> None:
    """The slot stands where it never acknowledged anything, and nothing is missing: this is no slot made again."""
    wire = proxy(ready.database.dsn)
    first = ready.streaming(dsn=through(wire, ready.database.dsn, wal_sender_timeout=TIMEOUT))
    ready.add()
    ready.records(until=1)
    wire.refuse()
    first.wait_for_log("postgres.disconnected")
    eventually(lambda: slot_is_free(ready), "the slot is free")
    ready.add()
    ready.drain()
    ready.add()
    wire.accept()
    first.wait_for_log("streaming", nth=2)
    assert ends_well(ready, first, witness).duplicates <= 1


def test_it_survives_a_lost_connection_of_its_own(ready: Outbox, proxy: Callable[[str], Proxy]) -> None:
    first = ready.streaming()
    wire = proxy(ready.database.dsn)
    second = ready.relay(dsn=through(wire, ready.database.dsn))
    second.wait_for_log("standby")
    wire.cut()
    eventually(lambda: wire.connections, "it connects again")
    first.kill()
    second.wait_for_log("streaming")


def test_a_holder_that_left_is_named_once_and_its_successor_too(ready: Outbox) -> None:
    first, third = ready.streaming(), ready.relay()
    third.wait_for_log("standby")
    first_pid = holder(ready)
    second = ready.relay()
    second.wait_for_log("standby")
    first.kill()
    eventually(lambda: second.log_lines("streaming") or third.log_lines("streaming"), "one of them takes over")
    other = third if second.log_lines("streaming") else second
    told = other.wait_for_log("standby", nth=2)
    assert str(first_pid) not in told["error"]
    assert str(holder(ready)) in told["error"]
    assert len(other.log_lines("standby")) == 2


def test_a_slot_whose_holder_is_frozen_is_still_busy_for_on_slot_busy_exit(ready: Outbox) -> None:
    first = ready.streaming()
    first.stop()
    ended(ready.relay("--on-slot-busy", "exit"), 75, str(holder(ready)))
    first.cont()
