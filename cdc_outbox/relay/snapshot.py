"""First start: send the rows that the table already has, then create a slot that continues exactly where they end.

In: a walsender session, a publisher, mappings. Out: every row of a snapshot delivered, and the permanent slot.
Never: state of its own, a gap, or a slot left behind by a start that ended early.

A temporary slot exports a snapshot of exactly the transactions that the slot will not send. The rows are read in that snapshot
and delivered; only then the temporary slot is copied to the permanent name, at the same position. If the process is killed
before, the temporary slot ends with its session, and the next start sends the same events again, with the same ids.

Recovery from a lost slot works the same way; it drops the old slot just before the copy. If the process is killed between the
two, there is no slot, and the next start is a first start.

PostgreSQL manual: 54.4 CREATE_REPLICATION_SLOT (SNAPSHOT 'export'); 9.28.6 pg_copy_logical_replication_slot.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from functools import partial

import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError
from cdc_outbox.identifiers import NAME_BYTES, TableName, quote_identifier
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import UNSET, Lsn, format_lsn
from cdc_outbox.postgres import slot, slot_wait, table_rows
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.selection import not_older
from cdc_outbox.records.mapping import Mappings, SnapshotMapping, used_columns
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.row_sender import RowSender
from cdc_outbox.shutdown import Stop

log = structlog.get_logger(__name__)


class FirstStart:
    """One attempt. `run()` leaves either a permanent slot with every row delivered, or no slot."""

    def __init__(
        self,
        settings: Settings,
        session: ReplicationSession,
        publisher: Publisher,
        mappings: Mappings,
        policy: PoisonPolicy,
        counters: Counters,
        stop: Stop,
    ) -> None:
        self._settings = settings
        self._session = session
        session.connection.on_progress = self._progress
        self._row_mappings = mappings
        self._counters = counters
        self._stop = stop
        self._rows = RowSender(publisher, policy, counters, stop, self._report)
        self.expected = 0
        """Rows of the snapshot; 0 until they are counted."""
        self.begins_at = UNSET
        """The LSN at which the new slot begins."""
        self._mark = UNSET
        """The end of a transaction that the new slot has to decode, which shows from then on that it was used."""
        self._gone: list[str] = []
        """Tables with rows written, whose trigger deletes each row as it is inserted."""

    def run(self, *, replace: bool = False, since: str | None = None) -> None:
        """Send the rows and create the slot. `replace`: a slot of that name exists, and is dropped at the end. `since`: a
        timestamp; rows that are known to be older are left out.

        Raises Stopped, PoisonEvent, AccessRefused (with the GRANT), ConfigurationError or Unreachable.
        """
        name = self._settings.slot
        if not (self._settings.snapshot and self._settings.tables) and not replace:
            created = self._create(name)
            self._created(created.consistent_point, None)
            return
        suffix = f"_{secrets.token_hex(6)}"
        temporary = name[: NAME_BYTES - len(suffix)] + suffix
        slot.require_free(self._session, name, 1 if replace else 2)
        created = self._create(temporary, temporary=True, snapshot=True)
        instead = "" if replace else "--no-snapshot: then the rows that the table already has are never sent"
        self._send_snapshot(created, since, instead)
        old = None
        if replace:
            old = slot.inspect(self._session, name)
            slot.drop(self._session, name)
        slot.make_permanent(self._session, temporary, name)
        if self._mark != UNSET:
            with contextlib.suppress(
                CdcOutboxError
            ):  # then the next start warns of rows that were sent, which loses nothing
                slot.decode(self._session, name, self._settings.publication, self._mark)
        log.info("snapshot.finished", slot=name, rows=self._rows.sent)
        self._created(created.consistent_point, old)

    def _send_snapshot(self, created: slot.CreatedSlot, since: str | None, instead: str) -> None:
        """Send the rows. `instead`: what a role without the privilege to read them can do."""
        settings = self._settings
        assert created.snapshot is not None
        self._rows.time = int(time.time() * 1000)
        self._rows.lsn = created.consistent_point
        with contextlib.ExitStack() as sending:
            with table_rows.open_snapshot(
                settings.dsn.reveal(),
                created.snapshot,
                self._stop,
                settings.shard_filter,
                alternative_hint=instead,
                on_progress=self._progress,
            ) as snapshot:
                # The temporary slot ends with its session. Before this point, a statement there would end the snapshot.
                with contextlib.suppress(AccessRefused):
                    self._mark = slot.mark(self._session)
                sending.enter_context(self._session.connection.kept_alive())
                self._send_tables(snapshot, since)
                self._gone = [str(table) for table in settings.tables if _are_gone(snapshot, table)]
            self._rows.finish()

    def _create(self, name: str, *, temporary: bool = False, snapshot: bool = False) -> slot.CreatedSlot:
        dsn = self._settings.dsn.reveal()
        return slot_wait.create(self._session, dsn, name, self._report_wait, temporary=temporary, snapshot=snapshot)

    def _report_wait(self, waits_for: str, cure: str) -> None:
        self._counters.note_error(waits_for, "slot-waiting", cure)
        log.warning("slot.waiting", slot=self._settings.slot, error=waits_for, cure=cure or None)

    def _created(self, begins_at: Lsn, old: slot.SlotInfo | None) -> None:
        """Log the new slot, and the events from before it that are in no table and so are not sent."""
        self.begins_at = begins_at
        log.info("slot.created", slot=self._settings.slot, lsn=begins_at)
        delivered = old.confirmed_flush_lsn if old is not None else None
        where = {"slot": self._settings.slot, "since": delivered and format_lsn(delivered), "lsn": begins_at}
        after = ": what was written after the last confirmation of the old slot (since) is lost" if old else ""
        if self._settings.reads_messages:
            cure = "messages written before this LSN are not sent, since no table has them"
            log.warning("messages.skipped", **where, cure=cure + after)
        for table in self._gone:
            cure = "rows written before this LSN are not sent: a trigger deletes each as it is inserted"
            first = "; next time, cdc-outbox slot create comes before the first event"
            log.warning("rows.skipped", table=table, **where, cure=cure + (after or first))

    def _send_tables(self, snapshot: table_rows.SnapshotRows, since: str | None) -> None:
        columns, tables = self._settings.columns, self._settings.tables
        where = {
            table: not_older(since, snapshot.shape(table), columns) if since else table_rows.EVERY_ROW
            for table in tables
        }
        counts = {table: snapshot.count(table, where[table]) for table in tables}
        self.expected = self._counters.snapshot_expected = sum(counts.values())
        if self.expected:
            log.info(
                "snapshot.started",
                slot=self._settings.slot,
                rows=self.expected,
                since=since,
                complete_since=self._complete_since(snapshot),
            )
        for table, count in counts.items():
            if count:
                shape = outbox_shape(self._settings, snapshot, table)
                mapping = mapping_of(self._row_mappings, shape)
                order = row_order(self._settings, shape, count)
                for cells in snapshot.read(shape, order, where=where[table]):
                    self._session.connection.require_alive()
                    self._rows.send(mapping, cells)

    def _complete_since(self, snapshot: table_rows.SnapshotRows) -> str | None:
        """The time since which the table has every row, if older rows were deleted: a recovery cannot send those."""
        moments = [snapshot.first_kept(snapshot.shape(table)) for table in self._settings.tables]
        return max((moment for moment in moments if moment is not None), default=None)

    def _progress(self) -> None:
        """PostgreSQL works on a query that takes long."""
        self._counters.waits(time.monotonic())

    def _report(self, delivered: int) -> None:
        log.info("snapshot.progress", slot=self._settings.slot, rows=delivered, of=self.expected)


def outbox_shape(settings: Settings, snapshot: table_rows.SnapshotRows, table: TableName) -> table_rows.TableShape:
    """The table with the columns that become part of a record."""
    return snapshot.shape(table).narrowed(partial(used_columns, settings))


def mapping_of(mappings: Mappings, shape: table_rows.TableShape) -> SnapshotMapping:
    """The mapping of a table's rows to records. Raises ConfigurationError for a missing or wrong column."""
    return mappings.snapshot(shape.relation)


def _are_gone(snapshot: table_rows.SnapshotRows, table: TableName) -> bool:
    """Whether rows were written, and deleted by the trigger: only the stream could have sent them."""
    shape = snapshot.shape(table)
    return snapshot.deletes_at_once(shape) and snapshot.was_written(shape)


def row_order(settings: Settings, shape: table_rows.TableShape, count: int) -> list[str]:
    """Columns to order `count` rows by, of which the first that the table has is used. Logs a warning if it has none, or if
    the role may not read what gives the order.
    """
    order = table_rows.row_order(settings.columns.timestamp)
    best = next((name for name in order if name in shape.names), None)
    needed = (best,) if best == table_rows.INSERT_ORDER else (best, *table_rows.STORAGE_ORDER)
    hidden = [name for name in needed if best is not None and name in shape.unreadable]
    if hidden:
        lacks = f"role {shape.role} may not read {', '.join(hidden)}"
        columns = ", ".join(map(quote_identifier, hidden))
        cure = f"GRANT SELECT ({columns}) ON {shape.table.quoted} TO {quote_identifier(shape.role)};"
    elif shape.first_of(order) is None:
        lacks = f"the table has no column {' or '.join(order)}"
        cure = (
            f"ALTER TABLE {shape.table.quoted} ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY; or --timestamp-column "
            "COLUMN, a column with the time of the insert"
        )
    else:
        return order
    if count > 1:
        error = f"{lacks}: rows of one key may be sent in another order than committed"
        log.warning("snapshot.unordered", table=str(shape.table), rows=count, error=error, cure=cure)
    return order
