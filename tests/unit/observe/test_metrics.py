"""Promises of /metrics: the documented names and no others, true numbers, bounded labels, readable at any moment."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from cdc_outbox.counters import LATENCY_BOUNDS, MAX_TOPICS, Counters, SlotCounters, State, TopicCounters
from cdc_outbox.observe import Versions
from cdc_outbox.observe.health import SLOT_STALE_SECONDS
from cdc_outbox.observe.metrics import WAL_STATUSES, build_registry
from tests.plugins.absence import absent

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "metrics.md"
VERSIONS = Versions("0.1.0", "3.13.1", "2.16.1", "18.6")
NOW = 1_700_000_000.0

INTERFACE = {
    "build_info": ("gauge", {"version", "python", "librdkafka", "libpq", "plane"}),
    "state": ("gauge", {"state"}),
    "connected": ("gauge", {"component"}),
    "events_received_total": ("counter", {"table"}),
    "events_published_total": ("counter", {"topic"}),
    "published_bytes_total": ("counter", {"topic"}),
    "events_skipped_total": ("counter", {"reason"}),
    "events_dead_lettered_total": ("counter", {"reason"}),
    "transactions_total": ("counter", set()),
    "snapshot_rows_total": ("counter", set()),
    "delivery_errors_total": ("counter", {"topic", "error"}),
    "reconnects_total": ("counter", {"component"}),
    "end_to_end_latency_seconds": ("histogram", set()),
    "lag_seconds": ("gauge", set()),
    "in_flight_events": ("gauge", set()),
    "in_flight_bytes": ("gauge", set()),
    "unconfirmed_seconds": ("gauge", set()),
    "health": ("gauge", {"level"}),
    "backpressure_seconds_total": ("counter", set()),
    "received_lsn_bytes": ("gauge", set()),
    "confirmed_lsn_bytes": ("gauge", set()),
    "last_published_timestamp_seconds": ("gauge", set()),
    "last_feedback_timestamp_seconds": ("gauge", set()),
    "slot_lag_bytes": ("gauge", set()),
    "slot_retained_wal_bytes": ("gauge", set()),
    "slot_safe_wal_bytes": ("gauge", set()),
    "slot_active": ("gauge", set()),
    "slot_wal_status": ("gauge", {"status"}),
    "pruned_rows_total": ("counter", set()),
}


def busy() -> Counters:
    """A relay that has seen everything once."""
    counters = Counters(
        state=State.STREAMING,
        postgres_connected=True,
        received={"public.outbox": 9},
        topics={"outbox.event.order": TopicCounters(delivered=7, delivered_bytes=700)},
        skipped={"poison": 1},
        dead_lettered={"poison": 2},
        delivery_errors={("outbox.event.order", "MSG_SIZE_TOO_LARGE"): 3},
        transactions=4,
        reconnects_postgres=5,
        reconnects_kafka=6,
        latency_sum=12.5,
        in_flight_events=3,
        in_flight_bytes=300,
        backpressure_seconds=1.5,
        received_lsn=(1 << 40) + 1,
        confirmed_lsn=1 << 40,
        oldest_unacknowledged_timestamp=NOW - 42.0,
        last_published_timestamp=NOW - 2.0,
        last_feedback_timestamp=NOW - 1.0,
        snapshot_rows=8,
        pruned_rows=11,
        slot=SlotCounters(
            active=True,
            wal_status="unreserved",
            current_lsn=(1 << 40) + 5000,
            restart_lsn=(1 << 40) - 3000,
            confirmed_flush_lsn=(1 << 40) - 1000,
            safe_wal_bytes=70_000,
            seen_timestamp=NOW - 10.0,
        ),
    )
    counters.latency_buckets[0] = 2
    counters.latency_buckets[3] = 4
    counters.latency_buckets[-1] = 1
    return counters


def registry_of(counters: Counters) -> CollectorRegistry:
    return build_registry(counters, VERSIONS, clock=lambda: NOW)


def values(counters: Counters) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """What a scraper reads, by name without the prefix and labels."""
    text = generate_latest(registry_of(counters)).decode()
    return {
        (sample.name.removeprefix("cdc_outbox_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def families(counters: Counters) -> dict[str, tuple[str, set[str], str]]:
    """Type, labels and help of each of our families, by the name that a query uses."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(registry_of(counters)).decode()):
        if family.name.startswith("cdc_outbox_"):
            name = family.name.removeprefix("cdc_outbox_") + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (family.type, labels, family.documentation)
    return found


def test_every_metric_is_there_with_its_type_and_labels() -> None:
    assert {name: (kind, labels) for name, (kind, labels, _) in families(busy()).items()} == INTERFACE


def test_the_reference_documents_every_metric_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", REFERENCE.read_text(), re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels)), text) for name, kind, labels, text in rows}

    assert documented == families(busy())


def test_the_numbers_are_the_counters() -> None:
    seen = values(busy())
    order = (("topic", "outbox.event.order"),)

    assert seen["events_received_total", (("table", "public.outbox"),)] == 9
    assert seen["events_published_total", order] == 7
    assert seen["published_bytes_total", order] == 700
    assert seen["events_skipped_total", (("reason", "poison"),)] == 1
    assert seen["events_dead_lettered_total", (("reason", "poison"),)] == 2
    assert seen["delivery_errors_total", (("error", "MSG_SIZE_TOO_LARGE"), *order)] == 3
    assert seen["transactions_total", ()] == 4
    assert seen["reconnects_total", (("component", "postgres"),)] == 5
    assert seen["reconnects_total", (("component", "kafka"),)] == 6
    assert seen["snapshot_rows_total", ()] == 8
    assert seen["pruned_rows_total", ()] == 11
    assert seen["in_flight_events", ()] == 3
    assert seen["in_flight_bytes", ()] == 300
    assert seen["backpressure_seconds_total", ()] == 1.5
    assert seen["confirmed_lsn_bytes", ()] == 1 << 40
    assert seen["received_lsn_bytes", ()] == (1 << 40) + 1
    assert seen["last_published_timestamp_seconds", ()] == NOW - 2
    assert seen["last_feedback_timestamp_seconds", ()] == NOW - 1
    assert seen["connected", (("component", "postgres"),)] == 1
    assert seen["connected", (("component", "kafka"),)] == 0


def test_the_slot_is_as_the_server_reported_with_the_positions_of_the_stream() -> None:
    seen = values(busy())

    assert seen["slot_lag_bytes", ()] == 5000
    assert seen["slot_retained_wal_bytes", ()] == 8000
    assert seen["slot_safe_wal_bytes", ()] == 70_000
    assert seen["slot_active", ()] == 1
    assert {name: seen["slot_wal_status", (("status", name),)] for name in WAL_STATUSES} == {
        "reserved": 0, "extended": 0, "unreserved": 1, "lost": 0
    }  # fmt: skip


def test_a_slot_that_was_last_seen_too_long_ago_has_no_samples() -> None:
    counters = busy()
    assert counters.slot is not None
    counters.slot = replace(counters.slot, seen_timestamp=NOW - SLOT_STALE_SECONDS - 1)

    assert [name for name, _ in values(counters) if name.startswith("slot_")] == []


@pytest.mark.parametrize("state", State)
def test_exactly_one_state_is_1(state: State) -> None:
    seen = values(Counters(state=state))

    assert {each: seen["state", (("state", each),)] for each in State} == {each: each is state for each in State}


def test_build_info_has_the_versions() -> None:
    labels = (
        ("libpq", "18.6"),
        ("librdkafka", "2.16.1"),
        ("plane", "python"),
        ("python", "3.13.1"),
        ("version", "0.1.0"),
    )

    assert values(Counters())["build_info", labels] == 1


def test_lag_is_the_age_of_the_oldest_unacknowledged_commit_and_0_when_idle() -> None:
    assert values(busy())["lag_seconds", ()] == 42
    assert values(Counters())["lag_seconds", ()] == 0


def test_lag_is_not_negative_when_the_server_s_clock_is_ahead() -> None:
    assert values(Counters(oldest_unacknowledged_timestamp=NOW + 5))["lag_seconds", ()] == 0


def test_positions_and_times_that_are_not_known_have_no_sample() -> None:
    seen = {name for name, _ in values(Counters())}

    assert not seen & {
        "received_lsn_bytes",
        "confirmed_lsn_bytes",
        "last_published_timestamp_seconds",
        "last_feedback_timestamp_seconds",
    }


def test_latency_buckets_are_cumulative_and_agree_with_sum_and_count() -> None:
    seen = values(busy())
    buckets = [seen["end_to_end_latency_seconds_bucket", (("le", str(bound)),)] for bound in LATENCY_BOUNDS]

    assert buckets == [2, 2, 2] + [6] * (len(LATENCY_BOUNDS) - 3)
    assert seen["end_to_end_latency_seconds_bucket", (("le", "+Inf"),)] == 7
    assert seen["end_to_end_latency_seconds_count", ()] == 7
    assert seen["end_to_end_latency_seconds_sum", ()] == 12.5


def test_the_201st_topic_counts_as_other() -> None:
    counters = Counters(
        topics={f"topic-{number}": TopicCounters(delivered=1, delivered_bytes=10) for number in range(MAX_TOPICS + 1)}
    )
    counters.topics["topic-200"].delivered = 5
    counters.topics["topic-201"] = TopicCounters(delivered=2, delivered_bytes=30)
    counters.delivery_errors = {("topic-200", "LEADER_NOT_AVAILABLE"): 1, ("topic-201", "LEADER_NOT_AVAILABLE"): 2}
    seen = values(counters)

    topics = [labels for name, labels in seen if name == "events_published_total"]
    assert len(topics) == MAX_TOPICS + 1
    assert seen["events_published_total", (("topic", "topic-199"),)] == 1
    assert seen["events_published_total", (("topic", "other"),)] == 7
    assert seen["published_bytes_total", (("topic", "other"),)] == 40
    assert seen["delivery_errors_total", (("error", "LEADER_NOT_AVAILABLE"), ("topic", "other"))] == 3


def test_a_topic_keeps_its_label_from_scrape_to_scrape() -> None:
    counters = Counters(delivery_errors={("refused", "UNKNOWN_TOPIC_OR_PART"): 1})
    registry = registry_of(counters)
    generate_latest(registry)
    counters.topics.update({f"topic-{number}": TopicCounters() for number in range(MAX_TOPICS)})
    text = generate_latest(registry).decode()

    assert 'topic="refused"' in text
    assert 'topic="topic-199"' not in text


def test_there_are_no_created_series_and_the_process_is_measured_too() -> None:
    text = generate_latest(registry_of(busy())).decode()

    assert "_created" not in text
    assert "process_resident_memory_bytes" in text
    assert "python_gc_objects_collected_total" in text


def test_two_registries_share_no_metric() -> None:
    registry_of(Counters())
    registry_of(Counters())


def test_openmetrics_is_well_formed_too() -> None:
    parsed = {family.name for family in parse_openmetrics(generate_openmetrics(registry_of(busy())).decode())}

    assert "cdc_outbox_events_published" in parsed


def test_a_scrape_is_whole_while_the_relay_writes() -> None:
    counters = Counters()
    registry = registry_of(counters)
    stop = threading.Event()

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            counters.topics.setdefault(f"t{number % 150}", TopicCounters()).delivered += 1
            counters.delivery_errors[f"t{number}", "ERROR"] = 1
            counters.received[f"table{number}"] = 1
            if number % 1000 == 0:
                counters.delivery_errors.clear()
                counters.received.clear()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        scrapes = [generate_latest(registry).decode() for _ in range(30)]
    finally:
        stop.set()
        writer.join()

    assert all("cdc_outbox_lag_seconds 0.0" in text for text in scrapes)


@pytest.mark.parametrize("counters", [Counters(), busy()], ids=["fresh", "busy"])
def test_promtool_has_nothing_to_object_to(counters: Counters) -> None:
    if shutil.which("promtool") is None:
        absent("promtool (Debian's package prometheus) is not installed")
    text = generate_latest(registry_of(counters))
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False, timeout=60)

    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
