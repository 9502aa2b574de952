"""The current span travels with the event, as W3C Trace Context."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from cdc_outbox.app import capture, emit

if TYPE_CHECKING:
    from collections.abc import Mapping


def headers_of(**event: Any) -> Mapping[str, str | None]:
    with capture(write=False) as events:
        emit(None, aggregate_type="order", aggregate_id=1, type="Placed", payload={}, **event)
    return events[0].headers


@pytest.mark.parametrize("recorded", [True, False])
def test_the_current_span_is_what_opentelemetry_itself_would_send(recorded: bool) -> None:
    context = SpanContext(
        trace_id=0x0AF7651916CD43DD8448EB211C80319C,
        span_id=0x00F067AA0BA902B7,
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED if recorded else TraceFlags.DEFAULT),
        trace_state=TraceState([("vendor", "value"), ("other", "1")]),
    )
    expected: dict[str, str] = {}
    with trace.use_span(NonRecordingSpan(context)):
        headers = headers_of(headers={"tenant": "acme"})
        TraceContextTextMapPropagator().inject(expected)

    assert headers == {"tenant": "acme", **expected}
    assert headers["traceparent"] == f"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-0{int(recorded)}"
    assert headers["tracestate"] == "vendor=value,other=1"


def test_a_span_of_the_sdk_is_the_parent_of_what_a_consumer_does() -> None:
    tracer = TracerProvider().get_tracer("test")
    with tracer.start_as_current_span("register user") as span:
        headers = headers_of()
    remote = trace.get_current_span(TraceContextTextMapPropagator().extract(headers)).get_span_context()

    assert (remote.trace_id, remote.span_id) == (span.get_span_context().trace_id, span.get_span_context().span_id)
    assert "tracestate" not in headers


def test_a_trace_that_is_given_is_not_mixed_with_another() -> None:
    given = {"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"}
    with TracerProvider().get_tracer("test").start_as_current_span("other"):
        assert headers_of(headers=given) == given
        assert headers_of(headers={"TraceParent": "x"}) == {"TraceParent": "x"}
        assert headers_of(headers={"tracestate": "mine=1"})["tracestate"] == "mine=1"


def test_without_a_span_there_are_no_headers() -> None:
    assert headers_of() == {}
