"""An outbox event to a Kafka record: topic, key, value, headers, timestamp, partition. Pure.

In: `OutboxEvent`s of one plan. Out: `KafkaRecord`s, ready to produce.
Never: a change of the payload, a topic that Kafka would not accept, or a silent default. What cannot become a record raises
PoisonEvent, with the event's id, type, key and topic as far as they are known.

The record's shape is DESIGN's table "Part of the record"; Debezium's outbox event router makes the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson

from cdc_outbox.config.java_properties import parse_properties
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, PoisonEvent
from cdc_outbox.postgres.pgoutput import compile_reader
from cdc_outbox.records.events import (
    EVENT_SCOPE,
    SPAN_CONTEXT,
    TRACE_COLUMNS,
    Cells,
    OutboxEvent,
    OutboxPlan,
    Plan,
)
from cdc_outbox.records.json_members import check_json, read_object

UNASSIGNED: Final = -1
"""No partition named: the producer's partitioner chooses, by murmur2 of the key."""

MAX_PARTITION: Final = 2**31 - 1
"""Kafka's partition numbers are signed 32-bit integers."""

TOPIC_CACHE_ENTRIES: Final = 10_000
"""Topics remembered by their columns. Beyond it the cache starts again: a template over a key must not fill the memory."""

_TOPIC_RULE: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")
_RESERVED: Final = frozenset({".", ".."})
"""Kafka's rule (org.apache.kafka.common.internals.Topic)."""

PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
"""A column's name in braces, in a template."""

Headers = list[tuple[str, str | bytes | None]]

_BEYOND_FLOAT: Final = "infinity"
"""In orjson's words for a number such as 1e400, which json and jsonb can hold."""

_new_record: Final = tuple.__new__
"""A NamedTuple without its Python-level constructor: half the time, once per row."""


class KafkaRecord(NamedTuple):
    """What is handed to the producer. `timestamp`: milliseconds since 1970-01-01 UTC."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp: int
    partition: int


class Template:
    """Text with the names of columns in braces."""

    def __init__(self, template: str) -> None:
        pieces = PLACEHOLDER.split(template)
        self.literals = tuple(pieces[0::2])
        self.columns = tuple(pieces[1::2])

    def join(self, values: tuple[bytes | None, ...], what: str, show: Callable[[bytes], str] = bytes.decode) -> str:
        """Put the columns' values in, each as `show` has it. Raises ValueError when one is NULL, which names `what`."""
        text = self.literals[0]
        for name, value, literal in zip(self.columns, values, self.literals[1:], strict=True):
            if value is None:
                raise ValueError(f"column {name}, which names the {what}, is NULL")
            text += show(value) + literal
        return text


class TopicTemplate(Template):
    """`outbox.event.{aggregatetype}`."""

    def __init__(self, template: str) -> None:
        """Parse. Raises ConfigurationError for a brace without its partner, or text that no topic can hold."""
        super().__init__(template)
        shortest = "".join(self.literals) + ("x" if self.columns else "")
        if "" in self.columns or shortest in _RESERVED or not _TOPIC_RULE.fullmatch(shortest):
            raise ConfigurationError(
                f"--topic {template!r} cannot make a topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them",
                cure="write a template such as outbox.event.{aggregatetype}",
            )

    def fill(self, values: tuple[bytes | None, ...]) -> str:
        """Put the columns' values in. Raises ValueError when one is NULL, or the topic breaks Kafka's rule."""
        topic = self.join(values, "topic")
        if topic in _RESERVED or not _TOPIC_RULE.fullmatch(topic):
            raise ValueError(f"{topic[:300]!r} is no topic: Kafka allows [A-Za-z0-9._-], 1 to 249 of them")
        return topic


class Route:
    """The way from one plan's events to records."""

    def __init__(self, plan: Plan, template: TopicTemplate, names: HeaderNames) -> None:
        self._plan = plan
        self._template = template
        self._id_name, self._type_name = names
        self._topics: dict[tuple[bytes | None, ...], str] = {}

    def record(self, event: OutboxEvent, commit_time: int) -> KafkaRecord:
        """Make the record; `commit_time` in Unix milliseconds. Raises PoisonEvent."""
        topic = self._topics.get(event.routing) or self._new_topic(event)
        event_id, key, event_type, payload, members, timestamp, partition, _, extra = event
        if event_id is None:
            raise self._poison(event, "no-id", "the event has no id: the column is NULL")
        headers: Headers = [(self._id_name, event_id)]
        if event_type is not None:
            headers.append((self._type_name, event_type))
        if members is not None or extra:
            self._add_headers(headers, event)
        if timestamp is not None:
            commit_time = self._timestamp(event, timestamp)
        number = UNASSIGNED if partition is None else self._partition(event, partition)
        return _new_record(KafkaRecord, (topic, key, payload, headers, commit_time, number))

    def compile(self, plan: OutboxPlan, row_at: int) -> Callable[[bytes, int], KafkaRecord]:
        """Make the function from a row of the stream, whose tuple begins at `row_at`, and the commit time to its record.

        Raises PoisonEvent as `record` does, and ProtocolError for a broken tuple.
        """
        scope = {**EVENT_SCOPE, **self._scope(), "row_at": row_at}
        parameters = "data, commit_time, at=row_at"
        compiled: object = compile_reader(plan.relation, self._expression(plan.cells), plan.wanted, scope, parameters)
        return compiled  # type: ignore[return-value]  # the expression's text says so

    def _expression(self, cells: Cells) -> str:
        """The record of a row: of most in one step, which have a known topic, an id, a type and no other headers. No event
        is made of these, a tenth of all that a row costs. Any other becomes an event first.
        """
        plain = f"new(kafka, (topic, {cells.key}, {cells.payload}, [(i, {cells.id}), (t, {cells.type})], commit_time, none))"
        conditions = [f"(topic := topics(({''.join(f'{cell},' for cell in cells.routing)}))) is not None"]
        conditions += [f"{cell} is not None" for cell in (cells.id, cells.type)]
        conditions += [f"{cell} is None" for cell in (cells.headers, cells.timestamp, cells.partition, *cells.extra)]
        return f"{plain} if {' and '.join(conditions)} else {two_steps(cells)}"

    def _scope(self) -> dict[str, object]:
        """What the expression refers to."""
        names = {"i": self._id_name, "t": self._type_name}
        return {"record": self.record, "topics": self._topics.get, "kafka": KafkaRecord, "none": UNASSIGNED, **names}

    def _new_topic(self, event: OutboxEvent) -> str:
        try:
            topic = self._template.fill(event.routing[: len(self._template.columns)])
        except ValueError as error:  # a UnicodeDecodeError is one
            raise self._poison(event, "bad-topic", str(error)) from error
        if len(self._topics) >= TOPIC_CACHE_ENTRIES:
            self._topics.clear()
        self._topics[event.routing] = topic
        return topic

    def _add_headers(self, headers: Headers, event: OutboxEvent) -> None:
        """Add the members of the `headers` column, then the columns that are headers.

        A member yields to a header of ours: whoever reads headers into a dict would take a wrong id. A trace column yields
        to a member of the same name, which is nearer to the writer.
        """
        if event.headers is not None:
            try:
                members = header_members(event.headers)
            except ValueError as error:
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

    def _span_context(self, event: OutboxEvent, text: bytes) -> Headers:
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

    def _poison(self, event: OutboxEvent, reason: str, what: str) -> PoisonEvent:
        return poison_event(self._plan, event, reason, what)


def two_steps(cells: Cells) -> str:
    """Source text of a row's record by way of its event: for `Route.record`, whatever that does."""
    return f"record({cells.event()}, commit_time)"


def _span_headers(text: str) -> Headers:
    entries = parse_properties(text)
    if any("\0" in name for name in entries):
        raise ValueError("a name holds a NUL character")
    return [(name, value.encode()) for name, value in entries.items()]


def _add_missing(headers: Headers, more: Headers) -> None:
    """Add those of `more` whose names are not there yet."""
    there = [name for name, _ in headers]
    headers += [header for header in more if header[0] not in there]


class HeaderNames(NamedTuple):
    """What the headers `id` and `type` are called."""

    id: str = "id"
    type: str = "type"


def header_names(
    headers: Sequence[HeaderColumn], id_columns: Sequence[str], type_columns: Sequence[str]
) -> HeaderNames:
    """Find aliases: `--header id:eventId` renames the header that goes out anyway instead of adding another.

    Raises ConfigurationError for a second alias, and for two headers of one name.
    """
    names = HeaderNames(_alias("id", headers, id_columns), _alias("type", headers, type_columns))
    others = [header.name for header in headers if header.column not in {*id_columns, *type_columns}]
    for name in (*names, *others):
        if [*names, *others].count(name) > 1:
            raise ConfigurationError(
                f"two headers would be called {name}, and a consumer may take the wrong one",
                cure="give one of them another name: --header COLUMN:NAME",
            )
    return names


def _alias(part: str, headers: Sequence[HeaderColumn], columns: Sequence[str]) -> str:
    aliases = [header.name for header in headers if header.column in columns]
    if len(aliases) > 1:
        raise ConfigurationError(
            f"--header gives the event's {part} several names: {', '.join(aliases)}",
            cure="it goes out once, under one name: leave all but one of these out",
        )
    return aliases[0] if aliases else part


def header_members(text: bytes) -> Headers:
    """Give the members of a JSON object as headers: a string as its text, null as null, anything else as its JSON text.

    Raises ValueError when it is not an object, or a name cannot be a header's.
    """
    try:
        members = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        if _BEYOND_FLOAT not in str(error):
            raise
        check_json(text)
        return _as_written(text)
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
    return [(name, member.compact) for name, member in read_object(text.decode())[0].items()]


def unix_milliseconds(timestamp: bytes) -> int:
    """Read a timestamp as PostgreSQL prints it (ISO, UTC): `2026-11-23 08:51:33.25+00`, or without an offset.

    Raises ValueError for infinity, a year beyond 9999 or before 1970: Kafka's timestamps begin there.
    """
    moment = datetime.fromisoformat(timestamp.decode())
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    milliseconds = since.days * 86_400_000 + since.seconds * 1000 + since.microseconds // 1000
    if milliseconds < 0:
        raise ValueError(f"{moment.isoformat()} is before 1970")
    return milliseconds


def poison_event(plan: Plan, event: OutboxEvent, reason: str, what: str) -> PoisonEvent:
    """An error that names the event as far as it can be named. The payload is never part of it."""
    return PoisonEvent(
        what,
        cure="correct what the application writes; this row itself has to be skipped or dead-lettered (--on-poison)",
        reason=reason,
        table=str(plan.table),
        id=_shown(event.id),
        type=_shown(event.type),
        key=_shown(event.key),
    )


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value[:200].decode(errors="replace")
