"""Convert an outbox event to a CloudEvent in a Kafka record: `--format cloudevents` and `cloudevents-structured`. Pure.

In: `OutboxEvent`s of one plan. Out: `KafkaRecord`s with the topic, key, timestamp and partition that `Route` gives them.
Never: an attribute that the event does not have, or a payload that is changed. What cannot be a CloudEvent raises PoisonEvent.

CloudEvents 1.0.2; Kafka Protocol Binding 1.0.2 (3.2 binary, 3.3 structured content mode); JSON Event Format 1.0.2; extensions
partitioning, sequence and distributed tracing.

    id                       the id column
    source                   --ce-source
    type                     the type column
    subject, partitionkey    the key, where there is one
    time                     the record's timestamp
    sequence                 commit LSN and number of the event in its transaction, where the LSN is known
    datacontenttype          --content-type, where there is a payload
    traceparent, tracestate  as the event has them
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import orjson

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.lsn import UNSET
from cdc_outbox.records.events import TRACE_COLUMNS, OutboxEvent, Plan
from cdc_outbox.records.json_members import check_json
from cdc_outbox.records.router import UNASSIGNED, HeaderNames, Headers, InFlight, KafkaRecord, Route
from cdc_outbox.records.templates import ContentType, ContentTypeTemplate, SourceTemplate, TopicTemplate

SPECVERSION: Final = "1.0"
STRUCTURED: Final = b"application/cloudevents+json; charset=UTF-8"
CONTENT_TYPE: Final = "content-type"
PREFIX: Final = "ce_"
"""Prefix of headers that are attributes, only in binary mode: receivers recognize the mode by it, or by the content type."""

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Control characters, which no attribute may contain (CloudEvents 1.0.2, type system)."""


class Place(NamedTuple):
    """The destination of a record. `timestamp`: milliseconds since 1970-01-01 UTC."""

    topic: str
    timestamp: int
    partition: int


class BinaryCloudEvents(Route):
    """Binary content mode: attributes are headers with the prefix ce_, the value is the payload."""

    def __init__(
        self,
        plan: Plan,
        template: TopicTemplate,
        names: HeaderNames,
        source: SourceTemplate,
        content_type: ContentTypeTemplate,
        limit: int,
    ) -> None:
        """The plan's routing columns are those of the topic, then those of the source, then those of the content type."""
        super().__init__(plan, template, names, limit)
        self._source = source
        self._content_type = content_type
        self._source_at = len(template.columns)
        self._content_type_at = self._source_at + len(source.columns)
        self._time: tuple[int, bytes] = (-1, b"")

    def make(self, transaction: InFlight, *parts: Any) -> KafkaRecord:
        """Make the record of an event of `transaction` from the parts of `OutboxEvent`. Raises PoisonEvent."""
        return self.record(OutboxEvent(*parts), transaction)

    def record(self, event: OutboxEvent, transaction: InFlight) -> KafkaRecord:
        """Make the record of one event of `transaction`. Raises PoisonEvent."""
        sequence = _take_sequence(transaction)  # first, so that a poison event has a number too
        place = self._place(event, transaction.commit_time)
        attributes = self._attributes(event, place.timestamp, sequence)
        headers: Headers = [(f"{PREFIX}{name}", value) for name, value in attributes]
        if event.payload is not None:
            headers.append((CONTENT_TYPE, self._content_type_of(event).text))
        self._add_headers(headers, event)
        headers += [(f"{PREFIX}{name}", value) for name, value in _trace(headers)]
        return KafkaRecord(place.topic, event.key, event.payload, headers, place.timestamp, place.partition)

    def _place(self, event: OutboxEvent, commit_time: int) -> Place:
        topic = self._topics.get(event.routing[: self._source_at]) or self._new_topic(event)
        time = commit_time if event.timestamp is None else self._timestamp(event, event.timestamp)
        return Place(topic, time, UNASSIGNED if event.partition is None else self._partition(event, event.partition))

    def _attributes(self, event: OutboxEvent, time: int, sequence: bytes | None) -> list[tuple[str, bytes]]:
        """The attributes, required ones first, beginning with `id`. Raises PoisonEvent for a missing or invalid one."""
        if not event.id:
            raise self._poison(event, "no-id", "the event has no id: the column is NULL")
        if not event.type:
            raise self._poison(event, "no-type", "the event has no type, and a CloudEvent must have one")
        attributes = [
            ("id", event.id),
            ("type", event.type),
            ("specversion", SPECVERSION.encode()),
            ("source", self._source_of(event)),
            ("time", self._time_of(time)),
        ]
        if event.key:
            attributes += [("subject", event.key), ("partitionkey", event.key)]
        if sequence is not None:
            attributes.append(("sequence", sequence))
        for name, value in attributes:
            if not _is_text(value):
                raise self._poison(
                    event, "bad-attribute", f"the attribute {name} of a CloudEvent is text without control characters"
                )
        return attributes

    def _source_of(self, event: OutboxEvent) -> bytes:
        try:
            return self._source.fill(event.routing[self._source_at : self._content_type_at])
        except ValueError as error:
            raise self._poison(event, "bad-source", str(error)) from error

    def _content_type_of(self, event: OutboxEvent) -> ContentType:
        try:
            return self._content_type.fill(event.routing[self._content_type_at :])
        except ValueError as error:  # a UnicodeDecodeError is one
            raise self._poison(event, "bad-content-type", str(error)) from error

    def _time_of(self, milliseconds: int) -> bytes:
        """RFC 3339, UTC; cached, since events of one transaction have the same time."""
        if milliseconds != self._time[0]:
            moment = datetime.fromtimestamp(milliseconds // 1000, UTC).replace(microsecond=milliseconds % 1000 * 1000)
            text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            self._time = (milliseconds, text.encode())
        return self._time[1]


class StructuredCloudEvents(BinaryCloudEvents):
    """Structured content mode: the value is a JSON envelope with attributes and payload. Id and type are headers too."""

    def record(self, event: OutboxEvent, transaction: InFlight) -> KafkaRecord:
        """Make the record of one event of `transaction`. Raises PoisonEvent."""
        sequence = _take_sequence(transaction)
        place = self._place(event, transaction.commit_time)
        attributes = self._attributes(event, place.timestamp, sequence)
        headers: Headers = [(self._id_name, attributes[0][1]), (self._type_name, attributes[1][1])]
        headers.append((CONTENT_TYPE, STRUCTURED))
        self._add_headers(headers, event)
        headers = [header for header in headers if not header[0].lower().startswith(PREFIX)]
        envelope: dict[str, object] = {name: value.decode() for name, value in [*attributes, *_trace(headers)]}
        if event.payload is not None:
            content_type = self._content_type_of(event)
            envelope["datacontenttype"] = content_type.text.decode()
            envelope |= self._data(event, event.payload, embeds=content_type.is_json)
        return KafkaRecord(place.topic, event.key, orjson.dumps(envelope), headers, place.timestamp, place.partition)

    def _data(self, event: OutboxEvent, payload: bytes, *, embeds: bool) -> dict[str, object]:
        """Embed JSON byte for byte, other text as a string, and other bytes as base64 (JSON event format 3.1)."""
        self._require_size(event, "payload", payload)
        if embeds:
            try:
                check_json(payload)
            except ValueError as error:
                raise self._poison(
                    event, "bad-payload", f"the payload is not JSON, but its --content-type is: {error}"
                ) from error
            return {"data": orjson.Fragment(payload)}
        try:
            return {"data": payload.decode()}
        except UnicodeDecodeError:
            return {"data_base64": b64encode(payload).decode()}


def _take_sequence(transaction: InFlight) -> bytes | None:
    """Number the next event, as text of fixed width that sorts in commit order. None if the LSN is not known."""
    if transaction.lsn == UNSET:
        return None
    transaction.sequence += 1
    return b"%016x-%08x" % (transaction.lsn, transaction.sequence)


def _is_text(value: bytes) -> bool:
    """Whether an attribute may have this value."""
    try:
        return _FORBIDDEN.search(value.decode()) is None
    except UnicodeDecodeError:
        return False


def _trace(headers: Headers) -> list[tuple[str, bytes]]:
    """The trace context among the headers, if it can be an attribute: text that is not empty."""
    found = {name: value for name, value in headers if name in TRACE_COLUMNS and isinstance(value, bytes)}
    return [(name, value) for name, value in found.items() if value and _is_text(value)]


def choose(
    settings: Settings,
    template: TopicTemplate,
    names: HeaderNames,
    source: SourceTemplate,
    content_type: ContentTypeTemplate,
    limit: int,
) -> Callable[[Plan], Route]:
    """Choose the route for a plan's events. `names`: of the headers id and type, in structured mode.

    Raises ConfigurationError for a --header that would hide an attribute, or be mistaken for one.
    """
    for header in settings.headers:
        if header.name.lower() == CONTENT_TYPE or header.name.lower().startswith(PREFIX):
            raise ConfigurationError(
                f"a header called {header.name} would be taken for an attribute of the CloudEvent",
                code="header-names",
                cure="give it another name: --header COLUMN:NAME",
            )
    if settings.format == "cloudevents-structured":
        return lambda plan: StructuredCloudEvents(plan, template, names, source, content_type, limit)
    if names != HeaderNames():
        raise ConfigurationError(
            f"--header gives the event's id or type a name, and --format {settings.format} has names of its own",
            code="header-names",
            cure=f"leave it out: they are the headers {PREFIX}id and {PREFIX}type",
        )
    return lambda plan: BinaryCloudEvents(plan, template, names, source, content_type, limit)
