"""Convert an outbox event to a Kafka record: topic, key, value, headers, timestamp, partition. Pure.

In: `OutboxEvent`s of one plan. Out: `KafkaRecord`s, ready to produce.
Never: a change of the payload, a topic that Kafka would not accept, or a silent default. An event without a record raises
PoisonEvent, with the event's id, type, key and topic as far as they are known.

The record is specified in DESIGN's table "Part of the record"; Debezium's outbox event router makes the same record.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple, Protocol

import orjson

from cdc_outbox.config.java_properties import parse_properties
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, PoisonEvent
from cdc_outbox.identifiers import is_c_string
from cdc_outbox.lsn import Lsn
from cdc_outbox.records.events import SPAN_CONTEXT, TRACE_COLUMNS, OutboxEvent, Plan
from cdc_outbox.records.json_members import SMALL_BYTES, SPACE, read_object
from cdc_outbox.records.templates import TopicTemplate

UNASSIGNED: Final = -1
"""No partition given: the producer's partitioner chooses one, by murmur2 of the key."""

MAX_PARTITION: Final = 2**31 - 1
"""Kafka's partition numbers are signed 32-bit integers."""

MAX_TIMESTAMP: Final = 253_402_300_799_999
"""Milliseconds: the end of the year 9999 in UTC, the last of Python's calendar and of RFC 3339."""

TOPIC_CACHE_ENTRIES: Final = 10_000
"""Most topics remembered by their columns. Beyond it, the cache is emptied: a template with a key must not fill the memory."""

TOO_LARGE: Final = "msg-size-too-large"
"""The reason of a poison event that is larger than the largest record."""

Headers = list[tuple[str, str | bytes | None]]

_NO_HEADERS: Final = re.compile(r"\s*(?:null|\[\s*\])\s*", re.ASCII)
"""JSON that counts as an object without members."""

SMALL_TEXT: Final = 384
"""Bytes of key, id and type: enough for nearly all events."""

LONGEST_SMALL_NAME: Final = 32
"""Most characters of a header's name that is not measured."""

_new_record: Final = tuple.__new__
"""Bypasses the Python-level constructor of a NamedTuple, once per row: half the time."""


class KafkaRecord(NamedTuple):
    """A record for the producer. `timestamp`: milliseconds since 1970-01-01 UTC."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    partition: int
    small: bool = False
    """Whether it needs no measurement: its headers are the id and the type, and they and the key have at most SMALL_TEXT bytes.
    False: not known.
    """


class InFlight(Protocol):
    """The unit to which events belong: a transaction of the stream, or a batch of rows read from a table."""

    lsn: Lsn
    """Commit LSN of the transaction; for a batch, the LSN of its snapshot. Unset for rows without a snapshot's LSN."""
    commit_time: int
    """Unix milliseconds; for a batch, the time of reading: a row of a table does not have the time of its commit."""
    sequence: int
    """The number of the last numbered event: see `cloudevents`."""
    isolated: bool
    """Whether each of its records is produced with nothing else in flight."""
    events: int
    """Records handed to Kafka."""
    outstanding: int
    """Records handed to Kafka whose delivery report is not served yet."""


class Route:
    """Converts one plan's events to records."""

    def __init__(self, plan: Plan, template: TopicTemplate, names: HeaderNames, limit: int) -> None:
        """`limit`: message.max.bytes. Longer text of a column is not parsed, since it would fit into no record."""
        self._plan = plan
        self._limit = limit
        self._template = template
        self._id_name, self._type_name = names
        self._small_text = SMALL_TEXT if max(map(len, names)) <= LONGEST_SMALL_NAME else -1
        self._topics: dict[tuple[bytes | None, ...], str] = {}
        """Topics by the columns of the topic's template."""

    def record(self, event: OutboxEvent, transaction: InFlight) -> KafkaRecord:
        """Make the record of one event of `transaction`. Raises PoisonEvent."""
        return self.make(transaction, *event)

    def make(
        self,
        transaction: InFlight,
        event_id: bytes | None,
        key: bytes | None,
        event_type: bytes | None,
        payload: bytes | None,
        members: bytes | None,
        timestamp: bytes | None,
        partition: bytes | None,
        routing: tuple[bytes | None, ...],
        extra: tuple[bytes | None, ...],
    ) -> KafkaRecord:
        """Make the record of an event of `transaction` from the parts of `OutboxEvent`. Raises PoisonEvent."""
        topic = self._topics.get(routing)
        if (
            topic is not None
            and key is not None
            and event_id is not None
            and event_type is not None
            and members is None
            and not extra
            and timestamp is None
            and partition is None
        ):
            two: Headers = [(self._id_name, event_id), (self._type_name, event_type)]
            small = len(key) + len(event_id) + len(event_type) <= self._small_text
            return _new_record(KafkaRecord, (topic, key, payload, two, transaction.commit_time, UNASSIGNED, small))
        event = OutboxEvent(event_id, key, event_type, payload, members, timestamp, partition, routing, extra)
        topic = topic or self._new_topic(event)
        if event_id is None:
            raise self._poison(event, "no-id", "the event has no id: the column is NULL")
        headers: Headers = [(self._id_name, event_id)]
        if event_type is not None:
            headers.append((self._type_name, event_type))
        if members is not None or extra:
            self._add_headers(headers, event)
        time = transaction.commit_time if timestamp is None else self._timestamp(event, timestamp)
        number = UNASSIGNED if partition is None else self._partition(event, partition)
        return _new_record(KafkaRecord, (topic, key, payload, headers, time, number, False))

    def _new_topic(self, event: OutboxEvent) -> str:
        columns = event.routing[: len(self._template.columns)]
        try:
            topic = self._template.fill(columns)
        except ValueError as error:  # a UnicodeDecodeError is one
            raise self._poison(event, "bad-topic", str(error)) from error
        if len(self._topics) >= TOPIC_CACHE_ENTRIES:
            self._topics.clear()
        self._topics[columns] = topic
        return topic

    def _add_headers(self, headers: Headers, event: OutboxEvent) -> None:
        """Add the members of the `headers` column, then the columns that are headers.

        A member is left out if the record already has a header of its name: a consumer that reads headers into a dict would get
        a wrong id. A trace column is left out if a member has its name: that is nearer to the writer. Raises PoisonEvent.
        """
        if event.headers is not None:
            self._require_size(event, "headers", event.headers)
            try:
                members = header_members(event.headers)
            except ValueError as error:  # a UnicodeError is one
                raise self._poison(event, "bad-headers", f"the headers are no JSON object: {error}") from error
            _add_missing(headers, members)
        for name, value in zip(self._plan.extra_names, event.extra, strict=True):
            if value is None:
                continue
            if name == SPAN_CONTEXT:
                _add_missing(headers, self._span_context(event, value))
            elif name in TRACE_COLUMNS:
                _add_missing(headers, [(name, value)])
            else:
                headers.append((name, value))
        self._require_names(event, headers)

    def _require_names(self, event: OutboxEvent, headers: Headers) -> None:
        """The only check of header names from data: librdkafka requires UTF-8 without NUL, and its binding does not check."""
        names = "".join([name for name, _ in headers])
        if names.isascii() and "\0" not in names:
            return
        try:
            names.encode()
        except UnicodeEncodeError as error:
            raise self._poison(
                event, "bad-headers", f"the name of a header is no UTF-8 text: {error.reason}"
            ) from error
        if "\0" in names:
            raise self._poison(event, "bad-headers", "the name of a header holds a NUL character")

    def _require_size(self, event: OutboxEvent, part: str, text: bytes) -> None:
        """Raise PoisonEvent for text larger than any record, before it is parsed."""
        if len(text) > self._limit:
            raise too_large(self._plan, event, part, len(text), self._limit)

    def _span_context(self, event: OutboxEvent, text: bytes) -> Headers:
        self._require_size(event, "span-context", text)
        try:
            return _span_headers(text.decode())
        except (ValueError, ConfigurationError) as error:  # a UnicodeError is a ValueError
            raise self._poison(
                event, "bad-span-context", f"the span context is no text of java.util.Properties: {error}"
            ) from error

    def _timestamp(self, event: OutboxEvent, timestamp: bytes) -> int:
        try:
            return unix_milliseconds(timestamp)
        except ValueError as error:
            raise self._poison(event, "bad-timestamp", f"the timestamp cannot be Kafka's: {error}") from error

    def _partition(self, event: OutboxEvent, partition: bytes) -> int:
        try:
            number = int(partition)
        except ValueError:  # a member of a message may be anything
            number = UNASSIGNED
        if not 0 <= number <= MAX_PARTITION:
            raise self._poison(event, "bad-partition", f"{_shown(partition)} is no partition")
        return number

    def _poison(self, event: OutboxEvent, reason: str, message: str) -> PoisonEvent:
        return poison_event(self._plan, event, reason, message)


def _span_headers(text: str) -> Headers:
    return [(name, value.encode()) for name, value in parse_properties(text).items()]


def _add_missing(headers: Headers, more: Headers) -> None:
    """Add the headers of `more` whose names are new."""
    there = [name for name, _ in headers]
    headers += [header for header in more if header[0] not in there]


class HeaderNames(NamedTuple):
    """The names of the headers `id` and `type`."""

    id: str = "id"
    type: str = "type"


def header_names(
    headers: Sequence[HeaderColumn], id_columns: Sequence[str], type_columns: Sequence[str]
) -> HeaderNames:
    """Find aliases: `--header id:eventId` renames the header of the id instead of adding another.

    Raises ConfigurationError for a second alias, for two headers of one name, and for an invalid name.
    """
    names = HeaderNames(_alias("id", headers, id_columns), _alias("type", headers, type_columns))
    others = [header.name for header in headers if header.column not in {*id_columns, *type_columns}]
    for name in (*names, *others):
        if not is_c_string(name):
            raise ConfigurationError(
                f"a header cannot be called {name!r}: its name is UTF-8 text without NUL",
                code="header-names",
                cure="give it another name: --header COLUMN:NAME",
            )
        if [*names, *others].count(name) > 1:
            raise ConfigurationError(
                f"two headers would be called {name}, and a consumer may take the wrong one",
                code="header-names",
                cure="give one of them another name: --header COLUMN:NAME",
            )
    return names


def _alias(part: str, headers: Sequence[HeaderColumn], columns: Sequence[str]) -> str:
    aliases = [header.name for header in headers if header.column in columns]
    if len(aliases) > 1:
        raise ConfigurationError(
            f"--header gives the event's {part} several names: {', '.join(aliases)}",
            code="header-names",
            cure="it goes out once, under one name: leave all but one of these out",
        )
    return aliases[0] if aliases else part


def header_members(text: bytes) -> Headers:
    """Return the members of a JSON object as headers: a string as its text, null as null, other values as their JSON text.

    `null` and an empty array count as no headers: object mappers and PHP write them so. Raises ValueError for any other value
    that is not an object, and for an invalid name.
    """
    if len(text) > SMALL_BYTES:
        return _as_written(text)
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError:
        return _as_written(text)  # orjson also refuses numbers beyond a double, and deep nesting
    if members is None or members == []:
        return []
    if not isinstance(members, dict):
        raise ValueError(f"it is a JSON {type(members).__name__}")  # noqa: TRY004 - one kind of error for bad headers
    headers: Headers = []
    for name, value in members.items():
        if isinstance(value, str):
            headers.append((name, value.encode()))
        elif value is None:
            headers.append((name, None))
        else:
            return _as_written(text)
    if b"\\u0000" in text and any("\0" in name for name in members):
        raise ValueError("a name holds a NUL character")
    return headers


def _as_written(text: bytes) -> Headers:
    try:
        decoded = text.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no UTF-8 text: {error.reason} at byte {error.start}") from error
    if _NO_HEADERS.fullmatch(decoded):
        return []
    members, end = read_object(decoded, strict=True)
    if decoded[end:].strip(SPACE):
        raise ValueError(f"something else follows it at character {end}")
    return [(name, member.compact) for name, member in members.items()]


def unix_milliseconds(timestamp: bytes) -> int:
    """Parse a timestamp in PostgreSQL's format (ISO, UTC): `2026-11-23 08:51:33.25+00`, or without an offset.

    Raises ValueError for infinity, a year beyond 9999 or before 1970: Kafka's timestamps begin there.
    """
    moment = datetime.fromisoformat(timestamp.decode())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    if milliseconds < 0:
        raise ValueError(f"{moment.isoformat()} is before 1970")
    if milliseconds > MAX_TIMESTAMP:
        raise ValueError(f"{moment.isoformat()} is after the year 9999 in UTC")
    return milliseconds


def too_large(plan: Plan, event: OutboxEvent, part: str, size: int, limit: int) -> PoisonEvent:
    """The error for a `part` of an event, of `size` bytes, that is larger than any record may be."""
    error = poison_event(
        plan, event, TOO_LARGE, f"the {part} of an event is larger than message.max.bytes: no record can hold it"
    )
    error.cure = "keep such data elsewhere, or raise message.max.bytes here (-X) and max.message.bytes of the topic"
    error.where |= {"size": size, "limit": limit}
    return error


def poison_event(plan: Plan, event: OutboxEvent, reason: str, message: str) -> PoisonEvent:
    """The error for an event, with its id, type and key as far as they are known. It never has the payload."""
    return PoisonEvent(
        message,
        cure="correct what the application writes; this row itself has to be skipped or dead-lettered (--on-poison)",
        reason=reason,
        table=str(plan.table),
        id=_shown(event.id),
        type=_shown(event.type),
        key=_shown(event.key),
    )


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value[:200].decode(errors="replace")
