"""Plain integers and floats that the stages write and `observe/` reads.

One thread writes, others read: a reader may see a value that is one event old, never a torn one. Nothing here locks,
formats or sends; the path of an event pays for an addition and no more. Times are seconds: `time.time()` where the name
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
"""Topics with a count of their own. Topics come from rows: a template over a key would fill memory, and a Prometheus."""

OTHER_TOPICS: Final = "other"
"""Where all further ones are counted."""


class State(StrEnum):
    """What a relay is doing, as metrics, the status document and the status page name it."""

    STARTING = "starting"
    """Connecting for the first time, or sending the rows that the table already has."""
    STANDBY = "standby"
    """Waiting for the slot, which another relay streams from."""
    STREAMING = "streaming"
    RECONNECTING = "reconnecting"
    """Has streamed, and connects to PostgreSQL again."""
    DRAINING = "draining"
    """A stop was requested: waiting until Kafka confirms the records in flight."""
    STOPPED = "stopped"


@dataclass(slots=True)
class TopicCounters:
    """What was delivered to one topic."""

    delivered: int = 0
    delivered_bytes: int = 0


@dataclass(frozen=True, slots=True)
class SlotCounters:
    """The slot as the catalog last showed it; replaced as a whole. LSNs in bytes; None where the catalog has NULL."""

    active: bool
    wal_status: str | None
    current_lsn: int
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    safe_wal_bytes: int | None
    seen_timestamp: float
    wal_bytes_per_second: float | None = None
    """How fast the server writes WAL; None after one look."""

    @property
    def lag_bytes(self) -> int | None:
        """WAL written since what is confirmed; None for a slot that confirms nothing."""
        return bytes_between(self.confirmed_flush_lsn, self.current_lsn)

    @property
    def retained_wal_bytes(self) -> int | None:
        """WAL that the server keeps for the slot; None when it keeps none."""
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
    """Since when Kafka is connected, or not any more; None before the first connection."""
    kafka_error: str | None = None
    """What Kafka's client met last; None once Kafka answers again."""
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
    """Bytes that the present producer's records had when Kafka confirmed them."""
    unconfirmed_since_monotonic: float | None = None
    """When Kafka confirmed a record last while others were in flight, or when the first of them was sent; None when none is."""
    backpressure_seconds: float = 0.0
    received_lsn: int = 0
    confirmed_lsn: int = 0
    oldest_unacknowledged_timestamp: float | None = None
    last_published_timestamp: float | None = None
    last_feedback_timestamp: float | None = None
    last_turn_monotonic: float | None = None
    """When the loop turned last; None while none turns: connecting, or waiting for what PostgreSQL has to give first."""
    snapshot_rows: int = 0
    snapshot_expected: int = 0
    """Rows that a first start is to send; 0 before there is one."""
    pruned_rows: int = 0
    slot: SlotCounters | None = None
    last_error: str | None = None

    def topic(self, name: str) -> TopicCounters:
        """The counts for a topic: its own for the first `MAX_TOPICS`, then those that all others share."""
        counts = self.topics.get(name)
        if counts is None:
            name = name if len(self.topics) < MAX_TOPICS else OTHER_TOPICS
            counts = self.topics.setdefault(name, TopicCounters())
        return counts

    def kafka_answers(self, now: float) -> None:
        """Note that Kafka is connected. `now` as of `time.time()`."""
        self.kafka_error = None
        if not self.kafka_connected:
            self.kafka_connected, self.kafka_since_timestamp = True, now

    def kafka_fails(self, error: str, now: float, *, connected: bool = False) -> None:
        """Note an error of Kafka's client. `now` as of `time.time()`; `connected`: a connection is left."""
        self.kafka_error = error
        if self.kafka_connected and not connected:
            self.kafka_connected, self.kafka_since_timestamp = False, now

    def note_in_flight(self, events: int, size: int, confirmed: int, now: float) -> None:
        """Note the records that Kafka has not confirmed, and their bytes. `now` as of `time.monotonic()`.

        `confirmed`: bytes that the producer has delivered; this changes whenever Kafka confirms a record.
        """
        if not events:
            self.unconfirmed_since_monotonic = None
        elif self.unconfirmed_since_monotonic is None or confirmed != self.confirmed_bytes:
            self.unconfirmed_since_monotonic = now
        self.in_flight_events, self.in_flight_bytes, self.confirmed_bytes = events, size, confirmed

    def count_delivery_error(self, topic: str, error: str) -> None:
        """Count a failed delivery, `error` by librdkafka's name for it."""
        if topic not in self.topics and len(self.delivery_errors) >= MAX_TOPICS:
            topic = OTHER_TOPICS
        self.delivery_errors[topic, error] = self.delivery_errors.get((topic, error), 0) + 1
