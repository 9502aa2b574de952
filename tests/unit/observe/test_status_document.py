"""What can be told from the figures of a slot, and what cannot."""

from __future__ import annotations

import pytest

from cdc_outbox.observe.status_document import seconds_until_lost


def test_the_time_until_a_slot_is_lost_is_what_is_safe_at_the_present_rate() -> None:
    assert seconds_until_lost(3600, 2.0) == 1800.0


@pytest.mark.parametrize("safe", [0, -4096])
def test_a_slot_in_danger_has_no_time_left(safe: int) -> None:
    assert seconds_until_lost(safe, 2.0) == 0.0


@pytest.mark.parametrize(("safe", "rate"), [(None, 2.0), (3600, None), (3600, 0.0)])
def test_without_a_limit_a_rate_or_written_wal_the_time_left_is_unknown(safe: int | None, rate: float | None) -> None:
    assert seconds_until_lost(safe, rate) is None
