"""A publisher that reports each delivered record of a sampled trace. With --otel it replaces `Publisher`.

In: records with the header `traceparent`. Out: a `Delivery` for each of them that Kafka has confirmed, on the loop's thread.
Never: a cost for a record without a sampled trace beyond a look at its headers; an exception out of a delivery report.

W3C Trace Context, section 3.2: version, trace-id, parent-id, trace-flags, whose lowest bit is `sampled`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from confluent_kafka import KafkaError, Message, Producer

from cdc_outbox.counters import Counters
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.reports import Report
from cdc_outbox.lsn import Lsn
from cdc_outbox.records.router import Headers, InFlight

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

    def _open(self) -> Producer:
        producer = super()._open()
        self._produce = functools.partial(self._produce_traced, producer.produce)
        return producer

    def _produce_traced(
        self,
        produce: Callable[..., None],
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        callback: Report,
        on_delivery: Report,
        timestamp: int,
        headers: Headers,
    ) -> None:
        """Call `produce`; for a record of a sampled trace, with a delivery report that also calls `on_delivered`."""
        traceparent, transaction = sampled_traceparent(headers), self._transaction
        if traceparent is not None and transaction is not None:
            callback = on_delivery = self._traced(traceparent, topic, len(value or b""), transaction, on_delivery)
        produce(topic, value, key, partition, callback, on_delivery, timestamp, headers)

    def _traced(self, traceparent: str, topic: str, size: int, transaction: InFlight, report: Report) -> Report:
        def traced(error: KafkaError | None, message: Message) -> None:
            report(error, message)
            offset = message.offset()
            if error is None and offset is not None:
                self._on_delivered(
                    Delivery(
                        traceparent,
                        topic,
                        message.partition() or 0,
                        offset,
                        size,
                        transaction.lsn,
                        transaction.commit_time,
                    )
                )

        return traced


def sampled_traceparent(headers: Headers) -> str | None:
    """The `traceparent` of a record with these headers if its trace is sampled; None otherwise, also for one that cannot be
    read.
    """
    for name, value in headers:
        if name in TRACE_HEADERS and value is not None:
            text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
            with contextlib.suppress(ValueError):
                if len(text) >= 55 and int(text[53:55], 16) & SAMPLED:
                    return text
            return None
    return None
