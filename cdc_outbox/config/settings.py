"""Everything that can be configured: each option is one field of `Settings`.

In: nothing. Out: `Settings`, frozen; `OPTIONS`, derived from its fields. `sources.settings_from` makes the one of a process.
Never: a connection, a file, a secret in a repr.

A new option is a new field here: its type, its default and `option(...)` with the type of its text and its help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdc_outbox.config.options import option, options_of, setting
from cdc_outbox.config.shards import Shard, ShardFilter
from cdc_outbox.config.value_types import (
    ADDRESS,
    COLUMN,
    COLUMNS,
    COUNT,
    DAYS,
    DSN,
    HEADER,
    NAME,
    PATH,
    PROPERTY,
    SECONDS,
    SECONDS_OR_ZERO,
    SHARD,
    SIZE,
    SLOT,
    SWITCH,
    TABLE,
    TEXT,
    HeaderColumn,
    Secret,
    choice,
)
from cdc_outbox.identifiers import TableName

DEFAULT_TABLE: Final = TableName("public", "outbox")

DEFAULT_PUBLICATION: Final = "cdc_outbox"

POSTGRES: Final = "PostgreSQL"
KAFKA: Final = "Kafka"
RECORDS: Final = "The outbox table and the records made of it"
PROCESS: Final = "The relay as a process"
"""Sections of the options."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Column names of the outbox table. Of several names, the first that the table has is used."""

    id: tuple[str, ...] = setting(("id",), COLUMNS, RECORDS, "Event id. Several names are tried in order.")
    key: tuple[str, ...] = setting(
        ("aggregateid",),
        COLUMNS,
        RECORDS,
        "Record key. Several names are tried in order.",
    )
    type: tuple[str, ...] = setting(("type",), COLUMNS, RECORDS, "Event type. Several names are tried in order.")
    payload: tuple[str, ...] = setting(
        ("payload",),
        COLUMNS,
        RECORDS,
        "Record value. Several names are tried in order.",
    )
    headers: tuple[str, ...] = ("headers",)
    timestamp: str | None = setting(
        None,
        COLUMN,
        RECORDS,
        "Record timestamp. Without it: the transaction's commit time.",
        example="created_at",
    )
    partition: str | None = setting(
        None,
        COLUMN,
        RECORDS,
        "Record partition. Without it: murmur2 of the key, as in the Java producer.",
        example="partition",
    )
    span_context: str | None = setting(
        None,
        COLUMN,
        RECORDS,
        "Column with a trace context as java.util.Properties text, as Debezium's applications write it; its entries "
        "become headers.",
        example="tracingspancontext",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one process. Durations in seconds, sizes in bytes."""

    dsn: Secret = field(
        default_factory=lambda: Secret.of(""),
        metadata=option(
            DSN,
            POSTGRES,
            "Connection string or URL, several hosts allowed. CDC_OUTBOX_DSN_FILE names a file that holds it. Without it, "
            "libpq's environment variables apply (PGHOST, PGPASSFILE, PGSERVICE, ...).",
            example="postgresql://relay@localhost:5432/shop",
        ),
    )
    slot: str = setting("cdc_outbox", SLOT, POSTGRES, "Replication slot: the relay's only state.")
    publication: str = setting(DEFAULT_PUBLICATION, NAME, POSTGRES, "Publication that contains the outbox table.")
    shard: Shard | None = setting(
        None,
        SHARD,
        POSTGRES,
        "Relay one shard of the keys (sql install --shards N): 0/2 is the first of two. _0_of_2 is appended to the names "
        "of slot and publication.",
        example="0/2",
    )
    """If set, `slot` and `publication` have the shard's suffix."""
    create_slot: bool = setting(
        True,
        SWITCH,
        POSTGRES,
        "Create the slot if it does not exist (first start). With --no-create-slot: exit with 78.",
    )
    snapshot: bool = setting(
        True, SWITCH, POSTGRES, "On a first start, send the rows already in the table, or skip them."
    )
    failover: bool = setting(
        False,
        SWITCH,
        POSTGRES,
        "Create the slot with failover = true (PostgreSQL 17 and later), so that it is synchronized to standbys. Alters "
        "an existing slot; --no-failover does not revert it.",
    )
    on_slot_busy: str = setting(
        "wait", choice("wait", "exit"), POSTGRES, "Another relay streams: stand by, or exit with 75."
    )
    on_slot_lost: str = setting(
        "stop",
        choice("stop", "recover"),
        POSTGRES,
        "The slot is invalidated, or dropped under a running relay: exit with 78, or create a new one and send the rows "
        "in the table.",
    )
    brokers: str = field(
        metadata=option(
            TEXT,
            KAFKA,
            "Kafka brokers for the first connection: host:port, separated by commas.",
            example="localhost:9092",
            aliases=("-b", "--bootstrap-server", "--bootstrap-servers"),
        ),
    )
    kafka_property: tuple[tuple[str, str], ...] = field(
        default=(),
        repr=False,  # may hold a password
        metadata=option(
            PROPERTY,
            KAFKA,
            "Any librdkafka property; `-X list` prints the effective ones. Each has a variable too: "
            "CDC_OUTBOX_KAFKA_SASL_USERNAME is sasl.username, CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE names a file that holds "
            "sasl.password. In the TOML file: the table [kafka].",
            aliases=("-X",),
            short_only=True,
            repeat=True,
            in_environment=False,
            in_file=False,
        ),
    )
    kafka_config: str | None = setting(
        None,
        PATH,
        KAFKA,
        "Properties file in the format of the Java clients. -X and CDC_OUTBOX_KAFKA_* take precedence over it, and it "
        "over [kafka].",
        example="client.properties",
        aliases=("-F",),
    )
    source: str = setting(
        "table",
        choice("table", "message", "both"),
        RECORDS,
        "Where events are written: rows of the table, or logical messages (pg_logical_emit_message), or both.",
    )
    message_prefix: str = setting("outbox", TEXT, RECORDS, "Prefix of the logical messages that are events.")
    tables: tuple[TableName, ...] = setting(
        (DEFAULT_TABLE,),
        TABLE,
        RECORDS,
        "Outbox table; may be repeated (in the variable: commas). Lower case as in SQL, unless quoted: "
        '"My Schema"."Outbox".',
        name="table",
        repeat=True,
    )
    """Empty with `source` message."""
    column_preset: str = setting(
        "debezium",
        choice("debezium", "snake"),
        RECORDS,
        "Preset of column names: Debezium's, or aggregate_type, aggregate_id, event_type. The options for single columns "
        "take precedence.",
        name="columns",
    )
    topic: str = setting("outbox.event.{aggregatetype}", TEXT, RECORDS, "Topic; any column may be named in braces.")
    columns: Columns = field(default_factory=Columns)
    headers: tuple[HeaderColumn, ...] = setting(
        (),
        HEADER,
        RECORDS,
        "Column to send as a header, under its own or the given name; may be repeated (in the variable: commas).",
        name="header",
        example="tenant:tenant-id",
        repeat=True,
    )
    format: str = setting(
        "debezium",
        choice("debezium", "cloudevents", "cloudevents-structured"),
        RECORDS,
        "Format of the record: payload and headers as Debezium's outbox event router produces them, or a CloudEvent in "
        "binary or structured mode.",
    )
    ce_source: str | None = setting(
        None,
        TEXT,
        RECORDS,
        "Source of CloudEvents, a URI reference; any column may be named in braces.",
        example="/shop/{aggregatetype}",
    )
    content_type: str = setting(
        "application/json",
        TEXT,
        RECORDS,
        "Media type of the payload of CloudEvents; any column may be named in braces.",
    )
    on_poison: str = setting(
        "stop",
        choice("stop", "skip", "dead-letter"),
        RECORDS,
        "An event can never be delivered: exit with 65, skip it (counted and logged), or send it to another topic.",
    )
    dead_letter_topic: str | None = setting(
        None, TEXT, RECORDS, "Topic for --on-poison dead-letter.", example="outbox.dead-letters"
    )
    max_in_flight_events: int = setting(
        10_000, COUNT, PROCESS, "Limit of events without a delivery report; reading pauses at this limit."
    )
    max_in_flight_bytes: int = setting(
        16 * 1024 * 1024,
        SIZE,
        PROCESS,
        "Limit of bytes without a delivery report; reading pauses at this limit.",
    )
    native: str = setting(
        "auto",
        choice("auto", "on", "off"),
        PROCESS,
        "Native plane for plain rows (the package cdc-outbox-native): use it if it is installed and fits, require it, or "
        "do not use it.",
    )
    max_delay: float = setting(
        0.002,
        SECONDS_OR_ZERO,
        PROCESS,
        "Time that an event may wait for others, to be sent in one request; an event that comes alone never waits. 0: none.",
        example="5ms",
    )
    until: str = setting(
        "never",
        choice("never", "caught-up"),
        PROCESS,
        "caught-up: exit with 0 when everything committed before the start is delivered.",
    )
    prune_after: float | None = setting(
        None,
        SECONDS,
        PROCESS,
        "Delete delivered rows of the table that are older than this. Needs SELECT and DELETE on the table.",
        example="7d",
    )
    partitions_ahead: int | None = setting(
        None,
        DAYS,
        PROCESS,
        "While pruning a table that is partitioned by day: create the partitions of this many coming days. Needs "
        "ownership of the table.",
        example="7",
    )
    shutdown_timeout: float = setting(
        25.0,
        SECONDS,
        PROCESS,
        "Time to deliver in-flight events after TERM or INT; less than the 30 s that Kubernetes grants.",
    )
    startup_timeout: float = setting(
        0.0,
        SECONDS_OR_ZERO,
        PROCESS,
        "Time to wait at start for a server to answer, then exit with 69. 0: no limit.",
    )
    wait_for_table: float = setting(
        0.0,
        SECONDS_OR_ZERO,
        PROCESS,
        "Time that a first start waits for the table and the publication, while migrations run beside it; then exit with 78.",
        example="300s",
    )
    http: str = setting(
        "127.0.0.1:8420",
        ADDRESS,
        PROCESS,
        "Address of the status page, /livez, /readyz, /metrics and /status; or off.",
    )
    log_format: str = setting(
        "auto",
        choice("auto", "console", "json"),
        PROCESS,
        "auto: console on a terminal, otherwise one JSON object per line.",
    )
    log_level: str = setting(
        "info", choice("debug", "info", "warning", "error"), PROCESS, "Lowest severity that is logged."
    )
    otel: bool = setting(
        False,
        SWITCH,
        PROCESS,
        "OpenTelemetry of the relay (the extra otel): metrics by OTLP, and a span for each event of a sampled trace. The "
        "endpoint is OTEL_EXPORTER_OTLP_ENDPOINT.",
    )
    core_dump: bool = setting(
        False,
        SWITCH,
        PROCESS,
        "Allow a crash to leave a core dump, and a debugger to attach. Both read the passwords in memory.",
    )
    config: str | None = setting(None, PATH, PROCESS, "TOML file; its keys are the option names.", in_file=False)
    kafka: Callable[[], Mapping[str, str]] = dict
    """The chosen librdkafka properties without the brokers, read again at each call: secrets rotate."""

    @property
    def until_caught_up(self) -> bool:
        """Whether the relay exits when everything committed before its start is delivered."""
        return self.until == "caught-up"

    @property
    def shard_filter(self) -> ShardFilter | None:
        """The rows that belong to this shard; None: all."""
        return None if self.shard is None else ShardFilter(self.shard, self.columns.key)

    @property
    def reads_messages(self) -> bool:
        """Whether logical messages are events."""
        return self.source != "table"


OPTIONS: Final = options_of(Settings)
"""Every option by name, in the order of `Settings`."""

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "debezium": {},
    "snake": {
        "topic": "outbox.event.{aggregate_type}",
        "key-column": "aggregate_id",
        "type-column": "event_type",
    },
}
"""By value of `--columns`: the defaults of other options that it changes."""
