"""Which movements of a slot are explained by a process that streamed from it, and which mean another slot by the name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.errors import StreamGap
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.postgres.server import Timeline
from cdc_outbox.postgres.slot import SlotIdentity, SlotInfo

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST: Final = Timeline("7001", 1)
PROMOTED: Final = Timeline("7001", 2)
OTHER: Final = Timeline("7002", 1)


def seen(confirmed: int, *, decoded: int = 0, active: bool = False, statistics: str = "a") -> SlotInfo:
    return SlotInfo(
        name="s",
        plugin="pgoutput",
        slot_type="logical",
        database="shop",
        temporary=False,
        active=active,
        active_pid=None,
        wal_status="reserved",
        restart_lsn=None,
        confirmed_flush_lsn=Lsn(confirmed),
        safe_wal_bytes=None,
        failover=False,
        current_database="shop",
        decoded=decoded,
        statistics_began=statistics,
    )


def no_switch(_old: Timeline) -> Lsn:
    raise AssertionError("the timeline is the same")


def at(point: int) -> Callable[[Timeline], Lsn]:
    return lambda _old: Lsn(point)


def known(confirmed: int = 100, *, decoded: int = 0, transactions: int = 5) -> SlotIdentity:
    """One that this relay has streamed from, up to `confirmed`."""
    identity = SlotIdentity()
    identity.require_same(seen(10, decoded=decoded), FIRST, no_switch)
    identity.streamed(Lsn(confirmed), transactions)
    return identity


def test_the_first_look_accepts_any_position() -> None:
    assert SlotIdentity().require_same(seen(500), FIRST, no_switch) is False


@pytest.mark.parametrize("confirmed", [0, 50, 100])
def test_a_slot_at_or_below_what_was_confirmed_is_the_same(confirmed: int) -> None:
    assert known().require_same(seen(confirmed), FIRST, no_switch) is False


def test_a_slot_beyond_what_was_confirmed_from_which_no_process_streamed_is_another_one() -> None:
    with pytest.raises(StreamGap, match="0/C8, but 0/64"):
        known().require_same(seen(200), FIRST, no_switch)


def test_a_slot_that_has_decoded_less_than_before_is_another_one_although_it_is_in_use() -> None:
    with pytest.raises(StreamGap):
        known().require_same(seen(200, decoded=2, active=True), FIRST, no_switch)


def test_a_slot_that_another_process_has_moved_is_the_same() -> None:
    assert known().require_same(seen(200, decoded=6), FIRST, no_switch) is True
    assert known().require_same(seen(200, decoded=5, active=True), FIRST, no_switch) is True


def test_after_a_crash_that_reset_the_statistics_a_slot_in_use_is_the_same() -> None:
    assert known().require_same(seen(200, decoded=1, active=True, statistics="b"), FIRST, no_switch) is True


def test_a_slot_that_a_process_was_seen_to_use_may_have_moved() -> None:
    identity = known()
    identity.require_same(seen(100, decoded=5, active=True), FIRST, no_switch)
    assert identity.require_same(seen(300, decoded=5), FIRST, no_switch) is True
    assert identity.known == 300
    with pytest.raises(StreamGap):
        identity.require_same(seen(400, decoded=5), FIRST, no_switch)


def test_on_a_new_timeline_what_was_confirmed_holds_up_to_the_switch_point() -> None:
    identity = known(100)
    assert identity.require_same(seen(60), PROMOTED, at(80)) is False
    assert identity.known == 80


@pytest.mark.parametrize("position", [81, 90, 100, 120])
def test_a_slot_that_was_made_after_the_switch_point_is_another_one(position: int) -> None:
    with pytest.raises(StreamGap):
        known(100).require_same(seen(position), PROMOTED, at(80))


@pytest.mark.parametrize("active", [True, False])
def test_a_slot_of_another_cluster_is_another_one(*, active: bool) -> None:
    with pytest.raises(StreamGap):
        known(100).require_same(seen(50, decoded=9, active=active), OTHER, at(UNSET))


def test_a_slot_that_was_replaced_on_purpose_is_looked_at_afresh() -> None:
    identity = known()
    identity.forget()
    assert identity.require_same(seen(900), FIRST, no_switch) is False
