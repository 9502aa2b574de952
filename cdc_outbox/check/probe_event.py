"""The event of a probe: what is in it, how it is written, how it is taken away again.

In: `Settings`, the shape of the table, None where events are messages. Out: one committed row or message; its id and topic.
Never: an event that does not say what it is: type `cdc-outbox.probe`, header `outbox.probe`.
"""

from __future__ import annotations

import json
import uuid
from typing import Final

from cdc_outbox.commands.emit import NewEvent, emit_event
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import AccessRefused, CdcOutboxError
from cdc_outbox.identifiers import TableName, quote_identifier
from cdc_outbox.postgres import connect, table_rows
from cdc_outbox.postgres.errors import translated
from cdc_outbox.records.templates import TopicTemplate
from cdc_outbox.shutdown import Stop

NAME: Final = "cdc-outbox-probe"
"""Key of the event, or its beginning, and what stands in the topic's template."""

KEYS_TRIED: Final = 10_000
"""Until one is this shard's: of 64 shards, the most that there can be, each has its share of them."""

EVENT_TYPE: Final = "cdc-outbox.probe"
HEADER: Final = "outbox.probe"
PAYLOAD: Final = '{"probe": "cdc-outbox check --probe"}'

_AGGREGATE_TYPES: Final = ("aggregatetype", "aggregate_type")
"""Columns that want a value also where they do not name the topic."""


class ProbeEvent:
    """One event, marked. `find_key()` for a shard, then `write`, and at last `delete`."""

    def __init__(self, settings: Settings, shape: table_rows.TableShape | None) -> None:
        self._settings = settings
        self._shape = shape
        self.id = str(uuid.uuid4())
        self._key = NAME
        self._values = self._by_column()

    @property
    def topic(self) -> str:
        """Where the record will go."""
        template = TopicTemplate(self._settings.topic)
        return template.fill(tuple(self._values[column].encode() for column in template.columns))

    def find_key(self, stop: Stop) -> None:
        """Of a shard: a key whose rows are this shard's, since others do not come out of its publication. Raises our errors."""
        own = self._settings.shard_filter
        if own is None:
            return
        named = "SELECT %s::text || n AS key FROM pg_catalog.generate_series(1, %s) AS n"
        query = f"SELECT named.key FROM ({named}) AS named WHERE {own.shard.condition('key')} LIMIT 1"  # noqa: S608 - quoted
        with connect.open_connection(self._settings.dsn.reveal(), stop) as connection:
            [(key,)] = connection.execute(query.encode(), (f"{NAME}-", KEYS_TRIED)).fetchall()
        self._key = self._values[self._key_column] = str(key)

    def write(self, connection: connect.Connection) -> None:
        """Commit it: as a row, by the emit function where a plain INSERT is refused; as a message where there is no table."""
        if self._shape is None:
            prefix = self._settings.message_prefix
            connection.execute(
                "SELECT pg_catalog.pg_logical_emit_message(true, %s, %s::text)", (prefix, json.dumps(self._values))
            )
            return
        table = self._shape.table
        listed = ", ".join(map(quote_identifier, self._values))
        places = ", ".join(["%s"] * len(self._values))
        insert = f"INSERT INTO {table.quoted} ({listed}) VALUES ({places})"  # noqa: S608 - quoted
        try:
            with translated():
                connection.execute(insert.encode(), list(self._values.values()))
        except AccessRefused as refused:
            self._emit(table, refused)

    def _emit(self, table: TableName, refused: AccessRefused) -> None:
        event = NewEvent(NAME, self._key, EVENT_TYPE, PAYLOAD.encode(), json.dumps({HEADER: "true"}))
        try:
            self.id = emit_event(self._settings.dsn.reveal(), table, event)
        except CdcOutboxError as error:
            refused.cure = error.cure or refused.cure
            raise refused from error

    def delete(self, connection: connect.Connection) -> bool:
        """Take the row away again; False when it stays: this role may not, as a rule."""
        if self._shape is None:
            return True
        column = quote_identifier(self._id_column)
        delete = f"DELETE FROM {self._shape.table.quoted} WHERE {column}::text = %s"  # noqa: S608 - quoted
        try:
            with translated():
                connection.execute(delete.encode(), (self.id,))
        except CdcOutboxError:
            return False
        return True

    def _by_column(self) -> dict[str, str]:
        """By column, as text."""
        columns = self._settings.columns
        names = [] if self._shape is None else [name for name, _ in self._shape.columns]

        def first(wanted: tuple[str, ...]) -> str:
            return next((name for name in wanted if name in names), wanted[0])

        values = dict.fromkeys(TopicTemplate(self._settings.topic).columns, NAME)
        values |= dict.fromkeys((name for name in _AGGREGATE_TYPES if name in names), NAME)
        self._id_column, self._key_column = first(columns.id), first(columns.key)
        values |= {
            self._id_column: self.id,
            self._key_column: self._key,
            first(columns.type): EVENT_TYPE,
            first(columns.payload): PAYLOAD,
        }
        if self._shape is None or first(columns.headers) in names:
            values[first(columns.headers)] = json.dumps({HEADER: "true"})
        return values
