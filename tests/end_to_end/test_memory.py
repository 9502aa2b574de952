"""Memory does not grow with the backlog, with the rows of one transaction or of a first start, or with what is in one row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

MEGABYTE: Final = 1024 * 1024

BOUND: Final = 110 * MEGABYTE
"""Interpreter and libraries take 45 MB; the default bound of 20,000 events and 16 MiB in flight about as much again."""


def fill(outbox: Outbox, rows: int) -> None:
    """One transaction, 300 bytes a row. The primary key is not what this is about."""
    outbox.database.execute("ALTER TABLE outbox DROP CONSTRAINT outbox_pkey")
    outbox.database.execute(
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, payload)"
        " SELECT md5(n::text)::uuid, 'order', n % 1000, 'OrderPlaced', to_json(repeat('x', 200))"
        f" FROM generate_series(1, {rows}) n"
    )


def delivered(outbox: Outbox) -> int:
    """Records in the topic, without reading them."""
    (topic,) = [name for name in outbox.kafka.topics() if name.startswith(outbox.prefix)]
    partitions = outbox.kafka.admin.list_topics(topic).topics[topic].partitions
    latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in partitions}  # type: ignore[no-untyped-call]
    return sum(future.result(10).offset for future in outbox.kafka.admin.list_offsets(latest).values())


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_one_transaction_of_a_million_rows(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    fill(outbox, 1_000_000)
    relay = outbox.relay("--until", "caught-up")
    assert relay.wait(240) == 0
    assert delivered(outbox) == 1_000_000
    assert relay.peak_rss_bytes() < BOUND, f"{relay.peak_rss_bytes() / MEGABYTE:.0f} MB"


@pytest.mark.nightly
@pytest.mark.timeout(300)
def test_a_first_start_with_three_hundred_thousand_rows_in_the_table(outbox: Outbox) -> None:
    outbox.create()
    fill(outbox, 300_000)
    relay = outbox.relay("--until", "caught-up")
    assert relay.wait(240) == 0
    assert delivered(outbox) == 300_000
    assert relay.peak_rss_bytes() < BOUND, f"{relay.peak_rss_bytes() / MEGABYTE:.0f} MB"


@pytest.mark.nightly
def test_large_payloads_are_bounded_by_bytes_in_flight(outbox: Outbox) -> None:
    outbox.create(payload="text")
    outbox.create_slot()
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        " SELECT 'order', n, 'OrderPlaced', repeat('x', 500000) FROM generate_series(1, 400) n"
    )
    relay = outbox.relay("--until", "caught-up")
    assert relay.wait(60) == 0
    assert delivered(outbox) == 400
    assert relay.peak_rss_bytes() < BOUND, f"{relay.peak_rss_bytes() / MEGABYTE:.0f} MB"


MEMORY_HOGS: Final = {
    "headers": "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers) VALUES ('order', '1', 'T', '{}',"
    " ('{\"a\":[' || repeat('[],', 4000000) || '[]]}')::json)",
    "payload": "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', '1', 'T',"
    " ('[' || repeat('[],', 4000000) || '[]]'))",
    "message": "SELECT pg_logical_emit_message(true, 'outbox', '{\"id\":\"x\",\"a\":[' || repeat('[],', 6000000) || '[]]}')",
}
"""Rows of 12 MB and a message of 18 MB, each with millions of values."""


@pytest.mark.nightly
@pytest.mark.parametrize("first_start", [False, True])
@pytest.mark.parametrize("hog", MEMORY_HOGS)
def test_one_row_takes_a_few_times_its_size_whatever_its_content(outbox: Outbox, hog: str, first_start: bool) -> None:
    """Parsed before its size was looked at, it took 570 to 980 MB."""
    outbox.create(payload="text")
    outbox.database.execute("ALTER TABLE outbox ALTER headers TYPE json USING NULL")
    if not first_start:
        outbox.create_slot()
    before = outbox.add()
    outbox.database.execute(MEMORY_HOGS[hog])
    after = outbox.add()
    cloud = ("--format", "cloudevents-structured", "--ce-source", "/shop")
    relay = outbox.relay("--until", "caught-up", "--source", "both", "--on-poison", "skip", *cloud)
    assert relay.wait(60) == 0, relay.stderr_text
    assert [record.header("id") for record in outbox.records()] == [before.encode(), after.encode()]
    assert relay.peak_rss_bytes() < 240 * MEGABYTE, f"{relay.peak_rss_bytes() / MEGABYTE:.0f} MB"
    if not (first_start and hog == "message"):
        assert '"reason":"msg-size-too-large"' in relay.stderr_text.replace(": ", ":")
