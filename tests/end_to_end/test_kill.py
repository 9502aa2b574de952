"""SIGKILL: nothing is lost, and what comes twice has the id it had before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.plugins.oracle import judge
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox


def test_killed_again_and_again_under_load_it_loses_nothing_and_keeps_the_order(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.create_slot()
    with writers(threads=3, rate=400) as load:
        for _ in range(4):
            relay = outbox.streaming()
            before = load.committed
            eventually(lambda before=before: load.committed > before + 200, "writers write")  # type: ignore[misc]
            assert relay.kill() == -9
    outbox.drain()
    verdict = judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert verdict.events > 800


def test_sigkill_after_delivery_and_before_its_confirmation_redelivers_with_the_same_id(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.relay("--max-in-flight-events", "50", "-X", "linger.ms=200")
    written = outbox.add_all([{} for _ in range(300)])  # confirmed at its end at the earliest
    delivered = ids(outbox.records(until=50))
    relay.kill()
    outbox.drain()
    again = ids(outbox.records())
    assert again[: len(delivered)] == written[: len(delivered)]
    assert again[-300:] == written
    assert len(again) > 300


def test_killed_while_idle_it_repeats_nothing(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming()
    written = outbox.add()
    end = outbox.current_lsn()
    eventually(lambda: outbox.confirmed_past(end), "the event is confirmed")
    relay.kill()
    outbox.drain()
    assert ids(outbox.records()) == [written]
