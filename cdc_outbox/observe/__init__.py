"""Observability of a relay: logs, metrics, probes, status. This package reads the relay's state and never changes it.

In: `Counters` and `Settings`. Out: lines on stderr, samples, HTTP answers.
Never: SQL, a call into the pipeline, a payload.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Versions:
    """What is running, for the `started` line and `cdc_outbox_build_info`. The caller knows the drivers."""

    version: str
    python: str
    librdkafka: str
    libpq: str
    plane: str = "python"
    """The implementation that sends plain rows: native or python."""
