"""The relay's own OpenTelemetry: spans that continue an event's trace, and the metrics of /metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import LATENCY_BOUNDS, Counters, State, TopicCounters
from cdc_outbox.kafka.traced import Delivery, sampled_traceparent
from cdc_outbox.lsn import Lsn
from cdc_outbox.observe import Versions
from cdc_outbox.observe.metrics import RelayCollector

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from cdc_outbox.observe.telemetry import Telemetry

if TYPE_CHECKING:
    from collections.abc import Iterator

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"
COMMITTED: Final = 1_767_605_400_123
"""Unix milliseconds."""

COUNTERS: Final = Counters(state=State.STREAMING, topics={"orders": TopicCounters(delivered=7, delivered_bytes=70)})


class Exports:
    """A relay's telemetry, kept in memory."""

    def __init__(self) -> None:
        self.spans = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        collector = RelayCollector(COUNTERS, Versions("1", "3", "2", "18"))
        self.telemetry = Telemetry(
            Settings(brokers="kafka:9092", slot="orders"), collector, self.reader, SimpleSpanProcessor(self.spans)
        )

    def metric(self, name: str) -> dict[tuple[tuple[str, object], ...], float]:
        """The points of a metric, by their attributes."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            tuple(sorted((point.attributes or {}).items())): point.value  # type: ignore[union-attr]  # no histogram is exported
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def exports() -> Iterator[Exports]:
    made = Exports()
    yield made
    made.telemetry.shutdown()


def test_a_span_goes_from_the_commit_to_the_delivery_and_continues_the_event_s_trace(exports: Exports) -> None:
    exports.telemetry.delivered(Delivery(f"00-{TRACE}-{PARENT}-01", "orders", 3, 42, 99, Lsn(0x16B3748), COMMITTED))

    [span] = exports.spans.get_finished_spans()
    assert span.context is not None
    assert span.parent is not None
    assert (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}") == (TRACE, PARENT)
    assert (span.name, span.kind.name) == ("send orders", "PRODUCER")
    assert span.start_time == COMMITTED * 1_000_000
    assert (span.end_time or 0) > span.start_time
    assert dict(span.attributes or {}) == {
        "messaging.system": "kafka",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "3",
        "messaging.kafka.offset": 42,
        "messaging.message.body.size": 99,
        "cdc_outbox.lsn": "0/16B3748",
    }
    assert span.resource.attributes["cdc_outbox.slot"] == "orders"


def test_a_clock_that_is_behind_the_database_makes_no_span_of_negative_length(exports: Exports) -> None:
    future = 4_000_000_000_000
    exports.telemetry.delivered(Delivery(f"00-{TRACE}-{PARENT}-01", "orders", 0, 0, 0, Lsn(1), future))

    [span] = exports.spans.get_finished_spans()
    assert span.end_time == span.start_time == future * 1_000_000


def test_the_metrics_are_those_of_the_scrape(exports: Exports) -> None:
    assert exports.metric("cdc_outbox_events_published_total") == {(("topic", "orders"),): 7}
    assert exports.metric("cdc_outbox_state")[("state", "streaming"),] == 1
    COUNTERS.topics["orders"].delivered += 1
    assert exports.metric("cdc_outbox_events_published_total") == {(("topic", "orders"),): 8}
    buckets = exports.metric("cdc_outbox_end_to_end_latency_seconds_bucket")
    assert len(buckets) == len(LATENCY_BOUNDS) + 1


@pytest.mark.parametrize(
    ("header", "sampled"),
    [
        (("traceparent", f"00-{TRACE}-{PARENT}-01".encode()), True),
        (("ce_traceparent", f"00-{TRACE}-{PARENT}-03".encode()), True),
        (("traceparent", f"00-{TRACE}-{PARENT}-00".encode()), False),
        (("traceparent", f"00-{TRACE}-{PARENT}-zz".encode()), False),
        (("traceparent", b"\xff" * 60), False),
        (("traceparent", b""), False),
        (("tracestate", f"00-{TRACE}-{PARENT}-01".encode()), False),
    ],
)
def test_only_a_sampled_trace_is_continued(header: tuple[str, bytes], sampled: bool) -> None:
    assert (sampled_traceparent([("id", b"1"), header]) is not None) is sampled
