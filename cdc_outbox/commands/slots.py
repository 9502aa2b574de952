"""Managing the replication slot by hand: create it at the current position, show it, drop it.

In: a DSN and a slot's name. Out: `SlotStatus`; a slot created or dropped; what a recovery would send.
Never: a drop of a slot that is in use or belongs to another database, a slot left behind by an interrupted wait, a privilege
beyond what streaming needs (REPLICATION; none for the status).

PostgreSQL manual: 47.2.3 Replication Slots; 52.20 pg_replication_slots; 54.4 CREATE_REPLICATION_SLOT.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn, bytes_between, format_lsn
from cdc_outbox.postgres import connect, publication, server, slot, slot_wait, table_rows
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.selection import not_older
from cdc_outbox.shutdown import Stop

Notify = Callable[[str], None]
"""Receives one line of text for a person."""


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot, and the position of the server."""

    slot: slot.SlotInfo
    current_lsn: Lsn

    @property
    def lag_bytes(self) -> int | None:
        """WAL written since the last confirmed position; None for a slot without one."""
        return bytes_between(self.slot.confirmed_flush_lsn, self.current_lsn)

    @property
    def retained_wal_bytes(self) -> int | None:
        """WAL that the server keeps for this slot; None when it keeps none."""
        return bytes_between(self.slot.restart_lsn, self.current_lsn)

    def document(self) -> dict[str, str | int | bool | None]:
        """The members of the JSON output. Names that `cdc-outbox status` also has mean the same."""
        info = self.slot
        return {
            "slot": info.name,
            "plugin": info.plugin,
            "slot_type": info.slot_type,
            "database": info.database,
            "temporary": info.temporary,
            "slot_active": info.active,
            "active_pid": info.active_pid,
            "wal_status": info.wal_status,
            "confirmed_flush_lsn": _text(info.confirmed_flush_lsn),
            "restart_lsn": _text(info.restart_lsn),
            "current_lsn": format_lsn(self.current_lsn),
            "lag_bytes": self.lag_bytes,
            "retained_wal_bytes": self.retained_wal_bytes,
            "safe_wal_bytes": info.safe_wal_bytes,
            "failover": info.failover,
        }


def read_status(dsn: str, name: str) -> SlotStatus:
    """Look the slot up. Raises ConfigurationError if it does not exist; an unusable slot is no error here."""
    with connect.open_connection(dsn) as connection:
        info = slot.inspect(connection, name)
        current = server.current_lsn(connection)
        database = connection.info.dbname
    if info is None:
        raise ConfigurationError(
            f"slot {name} does not exist",
            code="slot-missing",
            cure="cdc-outbox run creates it, and first sends the rows in the table; "
            f"cdc-outbox slot create creates it now. Slots are those of the server that has database {database}",
            slot=name,
        )
    return SlotStatus(info, current)


def create_slot(
    dsn: str, name: str, publication_name: str, stop: Stop, notify: Notify, *, failover: bool = False
) -> slot.CreatedSlot:
    """Make a permanent slot that begins now, `failover`: synchronized to standbys. `notify` gets warnings and wait messages.

    Raises ConfigurationError (the name is taken, wal_level, no slot free, no failover slots before PostgreSQL 17),
    AccessRefused, Unreachable (also on a standby), or Stopped, with no slot left.
    """
    with connect.open_connection(dsn) as connection:
        server.require_primary(connection)
        server.require_logical(connection)
        if failover:
            slot.require_failover(connection)
        if slot.inspect(connection, name) is not None:
            raise ConfigurationError(
                f"slot {name} exists already",
                code="slot-exists",
                cure="see cdc-outbox slot status; or choose another name with --slot",
            )
        if publication.inspect(connection, publication_name) is None:
            notify(
                f"warning: there is no publication {publication_name} yet. What is written before it exists is never "
                "streamed, by no slot: cdc-outbox sql install --apply"
            )
    session = ReplicationSession(dsn, stop)
    try:
        created = create_patiently(session, dsn, name, notify)
        if failover:
            slot.make_failover(session, name)
        return created
    finally:
        session.close()


def create_patiently(
    session: ReplicationSession, dsn: str, name: str, notify: Notify, *, temporary: bool = False, snapshot: bool = False
) -> slot.CreatedSlot:
    """Create a slot as `slot.create` does; `notify` gets the reason of a long wait. Raises Stopped, with no slot left."""

    def report(waits_for: str, cure: str) -> None:
        notify(f"waiting: {waits_for}" + (f". {cure}" if cure else ""))

    return slot_wait.create(session, dsn, name, report, temporary=temporary, snapshot=snapshot)


@dataclass(frozen=True, slots=True)
class Choice:
    """Rows of one table, of which a recovery with --since sends `sent`."""

    table: TableName
    sent: int
    older: int


def choose_rows(settings: Settings, since: str, stop: Stop) -> list[Choice]:
    """Count the rows that a recovery sends, and those that are older than `since`, a timestamp.

    Raises ConfigurationError (choose-column) for a table without a column with a time, and other CdcOutboxErrors.
    """
    found = []
    with table_rows.open_snapshot(settings.dsn.reveal(), None, stop, settings.shard_filter) as snapshot:
        for table in settings.tables:
            where = not_older(since, snapshot.shape(table), settings.columns)
            sent = snapshot.count(table, where)
            found.append(Choice(table, sent, snapshot.count(table) - sent))
    return found


def require_droppable(status: SlotStatus) -> None:
    """Raise SlotBusy if it is in use, ConfigurationError if it belongs to another database."""
    info = status.slot
    slot.require_idle(info)
    if info.database not in {None, info.current_database}:
        raise ConfigurationError(
            f"slot {info.name} belongs to database {info.database}, not to {info.current_database}",
            code="slot-foreign",
            cure="name that database in --dsn, if this is really the slot you mean",
            slot=info.name,
        )


def what_dropping_means(status: SlotStatus) -> str:
    """The consequences of dropping the slot, for the confirmation prompt."""
    info, lag, retained = status.slot, status.lag_bytes, status.retained_wal_bytes
    if info.slot_type != "logical" or info.plugin != slot.PLUGIN:
        kind = f"a logical slot of plugin {info.plugin}" if info.plugin else "a physical slot: a standby may live on it"
        return (
            f"Slot {info.name} is not one of cdc-outbox: it is {kind}. The process that reads from it cannot continue."
        )
    return (
        f"Slot {info.name} knows how far its relay has come ({_text(info.confirmed_flush_lsn) or 'nowhere'}, "
        f"{_bytes(lag)} behind the server). Without it that is forgotten: a relay that starts again makes a new slot and "
        "first sends every row that is still in the table, delivered ones too, with the same ids. Rows that were deleted "
        f"before they were delivered are lost. The server may remove {_bytes(retained)} of WAL that it keeps for the slot."
    )


def drop_slot(dsn: str, name: str) -> None:
    """Drop it, if it is droppable at this moment. Raises SlotBusy or ConfigurationError, with nothing done."""
    require_droppable(read_status(dsn, name))
    with connect.open_connection(dsn) as connection:
        slot.drop(connection, name)


def _text(lsn: Lsn | None) -> str | None:
    return None if lsn is None else format_lsn(lsn)


def _bytes(count: int | None) -> str:
    return "an unknown number of bytes" if count is None else f"{count:,} bytes"
