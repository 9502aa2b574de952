"""Prometheus metrics: a collector that turns `Counters` into samples at each scrape, and at no other time.

In: `Counters`, written by one other thread meanwhile; each dictionary is copied in one step of the interpreter before it
is walked. Out: the families of docs/reference/metrics.md, and the client's own `process_*` and `python_gc_*`.
Never: a label that holds a key or an event type, more than `MAX_TOPICS` topics, a `_created` series, a cost per event.

Prometheus exposition formats 0.0.4 and OpenMetrics 1.0; naming by Prometheus' conventions: base units, `_total`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from cdc_outbox.counters import LATENCY_BOUNDS, MAX_TOPICS, OTHER_TOPICS, Counters, State
from cdc_outbox.observe import Versions
from cdc_outbox.observe.health import LEVELS, health, lag_seconds, slot_figures, unconfirmed_seconds

PREFIX: Final = "cdc_outbox_"

WAL_STATUSES: Final = ("reserved", "extended", "unreserved", "lost")
"""Values of pg_replication_slots.wal_status, from best to worst."""


def build_registry(
    counters: Counters,
    versions: Versions,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
) -> CollectorRegistry:
    """A separate registry: the relay's metrics, the process's, the garbage collector's. `clock` as `time.time`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(RelayCollector(counters, versions, clock, monotonic))
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class RelayCollector(Collector):
    """Reads the counters at each scrape. Safe in any thread."""

    def __init__(
        self,
        counters: Counters,
        versions: Versions,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counters = counters
        self._versions = versions
        self._clock = clock
        self._monotonic = monotonic
        self._labelled: dict[str, None] = {}

    def collect(self) -> Iterable[Metric]:
        """All families, each with the samples that are known by now."""
        return itertools.chain(
            self._relay(), self._events(), self._failures(), self._position(), self._pressure(), self._slot()
        )

    def _relay(self) -> Iterator[Metric]:
        counters, versions = self._counters, self._versions
        build = {
            "version": versions.version,
            "python": versions.python,
            "librdkafka": versions.librdkafka,
            "libpq": versions.libpq,
            "plane": versions.plane,
        }
        info = _gauge("build_info", "Always 1; the labels describe the running program.", list(build))
        info.add_metric(list(build.values()), 1)
        yield info
        state = _gauge("state", "1 for the state the relay is in, 0 for the others.", ["state"])
        for each in State:
            state.add_metric([each.value], int(counters.state is each))
        yield state
        judged = _gauge("health", "1 for the judgement of the relay's health, 0 for the others.", ["level"])
        level = health(counters, self._clock(), self._monotonic()).level
        for name in LEVELS:
            judged.add_metric([name], int(level == name))
        yield judged
        connected = _gauge("connected", "Whether the component answers: 1 or 0.", ["component"])
        connected.add_metric(["postgres"], int(counters.postgres_connected))
        connected.add_metric(["kafka"], int(counters.kafka_connected))
        yield connected
        reconnects = _counter("reconnects_total", "Connections made again after one was lost.", ["component"])
        reconnects.add_metric(["postgres"], counters.reconnects_postgres)
        reconnects.add_metric(["kafka"], counters.reconnects_kafka)
        yield reconnects

    def _events(self) -> Iterator[Metric]:
        counters = self._counters
        received = counters.received.copy()
        yield _counted(
            "events_received_total",
            "Events read from PostgreSQL; logical messages under `message:` and their prefix.",
            "table",
            received,
        )
        events: dict[str, int] = {}
        published_bytes: dict[str, int] = {}
        for topic, delivered in counters.topics.copy().items():
            label = self._label(topic)
            events[label] = events.get(label, 0) + delivered.delivered
            published_bytes[label] = published_bytes.get(label, 0) + delivered.delivered_bytes
        yield _counted("events_published_total", "Events that Kafka has confirmed.", "topic", events)
        yield _counted(
            "published_bytes_total", "Keys and values of events that Kafka has confirmed.", "topic", published_bytes
        )
        yield _single_counter(
            "transactions_total", "Transactions with events in them, delivered whole.", counters.transactions
        )
        yield _single_counter(
            "snapshot_rows_total",
            "Rows read from the table, not from the WAL, at a first start.",
            counters.snapshot_rows,
        )
        yield _latency(counters)

    def _failures(self) -> Iterator[Metric]:
        counters = self._counters
        skipped, dead = counters.skipped.copy(), counters.dead_lettered.copy()
        yield _counted("events_skipped_total", "Events left out by the poison policy, or by design.", "reason", skipped)
        yield _counted("events_dead_lettered_total", "Events sent to the dead letter topic instead.", "reason", dead)
        errors: dict[tuple[str, str], int] = {}
        for (topic, error), count in counters.delivery_errors.copy().items():
            labels = (self._label(topic), error)
            errors[labels] = errors.get(labels, 0) + count
        family = _counter(
            "delivery_errors_total", "Negative delivery reports, by librdkafka's name.", ["topic", "error"]
        )
        for labels, count in errors.items():
            family.add_metric(labels, count)
        yield family

    def _position(self) -> Iterator[Metric]:
        counters = self._counters
        yield _known(
            "received_lsn_bytes", "WAL position up to which the relay has read.", counters.received_lsn or None
        )
        yield _known(
            "confirmed_lsn_bytes", "WAL position that the relay has acknowledged.", counters.confirmed_lsn or None
        )
        yield _known(
            "last_published_timestamp_seconds",
            "When Kafka last confirmed an event, in Unix time.",
            counters.last_published_timestamp,
        )
        yield _known(
            "last_feedback_timestamp_seconds",
            "When PostgreSQL was last sent a status update, in Unix time.",
            counters.last_feedback_timestamp,
        )

    def _pressure(self) -> Iterator[Metric]:
        counters = self._counters
        yield _known(
            "lag_seconds",
            "Age of the oldest commit that is not acknowledged; 0 when there is none.",
            lag_seconds(counters, self._clock()),
        )
        yield _known(
            "unconfirmed_seconds",
            "For how long Kafka has confirmed nothing while events are in flight; 0 when none is.",
            unconfirmed_seconds(counters, self._monotonic()),
        )
        yield _known("in_flight_events", "Events handed to the producer, not yet confirmed.", counters.in_flight_events)
        yield _known(
            "in_flight_bytes",
            "Bytes kept for the events in flight: key, value, headers, overhead, and rows of a first start.",
            counters.in_flight_bytes,
        )
        yield _single_counter(
            "backpressure_seconds_total",
            "Time during which reading was paused for Kafka.",
            counters.backpressure_seconds,
        )

    def _slot(self) -> Iterator[Metric]:
        """The slot's state on the server. No samples if the last successful read is out of date."""
        slot = slot_figures(self._counters, self._clock())
        yield _known(
            "slot_lag_bytes", "WAL written since what the slot has confirmed.", None if slot is None else slot.lag_bytes
        )
        yield _known(
            "slot_retained_wal_bytes",
            "WAL that the server keeps for the slot.",
            None if slot is None else slot.retained_wal_bytes,
        )
        yield _known(
            "slot_safe_wal_bytes",
            "WAL that may be written before the slot is in danger; none without max_slot_wal_keep_size.",
            None if slot is None else slot.safe_wal_bytes,
        )
        yield _known(
            "slot_active", "Whether a relay streams from the slot: 1 or 0.", None if slot is None else int(slot.active)
        )
        status = _gauge("slot_wal_status", "1 for the slot's wal_status, 0 for the others.", ["status"])
        if slot is not None:
            for name in WAL_STATUSES:
                status.add_metric([name], int(slot.wal_status == name))
        yield status
        yield _single_counter("pruned_rows_total", "Delivered rows deleted from the table.", self._counters.pruned_rows)

    def _label(self, topic: str) -> str:
        """The label of a topic. Once given it is permanent, because counters never disappear."""
        if topic in self._labelled or topic == OTHER_TOPICS:
            return topic
        if len(self._labelled) >= MAX_TOPICS:
            return OTHER_TOPICS
        self._labelled[topic] = None
        return topic


def _gauge(name: str, text: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, text, labels=labels)


def _counter(name: str, text: str, labels: list[str]) -> CounterMetricFamily:
    return CounterMetricFamily(PREFIX + name, text, labels=labels)


def _counted(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = _counter(name, text, [label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family


def _single_counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(PREFIX + name, text, value=value)


def _known(name: str, text: str, value: float | None) -> Metric:
    """A gauge without a sample as long as its value is not known: a 0 would be a wrong position, or 1970."""
    return GaugeMetricFamily(PREFIX + name, text, value=value)


def _latency(counters: Counters) -> Metric:
    """Make the histogram. A bucket of Prometheus includes all lower ones; the counters' buckets do not."""
    cumulated = list(itertools.accumulate(counters.latency_buckets.copy()))
    bounds = [*(str(bound) for bound in LATENCY_BOUNDS), "+Inf"]
    return HistogramMetricFamily(
        PREFIX + "end_to_end_latency_seconds",
        "Time from the commit in PostgreSQL to the delivery report.",
        buckets=list(zip(bounds, cumulated, strict=True)),
        sum_value=counters.latency_sum,
    )
