"""Plain integers and floats that the stages write and `observe/` reads.

One thread writes, others read: a reader may see a value that is one event old, never a torn one. Nothing here locks,
formats or sends; an event costs one addition. Times are seconds: `time.time()` where the name
ends in `_timestamp`, else durations. INTERFACE names for them are in `observe/metrics.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import bytes_between

LATENCY_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds of the end-to-end latency histogram, in seconds: 1 ms (a local broker) to a minute (an incident)."""


MAX_TOPICS: Final = 200
"""Most topics with a count of their own. Topics come from rows: a template with a key would fill memory, and Prometheus."""

OTHER_TOPICS: Final = "other"
"""The name under which all further topics are counted."""


class State(StrEnum):
    """The state of a relay, with its name in metrics, the status document and the status page."""

    STARTING = "starting"
    """Connecting for the first time, or sending the rows that the table already has."""
    STANDBY = "standby"
    """Waiting for the slot while another relay streams from it."""
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    """Has streamed, and connects to PostgreSQL again."""
    DRAINING = "draining"
    """A stop was requested: waiting until Kafka confirms the records in flight."""
    STOPPED = "stopped"


@dataclass(slots=True)
class TopicCounters:
    """Counts of one topic."""

    delivered: int = 0
    delivered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlotCounters:
    """The slot at the last look at the catalog; replaced as a whole. LSNs in bytes; None where the catalog has NULL."""

    active: bool
    wal_status: str | None
    current_lsn: int
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    safe_wal_bytes: int | None
    seen_timestamp: float
    wal_bytes_per_second: float | None = None
    """The rate at which the server writes WAL; None after one look."""

    @property
    def lag_bytes(self) -> int | None:
        """WAL written since the confirmed LSN; None for a slot without one."""
        return bytes_between(self.confirmed_flush_lsn, self.current_lsn)

    @property
    def retained_wal_bytes(self) -> int | None:
        """WAL that the server retains for the slot; None if it retains none."""
        return bytes_between(self.restart_lsn, self.current_lsn)


@dataclass(slots=True)
class Counters:
    """The state of one relay, from its start."""

    state: State = State.STARTING
    postgres_connected: bool = False
    database: str | None = None
    """Database, host and port of the last connection."""
    kafka_connected: bool = False
    kafka_since_timestamp: float | None = None
    """Time of the last change of `kafka_connected`; None before the first connection."""
    kafka_error: str | None = None
    """The last error of Kafka's client; None once Kafka answers again."""
    kafka_cure: str | None = None
    """Its cure, if one is known."""
    received: dict[str, int] = field(default_factory=dict)
    topics: dict[str, TopicCounters] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    other_tables: set[TableName] = field(default_factory=set)
    dead_lettered: dict[str, int] = field(default_factory=dict)
    delivery_errors: dict[tuple[str, str], int] = field(default_factory=dict)
    transactions: int = 0
    reconnects_postgres: int = 0
    reconnects_kafka: int = 0
    latency_buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    latency_sum: float = 0.0
    in_flight_events: int = 0
    in_flight_bytes: int = 0
    confirmed_bytes: int = 0
    """Bytes of the present producer's confirmed records."""
    unconfirmed_since_monotonic: float | None = None
    """When Kafka confirmed a record last while others were in flight, or when the first of them was sent; None when none is."""
    backpressure_seconds: float = 0.0
    received_lsn: int = 0
    confirmed_lsn: int = 0
    oldest_unacknowledged_timestamp: float | None = None
    last_published_timestamp: float | None = None
    last_feedback_timestamp: float | None = None
    last_turn_monotonic: float | None = None
    """Time of the loop's last turn; None while no loop runs: while connecting, or waiting for PostgreSQL."""
    waits_since_monotonic: float | None = None
    """While no loop runs: when the relay began its present step, or saw last that the server works on it."""
    snapshot_rows: int = 0
    snapshot_expected: int = 0
    """Rows that a first start sends; 0 before one."""
    pruned_rows: int = 0
    slot: SlotCounters | None = None
    last_error: str | None = None
    last_error_code: str | None = None
    """Its code: a section of docs/troubleshooting.md."""
    last_error_cure: str | None = None

    def topic(self, name: str) -> TopicCounters:
        """The counts of a topic: its own for the first `MAX_TOPICS`, the shared ones for all others."""
        counts = self.topics.get(name)
        if counts is None:
            name = name if len(self.topics) < MAX_TOPICS else OTHER_TOPICS
            counts = self.topics.setdefault(name, TopicCounters())
        return counts

    def waits(self, now: float) -> None:
        """Record that no loop runs, and that the relay makes progress nevertheless. `now` as of `time.monotonic()`."""
        self.waits_since_monotonic, self.last_turn_monotonic = now, None

    def note_error(self, text: str, code: str, cure: str = "") -> None:
        """Record the last error."""
        self.last_error, self.last_error_code, self.last_error_cure = text, code, cure or None

    def clear_error(self, text: str | None = None) -> None:
        """Remove the last error; with `text`, only if it has this text."""
        if text is None or self.last_error == text:
            self.last_error = self.last_error_code = self.last_error_cure = None

    def kafka_answers(self, now: float) -> None:
        """Record that Kafka is connected. `now` as of `time.time()`."""
        self.kafka_error = self.kafka_cure = None
        if not self.kafka_connected:
            self.kafka_connected, self.kafka_since_timestamp = True, now

    def kafka_fails(self, error: str, now: float, *, cure: str = "", connected: bool = False) -> None:
        """Record an error of Kafka's client. `now` as of `time.time()`; `connected`: whether a connection is left."""
        self.kafka_error, self.kafka_cure = error, cure or None
        if self.kafka_connected and not connected:
            self.kafka_connected, self.kafka_since_timestamp = False, now

    def note_in_flight(self, events: int, size: int, confirmed: int, now: float) -> None:
        """Record the unconfirmed records, and their bytes. `now` as of `time.monotonic()`.

        `confirmed`: bytes that the producer has delivered; this changes whenever Kafka confirms a record.
        """
        if not events:
            self.unconfirmed_since_monotonic = None
        elif self.unconfirmed_since_monotonic is None or confirmed != self.confirmed_bytes:
            self.unconfirmed_since_monotonic = now
        self.in_flight_events, self.in_flight_bytes, self.confirmed_bytes = events, size, confirmed

    def count_delivery_error(self, topic: str, error: str) -> None:
        """Count a failed delivery. `error`: librdkafka's name of the error."""
        if topic not in self.topics and len(self.delivery_errors) >= MAX_TOPICS:
            topic = OTHER_TOPICS
        self.delivery_errors[topic, error] = self.delivery_errors.get((topic, error), 0) + 1
