"""The current span of OpenTelemetry as headers: W3C Trace Context, `traceparent` and `tracestate`.

OpenTelemetry is never imported: where the application has not done so, there is no span.
"""

from __future__ import annotations

import sys


def trace_headers() -> dict[str, str]:
    """Return the headers that name the current span; none if there is no span."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    headers = {"traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
    if span.trace_state:
        headers["tracestate"] = span.trace_state.to_header()
    return headers
