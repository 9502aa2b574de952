"""Map rows of the stream, rows of a snapshot and logical messages to records, all by the same route.

In: a Relation, or settings with messages. Out: a `RecordMapping`: from a row or message to its event and its record.
Never: a mapping for a table that is not one of the outbox tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from cdc_outbox.config.librdkafka import MESSAGE_MAX_BYTES
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres.pgoutput import LogicalMessage, Relation
from cdc_outbox.postgres.slot import MARK
from cdc_outbox.records import cloudevents
from cdc_outbox.records.events import TRACE_COLUMNS, OutboxEvent, OutboxPlan, Plan, compile_plan
from cdc_outbox.records.logical_messages import MessagePlan
from cdc_outbox.records.plain import PlainLayout, plain_layout
from cdc_outbox.records.router import InFlight, KafkaRecord, Route, header_names
from cdc_outbox.records.templates import PLACEHOLDER, ContentTypeTemplate, SourceTemplate, TopicTemplate

log = structlog.get_logger(__name__)

LOGGED_PREFIXES: Final = 100
"""Most prefixes that are logged, once each: an application may put an id into every prefix."""


Source = TypeVar("Source", contravariant=True)  # noqa: PLC0105 - it is a name of the field, in four modules
"""The source of an event: an XLogData message, the cells of a row, the content of a logical message."""


class RecordMapping(Generic[Source]):
    """Maps a source to a record, and to its event."""

    __slots__ = ("event", "name", "received", "record")

    def __init__(
        self, name: str, event: Callable[[Source], OutboxEvent], record: Callable[[Source, InFlight], KafkaRecord]
    ) -> None:
        self.name = name
        self.event = event
        """Reads as much of the event as possible. Raises ProtocolError."""
        self.record = record
        """Makes the record of one event of a transaction. Raises PoisonEvent if that is impossible, ProtocolError."""
        self.received = 0
        """Events received since the last `StreamReader.count_received`."""


class RowMapping(RecordMapping[bytes]):
    """Maps rows of one relation in the stream: Inserts in XLogData."""

    __slots__ = ("plain",)

    def __init__(
        self,
        name: str,
        event: Callable[[bytes], OutboxEvent],
        record: Callable[[bytes, InFlight], KafkaRecord],
        plain: PlainLayout | None = None,
    ) -> None:
        super().__init__(name, event, record)
        self.plain = plain
        """Layout of the rows that the native plane can take; None if it can take none."""


SnapshotMapping = RecordMapping[Sequence[bytes | None]]
"""Maps rows of one relation in the result of a query."""


class MessageMapping(RecordMapping[bytes]):
    """Maps the content of logical messages of one prefix."""

    __slots__ = ("_counters", "_logged", "_plan", "_prefix", "_route")

    def __init__(self, plan: MessagePlan, route: Route, prefix: str, counters: Counters) -> None:
        super().__init__(plan.table, lambda content: plan.read(content)[0], self._record)
        self._plan = plan
        self._route = route
        self._prefix = prefix
        self._counters = counters
        self._logged: set[tuple[str, str]] = set()

    def _record(self, source: bytes, transaction: InFlight) -> KafkaRecord:
        """Make the record of one message. Raises PoisonEvent also for content that is not an event."""
        event, error = self._plan.read(source)
        if error is not None:
            raise error
        return self._route.record(event, transaction)

    def takes(self, message: LogicalMessage) -> bool:
        """Whether the message is an event. Others are counted, and logged once per prefix: either side may have misspelt it."""
        if message.prefix == MARK:
            return False
        if message.prefix != self._prefix:
            reason = "other-message"
            error = f"a logical message with the prefix {message.prefix!r} is no event of this outbox"
            cure = "if it is one: --message-prefix names their prefix"
        elif not message.transactional:
            reason = "not-transactional"
            error = f"a logical message with the prefix {message.prefix!r} is not transactional: no event"
            cure = "events are written with pg_logical_emit_message(true, ...): the others would survive a rollback"
        else:
            return True
        self._counters.skipped[reason] = self._counters.skipped.get(reason, 0) + 1
        if (reason, message.prefix) not in self._logged and len(self._logged) < LOGGED_PREFIXES:
            self._logged.add((reason, message.prefix))
            log.warning("message.ignored", error=error, prefix=message.prefix, reason=reason, cure=cure)
        return False


def used_columns(settings: Settings, names: Sequence[str]) -> list[str]:
    """The columns of `names` that become part of a record, in the table's order."""
    columns = settings.columns
    several = (columns.id, columns.key, columns.type, columns.payload, columns.headers)
    chosen = {next((name for name in wanted if name in names), None) for wanted in several}
    chosen |= {columns.timestamp, columns.partition, *TopicTemplate(settings.topic).columns, *TRACE_COLUMNS}
    chosen |= {header.column for header in settings.headers}
    chosen |= {columns.span_context, *PLACEHOLDER.findall(settings.ce_source or "")}
    if settings.format != "debezium":
        chosen |= set(PLACEHOLDER.findall(settings.content_type))
    return [name for name in names if name in chosen]


class Mappings:
    """Compiles mappings for one configuration. Raises ConfigurationError for a broken template or --header."""

    def __init__(self, settings: Settings, limit: int = MESSAGE_MAX_BYTES) -> None:
        """`limit`: message.max.bytes, the largest record that the producer takes."""
        self._settings = settings
        self._limit = limit
        template = TopicTemplate(settings.topic)
        columns = settings.columns
        names = header_names(settings.headers, columns.id, columns.type)
        always = {*columns.id, *columns.type}
        self._extra = [header for header in settings.headers if header.column not in always]
        self._routing = template.columns
        self._route: Callable[[Plan], Route] = lambda plan: Route(plan, template, names, limit)
        self._plain: Callable[[OutboxPlan], PlainLayout | None] = lambda plan: plain_layout(plan, template, names)
        if settings.format != "debezium":
            source = SourceTemplate(settings.ce_source or "")
            content_type = ContentTypeTemplate(settings.content_type)
            self._routing = (*template.columns, *source.columns, *content_type.columns)
            self._route = cloudevents.choose(settings, template, names, source, content_type, limit)
            self._plain = lambda _plan: None

    def is_outbox(self, table: TableName) -> bool:
        """Whether --table names `table`."""
        return table in self._settings.tables

    def rows(self, relation: Relation) -> RowMapping:
        """The mapping for a relation's rows in the stream. Raises ConfigurationError for a missing or wrong column."""
        plan = self._plan(relation)
        return RowMapping(str(plan.table), plan.read, plan.compile(self._route(plan).make), self._plain(plan))

    def snapshot(self, relation: Relation) -> SnapshotMapping:
        """The mapping for rows of a query with all columns. Raises ConfigurationError for a missing or wrong column."""
        plan = self._plan(relation)
        route, pick = self._route(plan), plan.pick
        return SnapshotMapping(str(plan.table), pick, lambda cells, transaction: route.record(pick(cells), transaction))

    def _plan(self, relation: Relation) -> OutboxPlan:
        return compile_plan(relation, self._settings.columns, self._routing, self._extra)

    def messages(self, counters: Counters) -> MessageMapping | None:
        """The mapping for logical messages; None if the settings do not include them."""
        settings = self._settings
        if not settings.reads_messages:
            return None
        plan = MessagePlan(settings.message_prefix, settings.columns, self._routing, self._extra, self._limit)
        return MessageMapping(plan, self._route(plan), settings.message_prefix, counters)
