"""The one way in: rows of the stream, rows of a snapshot and logical messages become records by the same route.

In: a Relation, or the wish for messages. Out: its `RecordMapping`: how rows or messages become events, and events records.
Never: a mapping for a table that is not one of the outbox tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import wire
from cdc_outbox.postgres.pgoutput import INSERT_TUPLE_OFFSET, LogicalMessage, Relation
from cdc_outbox.records import cloudevents
from cdc_outbox.records.events import OutboxEvent, OutboxPlan, Plan, compile_plan
from cdc_outbox.records.logical_messages import MessagePlan
from cdc_outbox.records.router import KafkaRecord, Route, TopicTemplate, header_names

log = structlog.get_logger(__name__)

PGOUTPUT_AT: Final = wire.XLOGDATA_HEADER_BYTES
"""Where the pgoutput message begins in an XLogData message; of an Insert also …"""

ROW_OID: Final = slice(PGOUTPUT_AT + 1, PGOUTPUT_AT + 5)
"""… where the OID of its relation stands, which finds its mapping, …"""

ROW_AT: Final = PGOUTPUT_AT + INSERT_TUPLE_OFFSET
"""… and where the tuple begins, which the mapping reads."""

TOLD_PREFIXES: Final = 100
"""Prefixes that are named in the log, once each: somebody may put an id into every one."""


Source = TypeVar("Source", contravariant=True)  # noqa: PLC0105 - it is a name of the field, in four modules
"""What an event comes in: an XLogData message, the cells of a row, the content of a logical message."""


class RecordMapping(Generic[Source]):
    """One way in. Plain attributes: they are read once per event."""

    __slots__ = ("event", "name", "received", "record")

    def __init__(
        self, name: str, event: Callable[[Source], OutboxEvent], record: Callable[[Source, int], KafkaRecord]
    ) -> None:
        self.name = name
        self.event = event
        """As much of the event as can be read. Raises ProtocolError."""
        self.record = record
        """(source, commit time in Unix milliseconds) -> the event's record. Raises PoisonEvent when it has none."""
        self.received = 0
        """Events that came this way."""


RowMapping = RecordMapping[bytes]
"""Rows of one relation as the stream brings them: Inserts in XLogData."""

SnapshotMapping = RecordMapping[Sequence[bytes | None]]
"""Rows of one relation as a query brings them."""


class MessageMapping(RecordMapping[bytes]):
    """The logical messages of one prefix: their content."""

    __slots__ = ("_counters", "_prefix", "_told")

    def __init__(self, plan: MessagePlan, route: Route, prefix: str, counters: Counters) -> None:
        def record(content: bytes, commit_time: int) -> KafkaRecord:
            event, error = plan.read(content)
            if error is not None:
                raise error
            return route.record(event, commit_time)

        super().__init__(plan.table, lambda content: plan.read(content)[0], record)
        self._prefix = prefix
        self._counters = counters
        self._told: set[tuple[str, str]] = set()

    def takes(self, message: LogicalMessage) -> bool:
        """Whether it is an event. What is left is counted, and said once: a prefix may be misspelt on either side."""
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
        if (reason, message.prefix) not in self._told and len(self._told) < TOLD_PREFIXES:
            self._told.add((reason, message.prefix))
            log.warning("message.ignored", error=error, prefix=message.prefix, reason=reason, cure=cure)
        return False


class Mappings:
    """Compiles mappings for one configuration. Raises ConfigurationError for a broken template or --header."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        template = TopicTemplate(settings.topic)
        columns = settings.columns
        names = header_names(settings.headers, columns.id, columns.type)
        always = {*columns.id, *columns.type}
        self._extra = [header for header in settings.headers if header.column not in always]
        self._routing = template.columns
        self._route: Callable[[Plan], Route] = lambda plan: Route(plan, template, names)
        position = cloudevents.Position()
        self.begin: Callable[[Lsn], None] = position.begin
        """Called with a commit LSN: the next events are of that transaction, or of a snapshot taken there."""
        if settings.format != "debezium":
            source = cloudevents.SourceTemplate(settings.ce_source or "")
            content_type = cloudevents.ContentTypeTemplate(settings.content_type)
            self._routing = (*template.columns, *source.columns, *content_type.columns)
            self._route = cloudevents.choose(settings, template, names, source, content_type, position)

    def is_outbox(self, table: TableName) -> bool:
        """Whether `table` is one of those that --table names."""
        return table in self._settings.tables

    def rows(self, relation: Relation) -> RowMapping:
        """The way in for a relation's rows in the stream. Raises ConfigurationError for a missing or wrong column."""
        plan = self._plan(relation)
        return RowMapping(str(plan.table), lambda row: plan.read(row, ROW_AT), self._route(plan).compile(plan, ROW_AT))

    def snapshot(self, relation: Relation) -> SnapshotMapping:
        """The way in for rows of a query, all columns in the relation's order. Raises ConfigurationError likewise."""
        plan = self._plan(relation)
        pick, record = plan.pick, self._route(plan).record
        return SnapshotMapping(str(plan.table), pick, lambda cells, commit_time: record(pick(cells), commit_time))

    def _plan(self, relation: Relation) -> OutboxPlan:
        return compile_plan(relation, self._settings.columns, self._routing, self._extra)

    def messages(self, counters: Counters) -> MessageMapping | None:
        """The way in for logical messages; None when they are not asked for."""
        settings = self._settings
        if not settings.reads_messages:
            return None
        plan = MessagePlan(settings.message_prefix, settings.columns, self._routing, self._extra)
        return MessageMapping(plan, self._route(plan), settings.message_prefix, counters)
