"""What the relay can be told: one table of options.

In: values that somebody chose (flag > environment > TOML file > default; the command line does the choosing).
Out: `OPTIONS`, from which flags, variables, TOML keys, `config show` and `config example` are all made. What was chosen
becomes `config.Settings`.
Never: a connection, a file, a secret shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from cdc_outbox.config import value_types
from cdc_outbox.config.redaction import masked_dsn, remember_dsn
from cdc_outbox.config.settings import DEFAULT_TABLE, HeaderColumn, Secret
from cdc_outbox.config.shards import parse_shard
from cdc_outbox.config.value_types import Kind, expect


def parse_header(text: str) -> HeaderColumn:
    """`column`, or `column:name`. Raises ValueError."""
    match = re.fullmatch(r'\s*("(?:[^"]|"")+"|[^":,\s][^":,]*)(?::(.+))?', text)
    if match is None:
        raise ValueError(f"{text!r} is not column or column:header-name")
    column = value_types.parse_column(match[1])
    return HeaderColumn(column, (match[2] or column).strip())


def show_header(value: object) -> str:
    """As `parse_header` reads it."""
    header = expect(HeaderColumn, value)
    column = value_types.show_column(header.column)
    return column if header.name == header.column else f"{column}:{header.name}"


def parse_property(text: str) -> tuple[str, str]:
    """`property=value`, or `list` (with an empty value). Raises ValueError, which never holds the text: it may be a secret."""
    name, equals, value = text.partition("=")
    if text != "list" and (not equals or not re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", name.strip())):
        raise ValueError("expected property=value, such as sasl.username=relay, or list")
    return name.strip(), value


def dsn_secret(read: Callable[[], str]) -> Secret:
    """A connection string that comes from `read`; whatever it reveals is removed from tracebacks from then on."""

    def reveal() -> str:
        dsn = read()
        remember_dsn(dsn)
        return dsn

    return Secret(reveal)


DSN: Final = Kind(
    "DSN",
    "a connection string",
    lambda text: dsn_secret(lambda: text),
    lambda value: masked_dsn(expect(Secret, value).reveal()),
)
HEADER: Final = Kind("COLUMN[:NAME]", "column or column:header-name", parse_header, show_header)
SHARD: Final = Kind("I/N", "a shard, such as 0/2", parse_shard)
PROPERTY: Final = Kind("KEY=VALUE", "property=value", parse_property)


@dataclass(frozen=True, slots=True)
class Option:
    """One thing that can be set. `default` is written as a person would write it; None: there is none."""

    name: str
    kind: Kind
    section: str
    help: str
    default: str | None = None
    example: str = ""
    """For the commented TOML, where there is no default."""
    aliases: tuple[str, ...] = ()
    """More flags of the same meaning."""
    short_only: bool = False
    """Only the aliases are flags."""
    repeat: bool = False
    in_environment: bool = True
    in_file: bool = True

    @property
    def key(self) -> str:
        """The name as an identifier, in `settings_from`."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """Its environment variable."""
        return f"CDC_OUTBOX_{self.key.upper()}"

    @property
    def secret(self) -> bool:
        """Whether it is shown masked, and may stand in the file that `<variable>_FILE` names."""
        return self.kind is DSN


_POSTGRES: Final = "PostgreSQL"
_TABLE: Final = "The outbox table and the records made of it"
_KAFKA: Final = "Kafka"
_RELAY: Final = "The relay as a process"

_ALL: Final = (
    Option(
        "dsn",
        DSN,
        _POSTGRES,
        "Connection string or URL, several hosts allowed. CDC_OUTBOX_DSN_FILE names a file that holds it. Without it "
        "libpq's own environment applies (PGHOST, PGPASSFILE, PGSERVICE, ...).",
        example="postgresql://relay@localhost:5432/shop",
    ),
    Option("slot", value_types.SLOT, _POSTGRES, "Replication slot: the relay's only state.", "cdc_outbox"),
    Option("publication", value_types.NAME, _POSTGRES, "Publication that the outbox table belongs to.", "cdc_outbox"),
    Option(
        "shard",
        SHARD,
        _POSTGRES,
        "One of several relays on one outbox (sql install --shards N): 0/2 sends the rows of its half of the keys. Slot and "
        "publication are those with _0_of_2 behind their names.",
        example="0/2",
    ),
    Option(
        "create-slot",
        value_types.SWITCH,
        _POSTGRES,
        "A slot that is missing at start is made (a first start), or the relay ends with 78.",
        "true",
    ),
    Option(
        "snapshot",
        value_types.SWITCH,
        _POSTGRES,
        "A first start sends the rows already in the table, or leaves them.",
        "true",
    ),
    Option(
        "failover",
        value_types.SWITCH,
        _POSTGRES,
        "Standbys keep a copy of the slot, so that it outlives a failover (PostgreSQL 17 and later). Also makes an existing "
        "slot such a one; --no-failover takes nothing back.",
        "false",
    ),
    Option(
        "on-slot-busy",
        value_types.choice("wait", "exit"),
        _POSTGRES,
        "Another relay streams: stand by, or end (75).",
        "wait",
    ),
    Option(
        "on-slot-lost",
        value_types.choice("stop", "recover"),
        _POSTGRES,
        "The slot is invalidated, or dropped while running: end (78), or make a new one and send the rows in the table.",
        "stop",
    ),
    Option(
        "brokers",
        value_types.TEXT,
        _KAFKA,
        "Kafka brokers to ask first, host:port separated by commas.",
        example="localhost:9092",
        aliases=("-b", "--bootstrap-server", "--bootstrap-servers"),
    ),
    Option(
        "kafka-property",
        PROPERTY,
        _KAFKA,
        "Any librdkafka property; `-X list` prints the effective ones. Each has a variable too: "
        "CDC_OUTBOX_KAFKA_SASL_USERNAME is sasl.username, CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE a file that holds "
        "sasl.password. In the TOML file: the table [kafka].",
        aliases=("-X",),
        short_only=True,
        repeat=True,
        in_environment=False,
        in_file=False,
    ),
    Option(
        "kafka-config",
        value_types.PATH,
        _KAFKA,
        "Properties file, as the Java clients read it. -X and CDC_OUTBOX_KAFKA_* win over it, it wins over [kafka].",
        example="client.properties",
        aliases=("-F",),
    ),
    Option(
        "source",
        value_types.choice("table", "message", "both"),
        _TABLE,
        "Where events are written: into the table, or without one, as logical messages (pg_logical_emit_message).",
        "table",
    ),
    Option("message-prefix", value_types.TEXT, _TABLE, "Prefix of the logical messages that are events.", "outbox"),
    Option(
        "table",
        value_types.TABLE,
        _TABLE,
        'Outbox table; may be repeated (in the variable: commas). Lower case as in SQL, unless quoted: "My Schema"."Outbox".',
        str(DEFAULT_TABLE),
        repeat=True,
    ),
    Option(
        "columns",
        value_types.choice("debezium", "snake"),
        _TABLE,
        "Preset of names: Debezium's, or aggregate_type, aggregate_id, event_type. Single options win over it.",
        "debezium",
    ),
    Option("topic", value_types.TEXT, _TABLE, "Topic; any column may stand in braces.", "outbox.event.{aggregatetype}"),
    Option("id-column", value_types.COLUMNS, _TABLE, "Event id. Several names are tried in order.", "id"),
    Option("key-column", value_types.COLUMNS, _TABLE, "Record key. Several names are tried in order.", "aggregateid"),
    Option("type-column", value_types.COLUMNS, _TABLE, "Event type. Several names are tried in order.", "type"),
    Option("payload-column", value_types.COLUMNS, _TABLE, "Record value. Several names are tried in order.", "payload"),
    Option(
        "timestamp-column",
        value_types.COLUMN,
        _TABLE,
        "Record timestamp. Without it: the transaction's commit time.",
        example="created_at",
    ),
    Option(
        "partition-column",
        value_types.COLUMN,
        _TABLE,
        "Record partition. Without it: murmur2 of the key, as Java producers choose.",
        example="partition",
    ),
    Option(
        "span-context-column",
        value_types.COLUMN,
        _TABLE,
        "Column with a trace context as text of java.util.Properties, as applications of Debezium write it: its entries become "
        "headers.",
        example="tracingspancontext",
    ),
    Option(
        "header",
        HEADER,
        _TABLE,
        "Column that goes out as a header too, under its own or the given name; may be repeated (in the variable: commas).",
        example="tenant:tenant-id",
        repeat=True,
    ),
    Option(
        "format",
        value_types.choice("debezium", "cloudevents", "cloudevents-structured"),
        _TABLE,
        "Shape of the record: payload and headers as Debezium's outbox event router has them, or a CloudEvent, in binary "
        "or structured mode.",
        "debezium",
    ),
    Option(
        "ce-source",
        value_types.TEXT,
        _TABLE,
        "Source of CloudEvents, a URI reference; any column may stand in braces.",
        example="/shop/{aggregatetype}",
    ),
    Option(
        "content-type",
        value_types.TEXT,
        _TABLE,
        "Media type of the payload of CloudEvents; any column may stand in braces.",
        "application/json",
    ),
    Option(
        "on-poison",
        value_types.choice("stop", "skip", "dead-letter"),
        _TABLE,
        "An event that can never be delivered: stop with 65, leave it out (counted, logged), or send it to another topic.",
        "stop",
    ),
    Option(
        "dead-letter-topic",
        value_types.TEXT,
        _TABLE,
        "Topic for --on-poison dead-letter.",
        example="outbox.dead-letters",
    ),
    Option(
        "max-in-flight-events",
        value_types.COUNT,
        _RELAY,
        "Events that may wait for their delivery report; reading pauses at this number.",
        "10000",
    ),
    Option(
        "max-in-flight-bytes",
        value_types.SIZE,
        _RELAY,
        "Bytes that may wait for their delivery report; reading pauses at this number.",
        "16MiB",
    ),
    Option(
        "until",
        value_types.choice("never", "caught-up"),
        _RELAY,
        "caught-up: stop with 0 when all that was committed before the start is delivered.",
        "never",
    ),
    Option(
        "prune-after",
        value_types.SECONDS,
        _RELAY,
        "Delete rows of the table that are delivered and older than this, now and then. Takes SELECT and DELETE on it.",
        example="7d",
    ),
    Option(
        "partitions-ahead",
        value_types.DAYS,
        _RELAY,
        "When pruning a table that is partitioned by day: make the partitions of so many days to come. Takes its owner.",
        example="7",
    ),
    Option(
        "shutdown-timeout",
        value_types.SECONDS,
        _RELAY,
        "Time to deliver what is in flight after TERM or INT; below the 30 s that Kubernetes grants.",
        "25s",
    ),
    Option(
        "startup-timeout",
        value_types.SECONDS_OR_ZERO,
        _RELAY,
        "Time for a server to answer at start, then the end (69). 0: retry for ever.",
        "0s",
    ),
    Option(
        "http",
        value_types.ADDRESS,
        _RELAY,
        "Address of the status page, /livez, /readyz, /metrics and /status; or off.",
        "127.0.0.1:8420",
    ),
    Option(
        "log-format",
        value_types.choice("auto", "console", "json"),
        _RELAY,
        "auto: console on a terminal, else one JSON object a line.",
        "auto",
    ),
    Option(
        "log-level", value_types.choice("debug", "info", "warning", "error"), _RELAY, "Least severity logged.", "info"
    ),
    Option("config", value_types.PATH, _RELAY, "TOML file; its keys are the options' names.", in_file=False),
)

OPTIONS: Final[dict[str, Option]] = {option.name: option for option in _ALL}
"""Every option, by name, in the order in which they are shown. The one place where they are written down."""

PRESETS: Final[Mapping[str, Mapping[str, str]]] = {
    "debezium": {},
    "snake": {
        "topic": "outbox.event.{aggregate_type}",
        "key-column": "aggregate_id",
        "type-column": "event_type",
    },
}
"""What `--columns` changes in the defaults of other options."""


def preset_values(columns: str) -> dict[str, object]:
    """By option name, the defaults that this `--columns` puts in place of the table's."""
    return {name: OPTIONS[name].kind.parse(text) for name, text in PRESETS[columns].items()}
