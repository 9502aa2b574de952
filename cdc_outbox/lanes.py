"""The one way in: rows of the stream and rows of a snapshot become records by the same plan and the same route.

In: a Relation. Out: its `Lane`: how its rows become events, and its events records.
Never: a lane for a table that is not one of the outbox tables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cdc_outbox.config import Settings
from cdc_outbox.decode.outbox import OutboxEvent, OutboxPlan, compile_plan
from cdc_outbox.decode.pgoutput import Relation
from cdc_outbox.names import TableName
from cdc_outbox.route import KafkaRecord, Route, TopicTemplate, header_names


class Lane:
    """One relation, compiled. Plain attributes: they are read once per row."""

    __slots__ = ("name", "pick", "plan", "read", "received", "record", "table")

    def __init__(self, plan: OutboxPlan, route: Route) -> None:
        self.plan = plan
        self.table = plan.table
        self.name = str(plan.table)
        self.read: Callable[[bytes, int], OutboxEvent] = plan.read
        self.pick: Callable[[Sequence[bytes | None]], OutboxEvent] = plan.pick
        self.record: Callable[[OutboxEvent, int], KafkaRecord] = route.record
        self.received = 0
        """Rows that came this way."""


class Lanes:
    """Compiles lanes for the outbox tables of one configuration. Raises ConfigurationError for a broken --topic."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._template = TopicTemplate(settings.topic)
        columns = settings.columns
        self._names = header_names(settings.headers, columns.id, columns.type)
        always = {*columns.id, *columns.type}
        self._extra = [header for header in settings.headers if header.column not in always]

    def is_outbox(self, table: TableName) -> bool:
        """Whether `table` is one of those that --table names."""
        return table in self._settings.tables

    def compile(self, relation: Relation) -> Lane:
        """Find the relation's columns. Raises ConfigurationError for a missing or wrong one."""
        plan = compile_plan(relation, self._settings.columns, self._template.columns, self._extra)
        return Lane(plan, Route(plan, self._template, self._names))
