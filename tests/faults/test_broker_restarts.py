"""A broker that restarts, or is killed, in full flow: nothing is lost, nothing repeated, order is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.acts import ends_well, published
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_in_full_flow(how: str, fragile: Outbox, witness: Witness, writers: Callable[..., Writers]) -> None:
    fragile.create()
    fragile.create_slot()
    relay = fragile.streaming(http=True)
    server = fragile.kafka.server
    assert server is not None
    with writers(threads=3, rate=200) as load:
        eventually(lambda: published(relay, fragile) > 500, "the relay is in full flow")
        (server.stop if how == "stopped" else server.kill)()
        before = published(relay, fragile)
        server.start()
        up = time.monotonic()
        eventually(lambda: published(relay, fragile) > before, "events flow again", seconds=60)
        recovered = time.monotonic() - up
        enough = published(relay, fragile) + 500
        eventually(lambda: published(relay, fragile) > enough, "and go on flowing", seconds=60)
    print(f"a broker {how}: delivered again {recovered:.1f} s after it was back")
    assert recovered < 15
    verdict = ends_well(fragile, relay, witness, load)
    assert verdict.duplicates == 0
    assert len(relay.log_lines("streaming")) == 1
    assert not relay.log_lines("delivery.failed")
