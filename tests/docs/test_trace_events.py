"""docs/how-to/trace-events.md, followed to the letter with OpenTelemetry: one trace from the application to the consumer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.docs.pages import read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    import pytest

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

RUN, APPLICATION, CONSUMER = (each.text for each in read("docs/how-to/trace-events.md").blocks)

ELSEWHERE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_consumers_span_is_a_child_of_the_one_in_which_the_event_was_written(
    database: Database, kafka: KafkaCluster, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    monkeypatch.setenv("DSN", database.dsn)
    prefix = kafka.unique_topic_prefix()
    settings = {
        "CDC_OUTBOX_DSN": database.dsn,
        "BROKERS": kafka.brokers,
        "CDC_OUTBOX_TOPIC": prefix + "{aggregatetype}",
    }
    shell("cdc-outbox sql install --apply", **settings)
    database.execute("ALTER TABLE outbox ADD tracingspancontext text; CREATE TABLE orders (id int, status text)")

    exec(compile(APPLICATION, "application", "exec"), {"__name__": "application"})
    database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, tracingspancontext) VALUES ('order', '42', 'OrderShipped', %s)",
        [f"#Mon Nov 23 12:00:00 UTC 2026\ntraceparent={ELSEWHERE}\ntracestate=vendor\\=1\n"],
    )
    shell(f"{RUN.strip()} --until caught-up", **settings)
    placed, shipped = kafka.consume(f"^{prefix}", 2)

    consumer: dict[str, Any] = {"__name__": "consumer"}
    exec(compile(CONSUMER, "consumer", "exec"), consumer)
    seen = [consumer["handle"](record.headers) for record in (placed, shipped)]
    written, *read_by = spans.get_finished_spans()
    assert written.name == "place order"
    assert seen == [written.context.trace_id, int(ELSEWHERE.split("-")[1], 16)]
    assert [span.parent.span_id for span in read_by] == [written.context.span_id, int(ELSEWHERE.split("-")[2], 16)]
    assert shipped.header("tracestate") == b"vendor=1"
    assert read_by[1].context.trace_state.get("vendor") == "1"
