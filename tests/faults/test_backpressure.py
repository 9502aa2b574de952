"""Backpressure: while Kafka takes nothing the relay reads nothing, keeps its walsender content and its memory flat, and then
goes on as if nothing had happened.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import QUICK_RECONNECT, UNANSWERED, commit_at_once, commit_one_by_one, judged, warmed_up
from tests.plugins.metrics import metrics
from tests.plugins.nightly import others_nightly
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually
from tests.servers.proxy import Direction

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

TIMEOUT: Final = 2
"""Seconds of wal_sender_timeout."""

WINDOW: Final = 500
"""Events in flight at most."""

MEBIBYTE: Final = 1024 * 1024


@pytest.fixture
def ready(fragile: Outbox) -> Outbox:
    """An outbox with a slot, whose walsender has little patience."""
    fragile.create()
    fragile.create_slot()
    fragile.database.execute(f"ALTER DATABASE {fragile.database.name} SET wal_sender_timeout = '{TIMEOUT}s'")
    return fragile


def walsender(outbox: Outbox) -> int | None:
    """The process that serves the slot."""
    slot = outbox.slot()
    return slot["active_pid"] if slot else None


def _stop_broker(kafka: KafkaCluster) -> None:
    assert kafka.server is not None
    kafka.server.stop()


def _start_broker(kafka: KafkaCluster) -> None:
    assert kafka.server is not None
    kafka.server.start()


def _pause_broker(kafka: KafkaCluster) -> None:
    assert kafka.server is not None
    kafka.server.pause()


def _resume_broker(kafka: KafkaCluster) -> None:
    assert kafka.server is not None
    kafka.server.resume()


@pytest.mark.parametrize(
    ("stop", "start"),
    [
        pytest.param(_stop_broker, _start_broker, id="stopped", marks=pytest.mark.nightly),
        pytest.param(_pause_broker, _resume_broker, id="standing still"),
    ],
)
def test_a_kafka_outage_longer_than_wal_sender_timeout_loses_and_repeats_nothing(
    stop: Callable[[KafkaCluster], None],
    start: Callable[[KafkaCluster], None],
    ready: Outbox,
    witness: Witness,
    writers: Callable[..., Writers],
) -> None:
    relay = ready.streaming("--max-in-flight-events", str(WINDOW), *QUICK_RECONNECT, http=True)
    warmed_up(ready)
    pid = walsender(ready)
    with writers(threads=2, rate=150) as load:
        eventually(lambda: load.committed > 100, "writers write")
        stop(ready.kafka)
        relay.wait_for_log("backpressure")
        early, resident = metrics(relay), relay.rss_bytes()
        held = time.monotonic()
        assert early["in_flight_events"] <= WINDOW
        while time.monotonic() < held + 4 * TIMEOUT:
            assert walsender(ready) == pid, "the walsender has left"
            assert metrics(relay)["in_flight_events"] <= WINDOW
            time.sleep(0.2)  # a look, five times a second
        late = metrics(relay)
        assert late["lag_seconds"] >= early["lag_seconds"] + 1
        assert late["backpressure_seconds_total"] > early["backpressure_seconds_total"]
        assert late['state{state="streaming"}'] == 1
        assert relay.rss_bytes() - resident < 4 * MEBIBYTE
        start(ready.kafka)
        relay.wait_for_log("backpressure.ended", timeout=60)
    ready.confirm()
    assert walsender(ready) == pid, "the walsender has left"
    assert judged(ready, witness, load).duplicates == 0
    assert [len(relay.log_lines(event)) for event in ("backpressure", "backpressure.ended")] == [1, 1]
    eventually(lambda: metrics(relay)["lag_seconds"] == 0, "the lag is gone")
    relay.terminate()
    assert relay.wait() == 0


def test_what_waits_for_kafka_is_bounded_by_bytes_however_much_is_written(ready: Outbox, witness: Witness) -> None:
    """30 MB in one transaction, against a Kafka that stands still, and then takes it all."""
    limit = 4 * MEBIBYTE
    arguments = ("--max-in-flight-bytes", str(limit), *QUICK_RECONNECT)
    relay = ready.streaming(*arguments, http=True)
    warmed_up(ready, keys=20)
    resident = relay.rss_bytes()
    _pause_broker(ready.kafka)
    ready.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        " SELECT 'order', (number % 20)::text, 'Placed', to_json(repeat(md5(number::text), 300))"
        " FROM generate_series(1, 3000) number"
    )
    relay.wait_for_log("backpressure")
    figures = metrics(relay)
    assert limit / 2 < figures["in_flight_bytes"] <= limit
    assert relay.rss_bytes() - resident < 12 * MEBIBYTE
    _resume_broker(ready.kafka)
    ready.confirm()
    assert judged(ready, witness).duplicates == 0
    assert relay.peak_rss_bytes() - resident < 16 * MEBIBYTE


WIDE: Final = {
    "key": "aggregateid = repeat(md5(seq::text), 3000)",
    "headers": "headers = json_build_object('h', repeat(md5(seq::text), 3000))",
    "names of headers": "headers = json_build_object(repeat(md5(seq::text), 3000), 'h')",
}
"""Where a row has 96 kB that are no payload."""


@pytest.mark.parametrize("wide", others_nightly(WIDE))
def test_keys_and_headers_count_as_payloads_do(wide: str, ready: Outbox, witness: Witness) -> None:
    """150 MB of keys or headers in one transaction, against a Kafka that stands still."""
    limit = 8 * MEBIBYTE
    relay = ready.streaming("--max-in-flight-bytes", str(limit), *QUICK_RECONNECT, http=True)
    warmed_up(ready, keys=20)
    resident = relay.rss_bytes()
    _pause_broker(ready.kafka)
    column, value = WIDE[wide].split(" = ", 1)
    columns = {"aggregateid": "(seq % 20)::text", "headers": "NULL::json", column: value}
    ready.database.execute(
        f"INSERT INTO outbox (aggregatetype, type, payload, {', '.join(columns)})"
        f" SELECT 'order', 'Placed', '{{}}', {', '.join(columns.values())} FROM generate_series(1, 1500) seq"
    )
    relay.wait_for_log("backpressure", timeout=60)
    figures = metrics(relay)
    assert limit / 2 < figures["in_flight_bytes"] <= limit
    assert figures["in_flight_events"] < 100
    assert relay.peak_rss_bytes() - resident < 32 * MEBIBYTE
    _resume_broker(ready.kafka)
    ready.confirm()
    assert judged(ready, witness).duplicates == 0


def test_the_rows_of_a_first_start_count_as_well(fragile: Outbox) -> None:
    """100 MB of headers in the table, against a Kafka that stands still from the first record on."""
    limit = 8 * MEBIBYTE
    fragile.create()
    fragile.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers)"
        " SELECT 'order', number::text, 'Placed', '{}', json_build_object('h', repeat(md5(number::text), 3000))"
        " FROM generate_series(1, 1000) number"
    )
    assert fragile.kafka.proxy is not None
    fragile.kafka.proxy.delay(0.04)
    relay = fragile.relay("--max-in-flight-bytes", str(limit), *QUICK_RECONNECT, http=True)
    relay.wait_for_log("snapshot.started")
    _pause_broker(fragile.kafka)
    eventually(lambda: metrics(relay).get("in_flight_bytes", 0) > limit / 2, "rows are in flight")
    eventually(lambda: metrics(relay).get("in_flight_bytes", 0) <= limit, "they are bounded")
    assert relay.peak_rss_bytes() < 120 * MEBIBYTE
    fragile.kafka.proxy.delay(0.0)
    _resume_broker(fragile.kafka)
    relay.wait_for_log("streaming", timeout=60)
    assert len(fragile.records(1000)) == 1000


def test_an_answer_that_is_lost_costs_no_duplicate(ready: Outbox, witness: Witness) -> None:
    """Kafka has the records, and cannot say so: what is sent again it knows by the producer's sequence numbers."""
    assert ready.kafka.proxy is not None
    relay = ready.streaming("-X", "socket.timeout.ms=1000", *QUICK_RECONNECT)
    warmed_up(ready)
    ready.kafka.proxy.freeze(Direction.TO_CLIENT)
    written = ready.add_all([{} for _ in range(UNANSWERED)])
    ready.records(lambda records: set(written) <= set(ids(records)))
    ready.kafka.proxy.cut()
    ready.kafka.proxy.thaw()
    ready.confirm()
    assert judged(ready, witness).duplicates == 0
    assert not relay.log_lines("delivery.failed")


def test_a_slow_kafka_slows_the_reading_and_nothing_else(ready: Outbox, witness: Witness) -> None:
    assert ready.kafka.proxy is not None
    relay = ready.streaming("--max-in-flight-events", "200", *QUICK_RECONNECT, http=True)
    warmed_up(ready)
    pid = walsender(ready)
    ready.kafka.proxy.delay(0.1)
    commit_one_by_one(ready, 2000)
    commit_at_once(ready, 2000)
    ready.confirm()
    assert walsender(ready) == pid
    assert judged(ready, witness).duplicates == 0
    assert metrics(relay)["backpressure_seconds_total"] > 0.5
    assert not relay.log_lines("backpressure"), "a slow Kafka is no incident"


def test_nothing_overtakes_the_record_that_finds_no_room(ready: Outbox) -> None:
    """Not even a small one, for which there would be room."""
    assert ready.kafka.proxy is not None
    relay = ready.streaming("--max-in-flight-bytes", str(2 * MEBIBYTE), *QUICK_RECONNECT, http=True)
    warmed_up(ready)
    ready.kafka.proxy.freeze()
    large = '"' + "x" * 900_000 + '"'
    written = ready.add_all([{"payload": large} for _ in range(3)] + [{}])
    relay.wait_for_log("backpressure")
    assert metrics(relay)["in_flight_events"] == 2
    ready.kafka.proxy.thaw()
    ready.confirm()
    assert [id_ for id_ in ids(ready.records()) if id_ in written] == written
