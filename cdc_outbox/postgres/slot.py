"""Logical replication slots: inspect, create, copy, mark for failover, drop.

In: a connection, or a walsender session where a snapshot is wanted, and a slot's name. Out: `SlotInfo`, or our errors.
Never: a slot dropped or replaced without being told to, or one of another plugin or database taken for ours.

PostgreSQL manual: 52.20 pg_replication_slots; 9.28.6 Replication Management Functions; 54.4 CREATE_REPLICATION_SLOT,
ALTER_REPLICATION_SLOT; 47.2.3 Replication Slot Synchronization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc_outbox.errors import ConfigurationError, SlotBusy, StreamGap
from cdc_outbox.identifiers import quote_identifier, quote_literal
from cdc_outbox.lsn import Lsn, parse_lsn
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.replication import ReplicationSession

PLUGIN: Final = "pgoutput"

LOST: Final = "lost"
"""wal_status of a slot that can never be streamed from again."""

_SNAPSHOT_OPTION_IN_PARENTHESES: Final = 150_000
"""Server version from which CREATE_REPLICATION_SLOT takes its options in parentheses."""

_FAILOVER_SINCE: Final = 170_000
"""Server version from which standbys can keep a copy of a slot."""

_INSPECT: Final = """
SELECT s.plugin, s.slot_type, s.database, s.temporary, s.active, s.active_pid, s.wal_status,
       s.restart_lsn::text, s.confirmed_flush_lsn::text, s.safe_wal_size, {failover}, {reason},
       pg_catalog.current_database()
  FROM pg_catalog.pg_replication_slots s
 WHERE s.slot_name = %s
"""


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One row of pg_replication_slots, and the database we asked in."""

    name: str
    plugin: str | None
    slot_type: str
    database: str | None
    temporary: bool
    active: bool
    active_pid: int | None
    wal_status: str | None
    """reserved, extended, unreserved, or lost."""
    restart_lsn: Lsn | None
    confirmed_flush_lsn: Lsn | None
    safe_wal_bytes: int | None
    """How much WAL may still be written before the slot is in danger; None without max_slot_wal_keep_size."""
    failover: bool
    """Whether standbys may keep a copy of it, for the day one of them is promoted."""
    current_database: str
    invalidation_reason: str | None = None
    """Why it is lost, in the server's word (17 and later): wal_removed, idle_timeout, …"""


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """What CREATE_REPLICATION_SLOT answers. The snapshot lasts until the session's next command."""

    name: str
    consistent_point: Lsn
    snapshot: str | None


def inspect(connection: Connection, name: str) -> SlotInfo | None:
    """Look the slot up; None when there is none of that name."""
    knows = connection.info.server_version >= _FAILOVER_SINCE
    query = _INSPECT.format(
        failover="s.failover" if knows else "false", reason="s.invalidation_reason" if knows else "NULL"
    )
    row = connection.execute(query.encode(), (name,)).fetchone()
    if row is None:
        return None
    plugin, slot_type, database, temporary, active, active_pid, wal, restart, confirmed, safe, *rest = row
    failover, reason, current = rest
    return SlotInfo(
        name=name,
        plugin=_text(plugin),
        slot_type=str(slot_type),
        database=_text(database),
        temporary=bool(temporary),
        active=bool(active),
        active_pid=int(str(active_pid)) if active_pid is not None else None,
        wal_status=_text(wal),
        restart_lsn=parse_lsn(str(restart)) if restart is not None else None,
        confirmed_flush_lsn=parse_lsn(str(confirmed)) if confirmed is not None else None,
        safe_wal_bytes=int(str(safe)) if safe is not None else None,
        failover=bool(failover),
        current_database=str(current),
        invalidation_reason=_text(reason),
    )


def require_usable(info: SlotInfo, *, lost_is_fine: bool = False) -> None:
    """Raise ConfigurationError when the slot cannot be ours: another kind, plugin or database; StreamGap when it is lost."""
    if info.slot_type != "logical" or info.plugin != PLUGIN:
        kind = f"a logical slot of plugin {info.plugin}" if info.slot_type == "logical" else "a physical slot"
        raise ConfigurationError(
            f"slot {info.name} is {kind}, not of {PLUGIN}",
            cure="choose another name with --slot, or drop that slot if nothing uses it: cdc-outbox slot drop "
            f"--slot {info.name}",
            slot=info.name,
        )
    if info.database != info.current_database:
        raise ConfigurationError(
            f"slot {info.name} belongs to database {info.database}, not to {info.current_database}",
            cure="name that database in --dsn, or choose another name with --slot: names are unique in a whole cluster",
            slot=info.name,
        )
    if info.wal_status == LOST and not lost_is_fine:
        raise StreamGap(
            f"slot {info.name} is lost: the server has removed WAL that it still needed",
            cure="what it did not send can only be read from the table again: cdc-outbox slot recover makes a new slot and "
            "sends every row that is still there (run --on-slot-lost recover does it by itself); consumers drop what they know",
            slot=info.name,
        )


def require_idle(info: SlotInfo) -> None:
    """Raise SlotBusy while somebody streams from it."""
    if info.active:
        raise SlotBusy(
            f"slot {info.name} is in use: the server process that streams from it is pid {info.active_pid}",
            cure="stop the relay that uses it; pg_stat_activity tells from where that process is connected",
            slot=info.name,
        )


def create(session: ReplicationSession, name: str, *, temporary: bool = False, snapshot: bool = False) -> CreatedSlot:
    """Create the slot; with `snapshot`, export one that sees exactly what the slot will not send.

    It waits for every transaction that is running now, without a deadline; a stop interrupts it (Stopped).
    Raises ConfigurationError (no free slot, wal_level, name taken) or AccessRefused.
    """
    words = [
        "CREATE_REPLICATION_SLOT",
        quote_identifier(name),
        *(["TEMPORARY"] if temporary else []),
        "LOGICAL",
        PLUGIN,
    ]
    choice = "export" if snapshot else "nothing"
    if session.server_version >= _SNAPSHOT_OPTION_IN_PARENTHESES:
        words.append(f"(SNAPSHOT {quote_literal(choice)})")
    else:
        words.append("EXPORT_SNAPSHOT" if snapshot else "NOEXPORT_SNAPSHOT")
    rows = session.rows(" ".join(words), timeout=None)
    created, consistent_point, exported, _plugin = rows[0]
    return CreatedSlot(created or name, parse_lsn(consistent_point or "0/0"), exported)


def make_permanent(session: ReplicationSession, source: str, name: str) -> None:
    """Copy the temporary slot `source` to the permanent `name`, at the same position. Raises our errors."""
    arguments = f"{quote_literal(source)}, {quote_literal(name)}, false"
    session.rows(f"SELECT slot_name FROM pg_catalog.pg_copy_logical_replication_slot({arguments})")  # noqa: S608 - quoted


def require_failover(connection: Connection) -> None:
    """Raise ConfigurationError when this server knows no slots that outlive a failover."""
    if connection.info.server_version < _FAILOVER_SINCE:
        raise ConfigurationError(
            "--failover needs PostgreSQL 17: before, a slot ends with its server",
            cure="leave --failover out, and see docs/how-to/fail-over.md on what to do after a failover",
        )


def make_failover(session: ReplicationSession, name: str) -> None:
    """Have standbys keep a copy of the slot, if they do not yet and nobody streams from it at this moment.

    A slot that was copied has the property as little as one that was made before it was wanted.
    """
    state = f"SELECT failover, active FROM pg_catalog.pg_replication_slots WHERE slot_name = {quote_literal(name)}"  # noqa: S608 - quoted
    if session.rows(state) == [("f", "f")]:
        session.run(f"ALTER_REPLICATION_SLOT {quote_identifier(name)} (FAILOVER true)")


def drop(connection: Connection, name: str) -> None:
    """Drop it. Raises SlotBusy while somebody streams from it, ConfigurationError when there is none."""
    connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", (name,))


def decoded_transactions(connection: Connection, name: str) -> int:
    """How many transactions it has decoded since it was made; 0 when unknown. A crash of the server forgets them."""
    row = connection.execute("SELECT total_txns FROM pg_catalog.pg_stat_get_replication_slot(%s)", (name,)).fetchone()
    return int(str(row[0])) if row and row[0] is not None else 0


def blockers(connection: Connection, *, older_than: float = 0.0) -> list[str]:
    """Name the sessions with a transaction open that has written, oldest first: a slot being created waits for those.

    `older_than`: seconds. A role sees since when only of its own sessions, unless it is a member of pg_read_all_stats: one
    whose age is hidden counts as young as soon as age matters.
    """
    rows = connection.execute(
        "SELECT pid, usename, datname, application_name,"
        " pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - xact_start)::text"
        "  FROM pg_catalog.pg_stat_activity"
        " WHERE backend_xid IS NOT NULL AND pid <> pg_catalog.pg_backend_pid()"
        "   AND (%(seconds)s = 0 OR pg_catalog.clock_timestamp() - xact_start > %(seconds)s * interval '1 second')"
        " ORDER BY xact_start LIMIT 5",
        {"seconds": older_than},
    )
    return [
        f"pid {pid} ({user or '?'}, {application or '-'}, in database {database or '?'}"
        + (")" if age is None else f", open for {age})")
        for pid, user, database, application, age in rows
    ]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared transaction: it outlives its session, and even the server's restart."""

    gid: str
    database: str
    owner: str
    age: str

    @property
    def words(self) -> str:
        """For a person."""
        return f"prepared transaction {self.literal} ({self.owner} in {self.database}, open for {self.age})"

    @property
    def literal(self) -> str:
        """Its name for SQL."""
        return quote_literal(self.gid)


def prepared(connection: Connection, *, older_than: float = 0.0) -> list[Prepared]:
    """Prepared transactions of that age in seconds, oldest first. A slot being created waits for them as well, and no session
    shows them.
    """
    rows = connection.execute(
        "SELECT gid, database, owner, pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - prepared)::text"
        "  FROM pg_catalog.pg_prepared_xacts"
        " WHERE pg_catalog.clock_timestamp() - prepared >= %(seconds)s * interval '1 second' ORDER BY prepared LIMIT 5",
        {"seconds": older_than},
    )
    return [Prepared(str(gid), str(database), str(owner), str(age)) for gid, database, owner, age in rows]


def missing(name: str) -> ConfigurationError:
    """The error for a slot that is not there and that nobody may make."""
    return ConfigurationError(
        f"slot {name} does not exist, and --no-create-slot forbids to make it",
        cure="cdc-outbox slot create, or start without --no-create-slot",
        slot=name,
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
