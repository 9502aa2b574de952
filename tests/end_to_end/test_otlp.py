"""`run --otel` beside a receiver of OTLP: spans that continue the events' traces, and metrics, as protobuf over HTTP."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.plugins.waiting import eventually

pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.outbox import Outbox

TRACE: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT: Final = "00f067aa0ba902b7"


class Receiver:
    """An OTLP receiver: what has arrived, decoded."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.metrics: dict[str, list[Any]] = {}
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def take(self, path: str, body: bytes) -> None:
        """Decode one export."""
        if path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
        else:
            assert path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                for scope in resource.scope_metrics:
                    self.metrics.update({metric.name: _points(metric) for metric in scope.metrics})

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _points(metric: Any) -> list[Any]:
    return list((metric.sum if metric.HasField("sum") else metric.gauge).data_points)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def traced(flags: str, trace: str = TRACE, **others: str) -> str:
    return json.dumps({"traceparent": f"00-{trace}-{PARENT}-{flags}", **others})


def test_sampled_events_become_spans_and_the_metrics_arrive(outbox: Outbox, receiver: Receiver) -> None:
    outbox.create()
    outbox.create_slot()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRIC_EXPORT_INTERVAL": "500"}
    relay = outbox.streaming("--otel", env={**environment, "OTEL_BSP_SCHEDULE_DELAY": "200"})
    sampled = [
        {},
        {},
        {"headers": traced("01", tenant="a")},
        {"headers": traced("01", note="n" * 3_000)},
        {"aggregateid": "k" * 3_000},
        {"aggregatetype": "refund"},
    ]
    outbox.add_all([{"headers": traced("01"), **row} for row in sampled])
    outbox.add(headers=traced("00", trace="0af7651916cd43dd8448eb211c80319c"))
    outbox.add()
    outbox.confirm()

    eventually(lambda: len(receiver.spans) >= len(sampled), "the spans arrive")
    assert len(receiver.spans) == len(sampled)
    for span in receiver.spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert 0 <= span.end_time_unix_nano - span.start_time_unix_nano < 60e9
    names = [span.name for span in receiver.spans]
    assert sorted(names) == [f"send {outbox.prefix}order"] * 5 + [f"send {outbox.prefix}refund"]

    def published() -> int:
        return sum(
            int(point.as_double or point.as_int)
            for point in receiver.metrics.get("cdc_outbox_events_published_total", [])
        )

    eventually(lambda: published() == len(sampled) + 3, "the metrics arrive")
    relay.terminate()
    assert relay.wait() == 0
    assert len(outbox.records()) == len(sampled) + 3


def test_a_receiver_that_is_away_holds_up_neither_events_nor_a_stop(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming("--otel", env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    outbox.add(headers=traced("01"))
    outbox.confirm()
    relay.terminate()

    assert relay.wait(timeout=20) == 0
    assert len(outbox.records()) == 2


def test_without_the_option_nothing_of_opentelemetry_is_loaded(outbox: Outbox, receiver: Receiver) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming(env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_METRIC_EXPORT_INTERVAL": "100"})
    outbox.add(headers=traced("01"))
    outbox.confirm()
    maps = Path(f"/proc/{relay.pid}/maps").read_text(encoding="ascii", errors="replace")
    relay.terminate()

    assert relay.wait() == 0
    assert (receiver.spans, receiver.metrics) == ([], {})
    assert "protobuf" not in maps
