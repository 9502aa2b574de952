"""Checks of the catalog that the relay depends on: before each session and, by the same function, during it.

In: a connection, settings, results of earlier looks. Out: `CatalogState`; ConfigurationError with the cure and the slot's
LSN; StreamGap where rows were not, or may not have been, published.
Never: a change of the catalog, or other checks in the catalog watch than in the preflight.

PostgreSQL manual: 52.42 pg_publication; 52.20 pg_replication_slots.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import partial

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import AccessRefused, ConfigurationError, StreamGap
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn, format_lsn
from cdc_outbox.postgres import publication, published_columns, server, slot, table_rows
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.publication_history import PublicationHistory
from cdc_outbox.records.mapping import used_columns

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CatalogState:
    """The catalog at one look."""

    table_oids: dict[int, TableName]
    lsn: Lsn
    """The server's LSN before the look, which sees everything committed below it."""
    slot: slot.SlotInfo | None
    """None when it does not exist."""
    gap: StreamGap | None
    """A change of the publication that may have hidden rows; all other checks have passed."""


class Catalog:
    """Looks at the catalog, with state that lasts for all sessions of one relay."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._table_oids: dict[int, TableName] = {}
        self._history = PublicationHistory()

    def look(self, connection: Connection) -> CatalogState:
        """Check the tables and the publication. Raises ConfigurationError unless every row of the outbox tables is published
        with every column that is used, and StreamGap when rows were written that the slot will not send.
        """
        settings = self._settings
        lsn = server.current_lsn(connection)
        found = slot.inspect(connection, settings.slot)
        try:
            tables = publication.find_tables(connection, settings.tables, self._table_oids, settings.publication)
            published = publication.inspect(connection, settings.publication)
            publication.require_published(
                published, settings.publication, tables, older_slot=found is not None, own=settings.shard_filter
            )
            published_columns.require_columns(
                connection, published, tables, partial(used_columns, settings), older_slot=found is not None
            )
        except ConfigurationError as error:
            if found is not None and found.confirmed_flush_lsn is not None:
                error.where["lsn"] = format_lsn(found.confirmed_flush_lsn)
            raise
        gap = None
        try:
            self._history.require_unchanged(connection, settings.publication, tables, found)
        except StreamGap as error:
            gap = error
        self._table_oids = {table.oid: table.name for table in tables}
        return CatalogState(self._table_oids, lsn, found, gap)

    def slot_replaced(self) -> None:
        """Accept the present publication: a new slot was created and the rows of the table were sent, which closed any gap."""
        self._history.accept()

    def warn_of_older_rows(self, connection: Connection, info: slot.SlotInfo) -> None:
        """Log how many rows are older than a slot from which no process has streamed yet: that slot never sends them."""
        if info.active or info.decoded or info.wal_status == slot.LOST or not self._settings.snapshot:
            return
        rows = table_rows.SnapshotRows(connection)
        for table in self._settings.tables:
            with contextlib.suppress(AccessRefused):
                count = rows.count_older_than(rows.shape(table), info.name)
                if count:
                    log.warning(
                        "slot.older-rows",
                        slot=info.name,
                        table=str(table),
                        rows=count,
                        cure="these rows were committed before the slot was made, and it does not send them; if no relay or "
                        "recovery has delivered them: cdc-outbox slot recover sends every row that is in the table",
                    )
