"""Few events leave at once: `linger.ms` is for those behind which others come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

LINGER_SECONDS: Final = 4.0
"""So long that nobody can take it for the time that a busy machine needs."""


@pytest.mark.parametrize("rows", [1, 5])
def test_a_small_transaction_after_a_silence_does_not_wait_for_others(outbox: Outbox, rows: int) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.streaming("-X", f"linger.ms={LINGER_SECONDS * 1000:.0f}")
    outbox.add()  # the first may have to wait for the topic's leaders
    outbox.records(until=1)
    began = time.monotonic()
    outbox.add_all([{} for _ in range(rows)])
    outbox.records(until=1 + rows)
    assert time.monotonic() - began < LINGER_SECONDS / 2
