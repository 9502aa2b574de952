"""A publisher that reports each delivered record of a sampled trace. With --otel it replaces `Publisher`.

In: records with the header `traceparent`. Out: a `Delivery` for each of them that Kafka has confirmed, on the loop's thread.
Never: a cost for a record without a sampled trace beyond a look at its headers; an exception out of a delivery report.

W3C Trace Context, section 3.2: version, trace-id, parent-id, trace-flags, whose lowest bit is `sampled`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, Message

from cdc_outbox.counters import Counters
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import Lsn
from cdc_outbox.records.router import InFlight, KafkaRecord

TRACE_HEADERS: Final = ("traceparent", "ce_traceparent")
"""The header of --format debezium, and that of --format cloudevents."""

SAMPLED: Final = 1


class Delivery(NamedTuple):
    """A record of a sampled trace that Kafka has confirmed."""

    traceparent: str
    topic: str
    partition: int
    offset: int
    size: int
    """Bytes of the value."""
    lsn: Lsn
    """Commit LSN."""
    commit_time: int
    """Unix milliseconds."""


class TracedPublisher(Publisher):
    """Calls `on_delivered` with each delivered record of a sampled trace."""

    def __init__(
        self,
        properties: dict[str, str],
        counters: Counters,
        *,
        on_delivered: Callable[[Delivery], None],
        reread: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        super().__init__(properties, counters, reread=reread)
        self._on_delivered = on_delivered

    def produce(self, record: KafkaRecord, transaction: InFlight) -> bool:
        """Hand one record over, as `Publisher.produce` does. A record of a sampled trace gets a report of its own."""
        traceparent = sampled_traceparent(record)
        if traceparent is None:
            return super().produce(record, transaction)
        counted = self._new_report(transaction, record.topic)

        def report(error: KafkaError | None, message: Message) -> None:
            counted(error, message)
            offset = message.offset()
            if error is None and offset is not None:
                self._on_delivered(
                    Delivery(
                        traceparent,
                        record.topic,
                        message.partition() or 0,
                        offset,
                        len(record.value or b""),
                        transaction.lsn,
                        transaction.commit_time,
                    )
                )

        self._report = report
        try:
            return super().produce(record, transaction)
        finally:
            self._report = None


def sampled_traceparent(record: KafkaRecord) -> str | None:
    """The record's `traceparent` if its trace is sampled; None otherwise, also for one that cannot be read."""
    for name, value in record.headers:
        if name in TRACE_HEADERS and value is not None:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            with contextlib.suppress(ValueError):
                if len(text) >= 55 and int(text[53:55], 16) & SAMPLED:
                    return text
            return None
    return None
