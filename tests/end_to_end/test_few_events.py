"""Few events leave at once: `linger.ms` is for those behind which others come."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import logged_at

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


def test_the_last_rows_of_a_first_start_do_not_wait_for_others(outbox: Outbox) -> None:
    outbox.create()
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.add_all([{} for _ in range(5)])
    relay = outbox.streaming("-X", f"linger.ms={LINGER_SECONDS * 1000:.0f}")
    began, ended = (logged_at(relay.wait_for_log(f"snapshot.{event}")) for event in ("started", "finished"))
    assert ended - began < LINGER_SECONDS / 2
