"""What the relay was told: frozen settings, checked once, with secrets that do not print.

In: values that somebody chose (flag > environment > TOML file > default; the command line does the choosing).
Out: `Settings`. Never: a connection, a file other than the ones named, a secret in a repr.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cdc_outbox.names import TableName

DEFAULT_TABLE: Final = TableName("public", "outbox")


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
    publication: str = "cdc_outbox"
    create_slot: bool = True
    snapshot: bool = True
    tables: tuple[TableName, ...] = (DEFAULT_TABLE,)
    topic: str = "outbox.event.{aggregatetype}"
    columns: Columns = field(default_factory=Columns)
    headers: tuple[HeaderColumn, ...] = ()
    on_poison: str = "stop"
    on_slot_busy: str = "wait"
    max_in_flight_events: int = 20_000
    max_in_flight_bytes: int = 16 * 1024 * 1024
    until_caught_up: bool = False
    shutdown_timeout: float = 25.0
    startup_timeout: float = 0.0
    http: str = "127.0.0.1:8420"
    log_format: str = "auto"
    log_level: str = "info"
