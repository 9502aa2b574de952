"""The policy for an event that can never be delivered, and its dead letter. Pure, except for log lines.

In: a PoisonEvent and its event. Out: None (skipped), a dead letter to send instead, or the error itself (stop).
Never: an event skipped silently: it is counted, and logged with its id, key, table and LSN. The payload is never logged.

A dead letter is acknowledged like any record, once Kafka has confirmed it. It always has the event's key and id, its headers if
they can be read, its payload if it fits, and `outbox.*` headers with the reason and the origin.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import structlog

from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, join_cures
from cdc_outbox.kafka.weight import extra_bytes
from cdc_outbox.lsn import Lsn, format_lsn
from cdc_outbox.records.events import OutboxEvent
from cdc_outbox.records.router import UNASSIGNED, Headers, InFlight, KafkaRecord
from cdc_outbox.records.templates import TopicTemplate

log = structlog.get_logger(__name__)

ENVELOPE_BYTES: Final = 16 * 1024
"""Bytes reserved for a dead letter's own headers beside the payload."""

REASON_HEADER: Final = "outbox.error.reason"
"""Header that every dead letter has: the reason."""

REPORTED_EVENTS: Final = 10_000
"""Most poison events remembered, so that each is counted and logged once: about a megabyte."""

ID_BYTES: Final = 64
"""Bytes remembered of each id: the column may be text of any length, and a UUID has 36."""

WAYS_OUT: Final = (
    "correct what the application writes; raise the topic's limit or make the topic; or leave this event out on purpose: "
    "--on-poison skip, or --on-poison dead-letter --dead-letter-topic TOPIC"
)


WAITS: Final = "With --on-poison skip, or --on-poison dead-letter --dead-letter-topic TOPIC, the relay waits for it"


class RejectedRecord(NamedTuple):
    """An event, and the record it became, if it became one."""

    table: str
    """The name of its table; for a logical message, `message:prefix`."""
    event: OutboxEvent
    record: KafkaRecord | None
    transaction: InFlight


class PoisonPolicy:
    """`--on-poison`. `limit`: the largest record, in bytes, that the producer takes.

    Raises ConfigurationError when the topic for dead letters names a column.
    """

    def __init__(self, policy: str, dead_letter_topic: str | None, limit: int, counters: Counters) -> None:
        self._policy = policy
        self._topic = dead_letter_topic if policy == "dead-letter" else None
        if self._topic is not None and TopicTemplate(self._topic).columns:
            raise ConfigurationError(
                f"--dead-letter-topic {self._topic!r} names a column: an event may be poison for just that column",
                code="dead-letter-topic",
                cure="give the name of one topic",
            )
        self._limit = limit
        self._counters = counters
        self._reported: set[tuple[Lsn, bytes]] = set()
        """Events that are already counted and logged: they are read again after a reconnect, or when records are isolated."""

    @property
    def stops(self) -> bool:
        """Whether a poison event ends the relay."""
        return self._policy == "stop"

    def is_dead_letter(self, record: KafkaRecord) -> bool:
        """Whether the record is a dead letter: an event whose own topic is the topic for dead letters is not."""
        return record.topic == self._topic and any(name == REASON_HEADER for name, _ in record.headers)

    def apply(self, error: CdcOutboxError, rejected: RejectedRecord) -> KafkaRecord | None:
        """Return the dead letter to send in its place, or None to skip the event. Raises the error if the policy is stop."""
        described = self.described(error, rejected)
        reason = str(error.where.get("reason") or "undeliverable")
        if self.stops or (rejected.record is not None and self.is_dead_letter(rejected.record)):
            raise described
        self._report(described, reason, rejected)
        if self._topic is None:
            return None
        return dead_letter(self._topic, error, reason, rejected, self._limit - ENVELOPE_BYTES)

    def described(self, error: CdcOutboxError, rejected: RejectedRecord) -> CdcOutboxError:
        """The same error, with the known fields of the event."""
        event, record = rejected.event, rejected.record
        where = {
            **error.where,
            "table": rejected.table,
            "id": _shown(event.id),
            "type": _shown(event.type),
            "key": _shown(event.key),
            "topic": record.topic if record is not None else None,
            "lsn": format_lsn(rejected.transaction.lsn) if rejected.transaction.lsn else None,
        }
        if isinstance(error, (ConfigurationError, AccessRefused)):
            return type(error)(error.message, code=error.code, cure=join_cures(error.cure, WAITS), **where)
        return PoisonEvent(error.message, code=error.code, cure=WAYS_OUT, **where)

    def _report(self, described: CdcOutboxError, reason: str, rejected: RejectedRecord) -> None:
        """Count and log the event once, among the last REPORTED_EVENTS; an event without an id each time."""
        event_id = rejected.event.id
        if event_id is not None:
            key = (rejected.transaction.lsn, event_id[:ID_BYTES])
            if key in self._reported:
                return
            if len(self._reported) >= REPORTED_EVENTS:
                self._reported.clear()
            self._reported.add(key)
        counts = self._counters.skipped if self._topic is None else self._counters.dead_lettered
        counts[reason] = counts.get(reason, 0) + 1
        log.warning("poison", policy=self._policy, error=described.message, code=described.code, **described.where)


def dead_letter(
    topic: str, error: CdcOutboxError, reason: str, rejected: RejectedRecord, largest_payload: int
) -> KafkaRecord:
    """Make the record that is sent in place of the rejected one."""
    event, record = rejected.event, rejected.record
    usable = record is not None and _can_be_sent(record)
    headers: Headers = (
        list(record.headers) if record is not None and usable else [("id", event.id), ("type", event.type)]
    )
    payload = event.payload
    headers += [
        (REASON_HEADER, reason.encode()),
        ("outbox.error.message", error.message[:2000].encode(errors="replace")),
        ("outbox.source.table", rejected.table.encode()),
        ("outbox.source.lsn", format_lsn(rejected.transaction.lsn).encode()),
    ]
    if record is not None:
        headers.append(("outbox.original.topic", record.topic.encode(errors="replace")))
    if not usable and event.headers is not None:
        headers.append(("outbox.headers", event.headers[:4000]))
    if payload is not None and len(payload) > largest_payload:
        headers.append(("outbox.payload.bytes", str(len(payload)).encode()))
        payload = None
    return KafkaRecord(topic, event.key, payload, headers, rejected.transaction.commit_time, UNASSIGNED)


def shrink_dead_letter(dead_letter: KafkaRecord) -> KafkaRecord | None:
    """Make a smaller dead letter, for a topic whose limit is below the producer's: first without the payload, then without the
    event's own headers except its id. None when nothing is left to remove.
    """
    if dead_letter.value is not None:
        size = str(len(dead_letter.value)).encode()
        return dead_letter._replace(value=None, headers=[*dead_letter.headers, ("outbox.payload.bytes", size)])
    ours = [dead_letter.headers[0], *(header for header in dead_letter.headers[1:] if header[0].startswith("outbox."))]
    return dead_letter._replace(headers=ours) if len(ours) < len(dead_letter.headers) else None


def _can_be_sent(record: KafkaRecord) -> bool:
    """Whether the record's headers can be handed to librdkafka: they may be why it is rejected."""
    try:
        extra_bytes(record._replace(topic=""))
    except PoisonEvent:
        return False
    return True


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value[:200].decode(errors="replace")
