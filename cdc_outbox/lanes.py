"""The one way in: rows of the stream, rows of a snapshot and logical messages become records by the same route.

In: a Relation, or the wish for messages. Out: its `Lane`: how rows or messages become events, and events records.
Never: a lane for a table that is not one of the outbox tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import structlog

from cdc_outbox import cloudevents
from cdc_outbox.config import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.decode.messages import MessagePlan
from cdc_outbox.decode.outbox import OutboxEvent, OutboxPlan, Plan, compile_plan
from cdc_outbox.decode.pgoutput import INSERT_TUPLE_OFFSET, LogicalMessage, Relation
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.lsn import Lsn
from cdc_outbox.names import TableName
from cdc_outbox.postgres import wire
from cdc_outbox.route import KafkaRecord, Route, TopicTemplate, header_names

log = structlog.get_logger(__name__)

PGOUTPUT_AT: Final = wire.XLOGDATA_HEADER_BYTES
"""Where the pgoutput message begins in an XLogData message; of an Insert also …"""

ROW_OID: Final = slice(PGOUTPUT_AT + 1, PGOUTPUT_AT + 5)
"""… where the OID of its relation stands, which finds its lane, …"""

ROW_AT: Final = PGOUTPUT_AT + INSERT_TUPLE_OFFSET
"""… and where the tuple begins, which the lane reads."""

TOLD_PREFIXES: Final = 100
"""Prefixes that are named in the log, once each: somebody may put an id into every one."""


class Lane:
    """One way in. Plain attributes: they are read once per event."""

    __slots__ = ("name", "received", "record")

    def __init__(self, name: str, route: Route) -> None:
        self.name = name
        self.record: Callable[[OutboxEvent, int], KafkaRecord] = route.record
        self.received = 0
        """Events that came this way."""


class RowLane(Lane):
    """One relation, compiled."""

    __slots__ = ("pick", "read")

    def __init__(self, plan: OutboxPlan, route: Route) -> None:
        super().__init__(str(plan.table), route)
        self.read: Callable[[bytes, int], OutboxEvent] = plan.read
        self.pick: Callable[[Sequence[bytes | None]], OutboxEvent] = plan.pick


class MessageLane(Lane):
    """The logical messages of one prefix."""

    __slots__ = ("_counters", "_prefix", "_told", "read")

    def __init__(self, plan: MessagePlan, route: Route, prefix: str, counters: Counters) -> None:
        super().__init__(plan.table, route)
        self._prefix = prefix
        self._counters = counters
        self._told: set[tuple[str, str]] = set()
        self.read: Callable[[bytes], tuple[OutboxEvent, PoisonEvent | None]] = plan.read

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
            log.warning("message.left", error=error, prefix=message.prefix, reason=reason, cure=cure)
        return False


class Lanes:
    """Compiles lanes for one configuration. Raises ConfigurationError for a broken template or --header."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        template = TopicTemplate(settings.topic)
        columns = settings.columns
        names = header_names(settings.headers, columns.id, columns.type)
        always = {*columns.id, *columns.type}
        self._extra = [header for header in settings.headers if header.column not in always]
        self._routing = template.columns
        self._route: Callable[[Plan], Route] = lambda plan: Route(plan, template, names)
        self._position = cloudevents.Position()
        if settings.format != "debezium":
            source = cloudevents.SourceTemplate(settings.ce_source or "")
            content_type = cloudevents.ContentTypeTemplate(settings.content_type)
            self._routing = (*template.columns, *source.columns, *content_type.columns)
            self._route = cloudevents.choose(settings, template, names, source, content_type, self._position)

    def begin(self, lsn: Lsn) -> None:
        """The next events are of the transaction with this commit LSN, or of a snapshot taken there."""
        self._position.begin(lsn)

    def is_outbox(self, table: TableName) -> bool:
        """Whether `table` is one of those that --table names."""
        return table in self._settings.tables

    def compile(self, relation: Relation) -> RowLane:
        """Find the relation's columns. Raises ConfigurationError for a missing or wrong one."""
        plan = compile_plan(relation, self._settings.columns, self._routing, self._extra)
        return RowLane(plan, self._route(plan))

    def messages(self, counters: Counters) -> MessageLane | None:
        """The way in for logical messages; None when they are not asked for."""
        settings = self._settings
        if not settings.reads_messages:
            return None
        plan = MessagePlan(settings.message_prefix, settings.columns, self._routing, self._extra)
        return MessageLane(plan, self._route(plan), settings.message_prefix, counters)
