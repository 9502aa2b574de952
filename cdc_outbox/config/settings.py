"""What the relay was told: frozen settings, checked once.

In: values that somebody chose (see `options`). Out: `Settings`.
Never: a connection, a file other than the ones named, a secret in a repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdc_outbox.config.shards import Shard, ShardFilter
from cdc_outbox.config.value_types import expect, expect_all
from cdc_outbox.identifiers import TableName

DEFAULT_TABLE: Final = TableName("public", "outbox")

DEFAULT_PUBLICATION: Final = "cdc_outbox"


class Secret:
    """A value that prints as `***`; `reveal()` gives it, read again each time when it comes from a file."""

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], str]) -> None:
        self._read = read

    @classmethod
    def of(cls, value: str) -> Secret:
        """A secret that is known already."""
        return cls(lambda: value)

    def reveal(self) -> str:
        """The value. For the driver that needs it, and nobody else."""
        return self._read()

    def __repr__(self) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the outbox table's columns. Where there are several, the first that the table has counts."""

    id: tuple[str, ...] = ("id",)
    key: tuple[str, ...] = ("aggregateid",)
    type: tuple[str, ...] = ("type",)
    payload: tuple[str, ...] = ("payload",)
    headers: tuple[str, ...] = ("headers",)
    timestamp: str | None = None
    partition: str | None = None
    span_context: str | None = None


@dataclass(frozen=True, slots=True)
class HeaderColumn:
    """`--header column:name`: the column's text goes out under this header name."""

    column: str
    name: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `run` needs to know. Units: seconds, bytes."""

    brokers: str
    dsn: Secret = field(default_factory=lambda: Secret.of(""))
    kafka: Callable[[], Mapping[str, str]] = dict
    """librdkafka properties the user gave (-X > CDC_OUTBOX_KAFKA_* > -F), read again each time: secrets rotate."""
    slot: str = "cdc_outbox"
    publication: str = DEFAULT_PUBLICATION
    create_slot: bool = True
    snapshot: bool = True
    failover: bool = False
    source: str = "table"
    message_prefix: str = "outbox"
    tables: tuple[TableName, ...] = (DEFAULT_TABLE,)
    """Empty with `--source message`."""
    topic: str = "outbox.event.{aggregatetype}"
    columns: Columns = field(default_factory=Columns)
    headers: tuple[HeaderColumn, ...] = ()
    format: str = "debezium"
    ce_source: str | None = None
    content_type: str = "application/json"
    on_poison: str = "stop"
    dead_letter_topic: str | None = None
    on_slot_busy: str = "wait"
    on_slot_lost: str = "stop"
    max_in_flight_events: int = 10_000
    max_in_flight_bytes: int = 16 * 1024 * 1024
    until_caught_up: bool = False
    prune_after: float | None = None
    """None: rows stay in the table."""
    partitions_ahead: int | None = None
    """With prune_after: days whose partitions are made before they come. None: none are made."""
    shutdown_timeout: float = 25.0
    startup_timeout: float = 0.0
    http: str = "127.0.0.1:8420"
    log_format: str = "auto"
    log_level: str = "info"
    shard: Shard | None = None
    """`slot` and `publication` are this shard's."""

    @property
    def shard_filter(self) -> ShardFilter | None:
        """Which rows of the tables are ours; None: all."""
        return None if self.shard is None else ShardFilter(self.shard, self.columns.key)

    @property
    def reads_messages(self) -> bool:
        """Whether logical messages are events."""
        return self.source != "table"


def settings_from(chosen: Mapping[str, object], brokers: str, kafka: Callable[[], Mapping[str, str]]) -> Settings:
    """Settings from one parsed value for each option (by its name as an identifier), the preset already applied."""
    shard = None if chosen["shard"] is None else expect(Shard, chosen["shard"])
    return Settings(
        brokers=brokers,
        dsn=expect(Secret, chosen["dsn"] or Secret.of("")),
        kafka=kafka,
        slot=_of(shard, chosen["slot"]),
        publication=_of(shard, chosen["publication"]),
        shard=shard,
        create_slot=expect(bool, chosen["create_slot"]),
        snapshot=expect(bool, chosen["snapshot"]),
        failover=expect(bool, chosen["failover"]),
        source=expect(str, chosen["source"]),
        message_prefix=expect(str, chosen["message_prefix"]),
        tables=() if chosen["source"] == "message" else expect_all(TableName, chosen["table"]),
        topic=expect(str, chosen["topic"]),
        columns=_columns(chosen),
        headers=expect_all(HeaderColumn, chosen["header"]),
        format=expect(str, chosen["format"]),
        ce_source=None if chosen["ce_source"] is None else expect(str, chosen["ce_source"]),
        content_type=expect(str, chosen["content_type"]),
        on_poison=expect(str, chosen["on_poison"]),
        dead_letter_topic=None if chosen["dead_letter_topic"] is None else expect(str, chosen["dead_letter_topic"]),
        on_slot_busy=expect(str, chosen["on_slot_busy"]),
        on_slot_lost=expect(str, chosen["on_slot_lost"]),
        max_in_flight_events=expect(int, chosen["max_in_flight_events"]),
        max_in_flight_bytes=expect(int, chosen["max_in_flight_bytes"]),
        until_caught_up=chosen["until"] == "caught-up",
        partitions_ahead=None if chosen["partitions_ahead"] is None else expect(int, chosen["partitions_ahead"]),
        prune_after=None if chosen["prune_after"] is None else expect(float, chosen["prune_after"]),
        shutdown_timeout=expect(float, chosen["shutdown_timeout"]),
        startup_timeout=expect(float, chosen["startup_timeout"]),
        http=expect(str, chosen["http"]),
        log_format=expect(str, chosen["log_format"]),
        log_level=expect(str, chosen["log_level"]),
    )


def _of(shard: Shard | None, base: object) -> str:
    name = expect(str, base)
    return name if shard is None else shard.name(name)


def _columns(chosen: Mapping[str, object]) -> Columns:
    timestamp, partition = chosen["timestamp_column"], chosen["partition_column"]
    span_context = chosen["span_context_column"]
    return Columns(
        id=expect_all(str, chosen["id_column"]),
        key=expect_all(str, chosen["key_column"]),
        type=expect_all(str, chosen["type_column"]),
        payload=expect_all(str, chosen["payload_column"]),
        timestamp=None if timestamp is None else expect(str, timestamp),
        partition=None if partition is None else expect(str, partition),
        span_context=None if span_context is None else expect(str, span_context),
    )
