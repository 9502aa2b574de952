"""Logical replication slots: inspect, recognize, create, copy, mark for failover, drop.

In: a connection, or a walsender session where a snapshot is exported, and a slot's name. Out: `SlotInfo`, or CdcOutboxError.
Never: a slot dropped or replaced unless the caller orders it, a slot of another plugin or database used, or a slot that was
dropped and created again under the same name mistaken for the old one (`SlotIdentity`).

PostgreSQL manual: 52.20 pg_replication_slots; 9.28.6 Replication Management Functions; 54.4 CREATE_REPLICATION_SLOT,
ALTER_REPLICATION_SLOT; 47.2.3 Replication Slot Synchronization.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.errors import AccessRefused, ConfigurationError, SlotBusy, StreamGap
from cdc_outbox.identifiers import quote_identifier, quote_literal
from cdc_outbox.lsn import UNSET, Lsn, format_lsn, parse_lsn
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.errors import translated
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.server import Timeline

PLUGIN: Final = "pgoutput"

LOST: Final = "lost"
"""wal_status of a slot that cannot be streamed from any more: the server has removed WAL that it needs."""

_SNAPSHOT_OPTION_IN_PARENTHESES: Final = 150_000
"""Server version from which CREATE_REPLICATION_SLOT has its options in parentheses."""

_TWO_PHASE_SINCE: Final = 140_000
"""Server version from which a slot can send prepared transactions."""

_FAILOVER_SINCE: Final = 170_000
"""Server version from which slots can be synchronized to standbys."""

_INSPECT: Final = """
SELECT s.plugin::text, s.slot_type::text, s.database::text, s.temporary::text, s.active::text, s.active_pid::text,
       s.wal_status::text, s.restart_lsn::text, s.confirmed_flush_lsn::text, s.safe_wal_size::text, {failover}, {reason},
       pg_catalog.current_database()::text,
       (SELECT t.total_txns::text FROM pg_catalog.pg_stat_get_replication_slot(s.slot_name) t),
       pg_catalog.pg_stat_get_bgwriter_stat_reset_time()::text, s.catalog_xmin::text, {two_phase}
  FROM pg_catalog.pg_replication_slots s
 WHERE s.slot_name = {name}
"""

MARK: Final = "cdc_outbox.slot"
"""Prefix of the logical message that a first start writes and its slot decodes."""

_CREATION_LOCK: Final = 0x6364_6F78
"""First key of the advisory lock under which a slot is created ("cdox"). The second is derived from the slot's name."""


_TERMINATION_MILLISECONDS: Final = 5000
"""How long to wait for the end of a server process: an idle one ends within milliseconds."""


@dataclass(frozen=True, slots=True)
class SlotInfo:
    """One row of pg_replication_slots, and the database of the connection."""

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
    """Bytes of WAL that may still be written before the slot may be lost; None without max_slot_wal_keep_size."""
    failover: bool
    """Whether it is synchronized to standbys, so that it outlives a failover."""
    current_database: str
    invalidation_reason: str | None = None
    """Why it is lost, from the server (17 and later): wal_removed, idle_timeout, …"""
    decoded: int = 0
    """Transactions decoded since it was created, or since the server's statistics began; 0 when unknown."""
    statistics_began: str | None = None
    """When the server's statistics began. A crash discards them."""
    catalog_xmin: str | None = None
    """The oldest transaction whose catalog changes it still needs: all transactions that it has yet to send are younger."""
    two_phase: bool = False
    """Whether prepared transactions are sent at PREPARE, in messages of their own."""


@dataclass(frozen=True, slots=True)
class CreatedSlot:
    """The result of CREATE_REPLICATION_SLOT. The snapshot is valid until the session's next command."""

    name: str
    consistent_point: Lsn
    snapshot: str | None


def inspect(connection: Connection | ReplicationSession, name: str) -> SlotInfo | None:
    """Look the slot up; None if it does not exist."""
    query = _INSPECT.format(name=quote_literal(name), **_columns(connection))
    row: Sequence[object] | None
    if isinstance(connection, ReplicationSession):
        row = next(iter(connection.rows(query)), None)
    else:
        row = connection.execute(query.encode()).fetchone()
    return None if row is None else _slot_info(name, [None if cell is None else str(cell) for cell in row])


def _columns(connection: Connection | ReplicationSession) -> dict[str, str]:
    """Columns that only newer servers have, or a constant in place of each."""
    known = connection if isinstance(connection, ReplicationSession) else connection.info
    version = known.server_version
    return {
        "failover": "s.failover::text" if version >= _FAILOVER_SINCE else "'false'",
        "reason": "s.invalidation_reason::text" if version >= _FAILOVER_SINCE else "NULL",
        "two_phase": "s.two_phase::text" if version >= _TWO_PHASE_SINCE else "'false'",
    }


def _slot_info(name: str, row: Sequence[str | None]) -> SlotInfo:
    plugin, slot_type, database, temporary, active, active_pid, wal, restart, confirmed, safe, *rest = row
    failover, reason, current, decoded, statistics_began, catalog_xmin, two_phase = rest
    return SlotInfo(
        name=name,
        plugin=plugin,
        slot_type=str(slot_type),
        database=database,
        temporary=temporary == "true",
        active=active == "true",
        active_pid=int(active_pid) if active_pid is not None else None,
        wal_status=wal,
        restart_lsn=parse_lsn(restart) if restart is not None else None,
        confirmed_flush_lsn=parse_lsn(confirmed) if confirmed is not None else None,
        safe_wal_bytes=int(safe) if safe is not None else None,
        failover=failover == "true",
        current_database=str(current),
        invalidation_reason=reason,
        decoded=int(decoded) if decoded is not None else 0,
        statistics_began=statistics_began,
        catalog_xmin=catalog_xmin,
        two_phase=two_phase == "true",
    )


class SlotIdentity:
    """Whether a slot is still the same one. A slot has no identifier, so this is decided by how its position moves.

    Known are a timeline and the highest position that the slot can have: the one last seen, or the one last acknowledged. The
    slot can be further only if a process has streamed from it. A slot that was dropped and created again is at the end of the
    WAL, although the WAL before it was never streamed. After a promotion, the known position is valid up to the switch point
    only.
    """

    def __init__(self) -> None:
        self._known = UNSET
        self._timeline: Timeline | None = None
        self._before: SlotInfo | None = None

    @property
    def known(self) -> Lsn:
        """The LSN up to which everything is delivered, on the present timeline. UNSET before the slot was seen."""
        return self._known

    def streamed(self, confirmed: Lsn, transactions: int) -> None:
        """Record the LSN that a session of this relay has confirmed, and the number of transactions that it has delivered."""
        self._known = Lsn(max(self._known, confirmed))
        if self._before is not None:
            self._before = replace(self._before, active=False, decoded=self._before.decoded + transactions)

    def forget(self) -> None:
        """Forget the slot: it was replaced on purpose, after everything before the new one was delivered."""
        self._known, self._timeline, self._before = UNSET, None, None

    def require_same(self, seen: SlotInfo, timeline: Timeline, switch: Callable[[Timeline], Lsn]) -> bool:
        """Compare with the last call; True when another process has moved the slot since. Raises StreamGap for another slot.

        `switch`: returns the switch point between the given timeline and the present one. Called when they differ.
        """
        position = seen.confirmed_flush_lsn or UNSET
        before, old = self._before, self._timeline
        if old is not None and old != timeline:
            self._known, before = Lsn(min(self._known, switch(old))), None
        moved = old is not None and position > self._known
        if moved and not (_was_streamed(before, seen) and self._known != UNSET):
            raise StreamGap(
                f"slot {seen.name} stands at {format_lsn(position)}, but {format_lsn(self._known)} is the last position up to "
                "which everything is known to be delivered: it was dropped and made again, or advanced by hand, and what lies "
                "between is not streamed",
                code="slot-moved",
                cure="cdc-outbox slot recover sends what is in the table; if another relay has streamed from the slot "
                "meanwhile, nothing is missing: start again",
                slot=seen.name,
                lsn=format_lsn(position),
            )
        self._known, self._timeline, self._before = Lsn(max(self._known, position)), timeline, seen
        return moved


def _was_streamed(before: SlotInfo | None, now: SlotInfo) -> bool:
    """Whether another process has streamed from this slot between two calls, and the slot was not created again in between."""
    if before is None:
        return now.active or now.decoded > 0
    decoded = before.decoded if before.statistics_began == now.statistics_began else 0
    return now.decoded >= decoded and (before.active or now.active or now.decoded > decoded)


def require_usable(info: SlotInfo, *, lost_is_fine: bool = False) -> None:
    """Raise ConfigurationError for a slot of another type, plugin or database, or with two_phase; StreamGap for a lost one."""
    if info.slot_type != "logical" or info.plugin != PLUGIN:
        kind = f"a logical slot of plugin {info.plugin}" if info.slot_type == "logical" else "a physical slot"
        raise ConfigurationError(
            f"slot {info.name} is {kind}, not of {PLUGIN}",
            code="slot-foreign",
            cure="choose another name with --slot, or drop that slot if nothing uses it: cdc-outbox slot drop "
            f"--slot {info.name}",
            slot=info.name,
        )
    if info.database != info.current_database:
        raise ConfigurationError(
            f"slot {info.name} belongs to database {info.database}, not to {info.current_database}",
            code="slot-foreign",
            cure="name that database in --dsn, or choose another name with --slot: names are unique in a whole cluster",
            slot=info.name,
        )
    if info.two_phase:
        raise ConfigurationError(
            f"slot {info.name} was created with two_phase: it sends prepared transactions before they are committed",
            code="slot-two-phase",
            cure="make it again without two_phase, once its events are delivered: cdc-outbox slot recover",
            slot=info.name,
        )
    if info.wal_status == LOST and not lost_is_fine:
        raise StreamGap(
            f"slot {info.name} is lost: the server has removed WAL that it still needed",
            code="slot-lost",
            cure="what it did not send can only be read from the table again: cdc-outbox slot recover makes a new slot and "
            "sends every row that is still there (run --on-slot-lost recover does it by itself); consumers drop what they know",
            slot=info.name,
        )


def require_idle(info: SlotInfo) -> None:
    """Raise SlotBusy while a process streams from the slot."""
    if info.active:
        raise SlotBusy(
            f"slot {info.name} is in use: the server process that streams from it is pid {info.active_pid}",
            code="slot-busy",
            cure="stop the relay that uses it; pg_stat_activity has the address of that process",
            slot=info.name,
        )


def create(session: ReplicationSession, name: str, *, temporary: bool = False, snapshot: bool = False) -> CreatedSlot:
    """Create the slot; with `snapshot`, export a snapshot of exactly the transactions that the slot will not send.

    The server waits for every transaction that is running now, as long as that takes; a stop interrupts it (Stopped).
    Raises ConfigurationError (no free slot, wal_level, name taken) or AccessRefused.
    """
    text = [
        "CREATE_REPLICATION_SLOT",
        quote_identifier(name),
        *(["TEMPORARY"] if temporary else []),
        "LOGICAL",
        PLUGIN,
    ]
    choice = "export" if snapshot else "nothing"
    if session.server_version >= _SNAPSHOT_OPTION_IN_PARENTHESES:
        text.append(f"(SNAPSHOT {quote_literal(choice)})")
    else:
        text.append("EXPORT_SNAPSHOT" if snapshot else "NOEXPORT_SNAPSHOT")
    with session.connection.long_query():
        rows = session.rows(" ".join(text))
    created, consistent_point, exported, _plugin = rows[0]
    return CreatedSlot(created or name, parse_lsn(consistent_point or "0/0"), exported)


def lock_creation(session: ReplicationSession, name: str, lost_pid: int | None = None) -> bool:
    """Take the lock under which a slot of this name is created, until the session ends. False: another process has it.

    `lost_pid`: the server process of a session of this relay that had the lock and was lost. The server keeps it, with the lock
    and a temporary slot, until it finds that its client is gone; so it is ended here.
    """
    key = zlib.crc32(name.encode()) - 2**31
    take = f"SELECT pg_catalog.pg_try_advisory_lock({_CREATION_LOCK}, {key})"
    if session.rows(take) == [("t",)]:
        return True
    if lost_pid is None:
        return False
    session.rows(
        f"SELECT pg_catalog.pg_terminate_backend(l.pid, {_TERMINATION_MILLISECONDS})"  # noqa: S608 - numbers
        " FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database"
        f" WHERE l.locktype = 'advisory' AND l.granted AND l.pid = {lost_pid} AND l.classid::int8 = {_CREATION_LOCK}"
        f" AND l.objid::int8 = {key % 2**32} AND d.datname = pg_catalog.current_database()"
    )
    return session.rows(take) == [("t",)]


def require_free(session: ReplicationSession, name: str, needed: int) -> None:
    """Raise ConfigurationError unless `needed` more slots can be created. Checked before a table is sent."""
    rows = session.rows(
        "SELECT pg_catalog.current_setting('max_replication_slots')::int8 - pg_catalog.count(*)"
        " FROM pg_catalog.pg_replication_slots"
    )
    free = int(rows[0][0] or 0)
    if free < needed:
        raise ConfigurationError(
            f"slot {name} cannot be made: replication slots that are free: {free}, needed for a moment: {needed}",
            code="slots-exhausted",
            cure=f"raise max_replication_slots by {needed - free} and restart PostgreSQL, or drop slots that are not used: "
            "which ones pg_replication_slots shows; then SELECT pg_drop_replication_slot('NAME')",
            slot=name,
        )


def make_permanent(session: ReplicationSession, source: str, name: str) -> None:
    """Copy the temporary slot `source` to the permanent `name`, at the same position. Raises CdcOutboxError."""
    arguments = f"{quote_literal(source)}, {quote_literal(name)}, false"
    session.rows(f"SELECT slot_name FROM pg_catalog.pg_copy_logical_replication_slot({arguments})")  # noqa: S608 - quoted


def mark(session: ReplicationSession) -> Lsn:
    """Commit a transaction that every slot decodes and no relay sends: a logical message. Returns an LSN behind its end.

    Its WAL is flushed, and no synchronous standby is waited for.
    """
    session.run("SET synchronous_commit = local")
    session.rows(f"SELECT pg_catalog.pg_logical_emit_message(true, {quote_literal(MARK)}, ''::pg_catalog.text)")
    return parse_lsn(session.rows("SELECT pg_catalog.pg_current_wal_insert_lsn()::text")[0][0] or "0/0")


def decode(session: ReplicationSession, name: str, publication: str, upto: Lsn) -> None:
    """Decode the slot up to `upto` and confirm nothing: the server counts the transactions (`SlotInfo.decoded`)."""
    names = quote_literal(quote_identifier(publication))
    arguments = f"{quote_literal(name)}, {quote_literal(format_lsn(upto))}, 1"
    session.rows(
        f"SELECT FROM pg_catalog.pg_logical_slot_peek_binary_changes({arguments},"
        f" 'proto_version', '1', 'publication_names', {names})"
    )


def require_failover(connection: Connection) -> None:
    """Raise ConfigurationError when this server cannot synchronize slots to standbys."""
    if connection.info.server_version < _FAILOVER_SINCE:
        raise ConfigurationError(
            "--failover needs PostgreSQL 17: before, a slot ends with its server",
            code="failover-unsupported",
            cure="leave --failover out, and see docs/how-to/fail-over.md on what to do after a failover",
        )


def make_failover(session: ReplicationSession, name: str) -> None:
    """Set failover = true (the slot is synchronized to standbys) unless it is set, or a process streams from the slot.

    A copied slot does not have it, nor has a slot created without --failover.
    """
    state = f"SELECT failover, active FROM pg_catalog.pg_replication_slots WHERE slot_name = {quote_literal(name)}"  # noqa: S608 - quoted
    if session.rows(state) == [("f", "f")]:
        session.run(f"ALTER_REPLICATION_SLOT {quote_identifier(name)} (FAILOVER true)")


def drop(connection: Connection | ReplicationSession, name: str) -> None:
    """Drop the slot. Raises SlotBusy while a process streams from it, ConfigurationError if it does not exist, AccessRefused
    with the cure.
    """
    statement = f"SELECT pg_catalog.pg_drop_replication_slot({quote_literal(name)})"
    if isinstance(connection, ReplicationSession):
        connection.rows(statement)
        return
    try:
        with translated():
            connection.execute(statement.encode())
    except AccessRefused as error:
        acting = connection.role
        role = quote_identifier(acting)
        raise AccessRefused(
            f"role {acting} may not drop a slot: {error.message}",
            code="replication-privilege",
            cure=f"as an administrator: ALTER ROLE {role} REPLICATION; (RDS: GRANT rds_replication TO {role};)",
            slot=name,
        ) from error


def missing(name: str) -> ConfigurationError:
    """The error for a missing slot with --no-create-slot."""
    return ConfigurationError(
        f"slot {name} does not exist, and --no-create-slot forbids to make it",
        code="slot-missing",
        cure="cdc-outbox slot create, or start without --no-create-slot",
        slot=name,
    )
