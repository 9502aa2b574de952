"""OpenTelemetry of the relay itself (--otel): its metrics by OTLP, and a span for each delivered event of a sampled trace.

In: the metrics that /metrics has; deliveries (`kafka.traced`). Out: OTLP over HTTP, from threads of the SDK.
Never: anything without --otel; a key, a payload; a wait on the loop's thread (the SDK queues spans, and drops them when its
queue is full).

Where to and how is OpenTelemetry's own environment: OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME,
OTEL_RESOURCE_ATTRIBUTES, OTEL_METRIC_EXPORT_INTERVAL. Semantic conventions for messaging (Kafka) name the attributes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from prometheus_client.registry import Collector

from cdc_outbox import __version__
from cdc_outbox.config.settings import Settings
from cdc_outbox.kafka.traced import Delivery
from cdc_outbox.lsn import format_lsn

SCOPE: Final = "cdc_outbox"

FLUSH_MILLISECONDS: Final = 2_000
"""Time for the last export; a receiver that does not answer must not delay a stop longer."""

_NANOSECONDS_PER_MILLISECOND: Final = 1_000_000


class Telemetry:
    """The exports of one relay. `shutdown` flushes and ends them."""

    def __init__(
        self, settings: Settings, collector: Collector, reader: MetricReader, processor: SpanProcessor
    ) -> None:
        """`reader` and `processor`: the exporters of metrics and spans."""
        attributes = {
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            "cdc_outbox.slot": settings.slot,
        }
        if "OTEL_SERVICE_NAME" not in os.environ:
            attributes["service.name"] = "cdc-outbox"
        resource = Resource.create(attributes)
        self._tracers = TracerProvider(resource=resource)
        self._tracers.add_span_processor(processor)
        self._tracer = self._tracers.get_tracer(SCOPE, __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._meters = MeterProvider(metric_readers=[reader], resource=resource)
        self._observe(collector)

    def delivered(self, delivery: Delivery) -> None:
        """Make the span of a delivery: from the commit to now, a child of the span in which the event was written."""
        span = self._tracer.start_span(
            f"send {delivery.topic}",
            context=self._propagator.extract({"traceparent": delivery.traceparent}),
            kind=SpanKind.PRODUCER,
            start_time=delivery.commit_time * _NANOSECONDS_PER_MILLISECOND,
            attributes={
                "messaging.system": "kafka",
                "messaging.operation.name": "send",
                "messaging.operation.type": "send",
                "messaging.destination.name": delivery.topic,
                "messaging.destination.partition.id": str(delivery.partition),
                "messaging.kafka.offset": delivery.offset,
                "messaging.message.body.size": delivery.size,
                "cdc_outbox.lsn": format_lsn(delivery.lsn),
            },
        )
        span.end(max(time.time_ns(), delivery.commit_time * _NANOSECONDS_PER_MILLISECOND))

    def shutdown(self) -> None:
        """Send what is left, within two seconds, and end the threads. Never raises."""
        with contextlib.suppress(Exception):
            self._tracers.force_flush(FLUSH_MILLISECONDS)
        with contextlib.suppress(Exception):
            self._meters.shutdown(FLUSH_MILLISECONDS)
        with contextlib.suppress(Exception):
            self._tracers.shutdown()

    def _observe(self, collector: Collector) -> None:
        """Make an instrument for each sample's name; a histogram becomes counters: `_bucket` with `le`, `_count`, `_sum`."""
        meter = self._meters.get_meter(SCOPE, __version__)
        names: dict[str, tuple[bool, str]] = {}
        for family in collector.collect():
            suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
            for suffix in suffixes:
                names[f"{family.name}{suffix}"] = (family.type in {"counter", "histogram"}, family.documentation)
        for name, (counts, text) in names.items():
            create = meter.create_observable_counter if counts else meter.create_observable_gauge
            create(name, callbacks=[_callback(collector, name)], description=text)


def _callback(collector: Collector, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(_options: CallbackOptions) -> Iterator[Observation]:
        for family in collector.collect():
            if name.startswith(family.name):
                for sample in family.samples:
                    if sample.name == name:
                        yield Observation(sample.value, sample.labels)

    return observe


def export(settings: Settings, collector: Collector) -> Telemetry:
    """Start the export by OTLP over HTTP, to the endpoint of OpenTelemetry's environment (http://localhost:4318)."""
    return Telemetry(
        settings,
        collector,
        PeriodicExportingMetricReader(OTLPMetricExporter()),
        BatchSpanProcessor(OTLPSpanExporter()),
    )
