"""An event as a consumer receives it, and the counters of a consumer.

In: a record of Kafka. Out: `ReceivedEvent`; `ConsumerStats`, plain numbers, as text for Prometheus.
Never: an import of Kafka's client, a payload that is parsed before `json` is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Protocol


class Record(Protocol):
    """The part of `confluent_kafka.Message` that is used here."""

    def topic(self) -> str | None:
        """The topic's name."""

    def partition(self) -> int | None:
        """The number of the partition."""

    def offset(self) -> int | None:
        """The place in the partition."""

    def key(self) -> Any:
        """Bytes, or None."""

    def value(self) -> Any:
        """Bytes, or None."""

    def headers(self) -> Any:
        """Pairs of name and bytes, or None."""

    def timestamp(self) -> tuple[int, int]:
        """Its type, and milliseconds since 1970 in UTC."""


@dataclass(frozen=True, slots=True)
class ReceivedEvent:
    """One event of an outbox."""

    id: str
    """The header `id`, or the place of a record without one, `topic/partition/offset`, which is as stable."""
    type: str | None
    key: str | None
    payload: bytes | None
    headers: Mapping[str, bytes | None]
    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970 in UTC; the commit time, unless the relay was configured otherwise."""

    def json(self) -> Any:
        """The payload, read as JSON. Raises ValueError if it is not JSON, TypeError for a tombstone."""
        if self.payload is None:
            raise TypeError("a tombstone has no payload")
        return json.loads(self.payload)


def received(record: Record) -> ReceivedEvent:
    """Read a record; text that is not UTF-8 is replaced, in id, type and key alone."""
    headers: dict[str, bytes | None] = {}
    pairs: Sequence[tuple[str, bytes | None]] = record.headers() or ()
    for name, value in pairs:
        headers.setdefault(name, value)
    topic, partition, offset = record.topic() or "", record.partition() or 0, record.offset() or 0
    return ReceivedEvent(
        id=_text(headers.get("id")) or f"{topic}/{partition}/{offset}",
        type=_text(headers.get("type")),
        key=_text(record.key()),
        payload=record.value(),
        headers=headers,
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp=record.timestamp()[1],
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="replace")


@dataclass(slots=True)
class ConsumerStats:
    """What one consumer has done since its start."""

    received: int = field(default=0, metadata={"help": "Events received from Kafka, repeated ones included."})
    handled: int = field(default=0, metadata={"help": "Events whose claim and effect are committed."})
    duplicates: int = field(default=0, metadata={"help": "Events that were claimed before and had no effect again."})
    failures: int = field(default=0, metadata={"help": "Calls of the handler that raised an exception."})
    dead_lettered: int = field(default=0, metadata={"help": "Events given up and sent to the dead-letter topic."})
    transactions: int = field(default=0, metadata={"help": "Transactions committed."})
    reconnects: int = field(default=0, metadata={"help": "Connections to the database that replaced a broken one."})

    def openmetrics(self, consumer: str) -> str:
        """The counters in the text format of Prometheus, labelled with the consumer's name."""
        label = consumer.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines: list[str] = []
        for each in fields(self):
            name = f"cdc_outbox_consumer_{each.name}_total"
            lines += [f"# HELP {name} {each.metadata['help']}", f"# TYPE {name} counter"]
            lines.append(f'{name}{{consumer="{label}"}} {getattr(self, each.name)}')
        return "\n".join(lines) + "\n"
