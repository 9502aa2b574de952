"""Giants: rows far beyond what Kafka takes, and many that are just below it. What they cost in memory is bounded, and said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.plugins.outbox import ended, ids

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox

MEBIBYTE: Final = 1024 * 1024

GIANT: Final = 100_000_000
"""Bytes of one payload: a hundred times what Kafka takes by default."""

TIMES: Final = 5
"""How many times the largest row a relay may hold: in libpq's buffer, which doubles as it grows, as a message, as a cell."""


def _add_giant(outbox: Outbox) -> str:
    """Commit one event with a payload of `GIANT` bytes. Its id."""
    query = (
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" VALUES ('order', '1', 'Huge', repeat('x', {GIANT})) RETURNING id::text"
    )
    return str(outbox.database.execute(query)[0][0])


def _within_bounds(relay: Relay, resident: int) -> None:
    peak = relay.peak_rss_bytes()
    print(f"peak RSS with a row of {GIANT / 1e6:.0f} MB: {peak / 1e6:.0f} MB")
    assert peak - resident < TIMES * GIANT


@pytest.mark.nightly
@pytest.mark.parametrize("way", ["stream", "first start"])
def test_a_row_of_a_hundred_megabytes_becomes_a_dead_letter_with_its_size(way: str, outbox: Outbox) -> None:
    outbox.create(payload="text")
    if way == "stream":
        outbox.create_slot()
    topic = outbox.kafka.create_topic(f"dead-{outbox.prefix}", partitions=1)
    before, giant, after = outbox.add(), _add_giant(outbox), outbox.add()
    relay = outbox.relay("--on-poison", "dead-letter", "--dead-letter-topic", topic)
    relay.wait_for_log("streaming")
    resident = relay.rss_bytes() if way == "stream" else 60 * MEBIBYTE
    relay.wait_for_log("poison", timeout=60, id=giant)
    outbox.confirm()
    assert ids(outbox.records())[:2] == [before, after]
    (letter,) = outbox.kafka.consume(topic, 0)
    assert (letter.header("id"), letter.key, letter.value) == (giant.encode(), b"1", None)
    assert letter.header("outbox.payload.bytes") == str(GIANT).encode()
    assert letter.header("outbox.error.reason") == b"msg-size-too-large"
    _within_bounds(relay, resident)
    relay.terminate()
    assert relay.wait() == 0


@pytest.mark.nightly
def test_a_row_of_a_hundred_megabytes_stops_the_relay_with_its_size_and_the_limit(outbox: Outbox) -> None:
    outbox.create(payload="text")
    outbox.create_slot()
    before, giant = outbox.add(), _add_giant(outbox)
    relay = outbox.relay()
    last = ended(relay, 65, "--on-poison skip", timeout=60)
    assert (last["id"], last["size"], last["limit"]) == (giant, GIANT, 1_000_000)
    assert "x" * 100 not in relay.stderr_text
    assert ids(outbox.records()) == [before]


@pytest.mark.nightly
def test_a_first_start_with_many_large_rows_holds_few_of_them_at_a_time(outbox: Outbox) -> None:
    """360 MB in 400 rows, far fewer than a batch of small ones has."""
    outbox.create(payload="text")
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        " SELECT 'order', n::text, 'Large', repeat('x', 900000) FROM generate_series(1, 400) n"
    )
    relay = outbox.relay("--until", "caught-up")
    assert relay.wait(100) == 0
    print(f"peak RSS: {relay.peak_rss_bytes() / 1e6:.0f} MB")
    assert relay.peak_rss_bytes() < 130 * MEBIBYTE
    assert len(outbox.records()) == 400
