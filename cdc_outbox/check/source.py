"""Checks of the event source: the outbox tables, the publication, the slot.

In: a short connection, `Settings`. Out: lines `table.…`, `publication.…`, `slot.…`; the tables as the catalog has them.
Never: a change; a rule of its own: the checks call the functions that `run` calls before it streams.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from cdc_outbox.check.database import MUCH_WAL_BYTES, Server
from cdc_outbox.check.platforms import Platform
from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import size_text
from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError
from cdc_outbox.identifiers import quote_identifier
from cdc_outbox.postgres import publication, published_columns, slot, table_rows
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.records.mapping import Mappings, used_columns

_TABLE_CHECKS: Final = (
    "table.columns",
    "table.select",
    "table.writers",
    "table.function",
    "table.rows",
    "publication.table",
    "publication.columns",
)

UNRESERVED: Final = "unreserved"


def check_tables(
    connection: Connection, settings: Settings, catalog: Server, report: Report
) -> list[table_rows.TableShape]:
    """Check each outbox table and its publication. Returns the shapes of the tables whose rows can become events."""
    published = _inspect(connection, settings, report)
    good = []
    found = []
    for name in settings.tables:
        try:
            table = publication.find_table(connection, name)
        except CdcOutboxError as error:
            report.fail_with("table.exists", error)
            report.not_checked(f"there is no table {name}", *_TABLE_CHECKS)
            continue
        found.append(table)
        report.ok("table.exists", f"{name}{', partitioned' if table.partitioned else ''}")
        shape = table_rows.SnapshotRows(connection).shape(name)
        if _check_columns(settings, shape, report):
            good.append(shape)
        _check_select(connection, settings, shape, catalog, report)
        with report.judging("table.writers"):
            _check_writers(connection, settings, shape, report)
        with report.judging("table.function"):
            _check_function(connection, shape, report)
        with report.judging("table.rows"):
            _check_rows(connection, settings, shape, catalog, report)
        _check_published(connection, settings, table, published, catalog, report)
    if not settings.tables:
        with report.judging("publication.table"):
            publication.require_published(published, settings.publication, [])
            report.ok("publication.table", "events are logical messages, which no publication filters")
    if published is not None and (others := publication.other_tables(published, found)) and settings.tables:
        report.warn(
            "publication.others",
            f"publication {settings.publication} also sends {', '.join(map(str, others))}, which no --table names: their rows "
            "are decoded, counted and ignored",
            "use a publication for the outbox alone; or name the tables with --table, if they are outbox tables",
        )
    return good


def check_slot(connection: Connection, settings: Settings, catalog: Server, report: Report) -> None:
    """Check the slot: its plugin and database, its WAL, and the WAL kept for it."""
    info = catalog.slot
    if info is None:
        _check_first_start(connection, settings, report)
        report.not_checked("there is no slot yet", "slot.wal")
        return
    recovers = settings.on_slot_lost == "recover"
    check = "slot.state"
    try:
        slot.require_usable(info, lost_is_fine=recovers)
    except ConfigurationError as error:
        why = f" ({info.invalidation_reason})" if info.invalidation_reason else ""
        report.fail(check, error.message + why, error.cure)
        report.not_checked("it cannot be streamed from", "slot.wal", "slot.failover")
        return
    if info.wal_status == slot.LOST:
        report.warn(
            check,
            f"slot {info.name} is lost: the next start replaces it and sends every row in the table",
            "start cdc-outbox run (--on-slot-lost recover is set): consumers drop events that they have processed",
        )
    elif info.active and settings.on_slot_busy == "exit":
        report.warn(
            check,
            f"{info.name} is in use by pid {info.active_pid}: with --on-slot-busy exit, run ends with 75 beside it",
            "stop that relay first; or leave --on-slot-busy exit out: then this one stands by",
        )
    elif info.active:
        report.ok(check, f"{info.name}, in use: pid {info.active_pid} streams from it")
    else:
        report.ok(check, f"{info.name}, no relay streams from it")
    _check_kept(info, catalog, report)
    _check_failover(connection, settings, info, catalog, report)


def _inspect(connection: Connection, settings: Settings, report: Report) -> publication.Publication | None:
    try:
        return publication.inspect(connection, settings.publication)
    except CdcOutboxError as error:
        report.fail_with("publication.table", error)
        return None


def _check_columns(settings: Settings, shape: table_rows.TableShape, report: Report) -> bool:
    try:
        Mappings(settings).rows(shape.relation)
    except CdcOutboxError as error:
        report.fail_with("table.columns", error)
        return False
    names = [name for name, _ in shape.columns]
    report.ok("table.columns", f"{shape.table}: {', '.join(used_columns(settings, names))}")
    return True


def _check_select(
    connection: Connection, settings: Settings, shape: table_rows.TableShape, catalog: Server, report: Report
) -> None:
    """Check SELECT: it is needed to send the rows that are older than the slot, and to recover a lost slot."""
    check = "table.select"
    try:
        table_rows.SnapshotRows(connection).require_readable(shape)
    except AccessRefused as error:
        if catalog.slot is None and settings.create_slot and settings.snapshot:
            report.fail(
                check,
                f"{error.message}; and a first start sends the rows that are in the table",
                error.cure,
                "or --no-snapshot, if those rows need not be sent",
            )
        elif settings.on_slot_lost == "recover":
            report.fail(check, f"{error.message}; and --on-slot-lost recover reads them from the table", error.cure)
        else:
            report.warn(
                check,
                f"{error.message}; streaming does not need it, but a lost slot could not be recovered",
                error.cure,
            )
    except CdcOutboxError as error:
        report.fail_with(check, error)
    else:
        report.ok(check, f"role {shape.role} may read {shape.table}")


_WRITERS: Final = """
SELECT DISTINCT r.rolname
  FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a, pg_catalog.pg_roles r
 WHERE c.oid = %(table)s::int8::oid AND a.privilege_type = 'INSERT' AND r.oid = a.grantee
   AND NOT pg_catalog.has_column_privilege(r.oid, c.oid, %(column)s, 'SELECT')
 ORDER BY 1
"""


def _check_writers(connection: Connection, settings: Settings, shape: table_rows.TableShape, report: Report) -> None:
    """Check for roles that may INSERT but not read the id: most ORMs send INSERT ... RETURNING."""
    names = [name for name, _ in shape.columns]
    column = next((name for name in settings.columns.id if name in names), None)
    if column is None:
        report.not_checked(f"{shape.table} has no column for the id", "table.writers")
        return
    found = [str(role) for (role,) in connection.execute(_WRITERS, {"table": shape.oid, "column": column})]
    if found:
        report.warn(
            "table.writers",
            f"{', '.join(found)} may INSERT into {shape.table}, but not read its {column}: INSERT ... RETURNING, which most "
            "ORMs send, is refused",
            f"GRANT SELECT ({quote_identifier(column)}) ON TABLE {shape.table.quoted} TO "
            f"{', '.join(map(quote_identifier, found))};",
        )
    else:
        report.ok("table.writers", f"roles that may INSERT into {shape.table} may read the id")


_FOREIGN_FUNCTIONS: Final = """
SELECT p.oid::pg_catalog.regprocedure::pg_catalog.text, pg_catalog.pg_get_userbyid(p.proowner),
       pg_catalog.pg_get_userbyid(c.relowner)
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_proc p ON p.pronamespace = c.relnamespace AND p.proname IN (c.relname || '_emit', c.relname || '_delete')
 WHERE c.oid = %s::int8::oid AND p.prosecdef AND p.proowner <> c.relowner
 ORDER BY 1
"""


def _check_function(connection: Connection, shape: table_rows.TableShape, report: Report) -> None:
    """Check that a SECURITY DEFINER function has the table's owner: the table's triggers run with the same rights."""
    found = connection.execute(_FOREIGN_FUNCTIONS, (shape.oid,)).fetchall()
    if not found:
        report.ok("table.function", f"functions of {shape.table} run with the rights of its owner")
    for function, owner, table_owner in found:
        report.warn(
            "table.function",
            f"function {function} runs with the rights of {owner}, and table {shape.table} belongs to {table_owner}: its "
            f"triggers run with the rights of {owner}",
            f"ALTER FUNCTION {function} OWNER TO {quote_identifier(str(table_owner))};",
        )


def _check_rows(
    connection: Connection, settings: Settings, shape: table_rows.TableShape, catalog: Server, report: Report
) -> None:
    """Check tables whose rows are deleted as they are inserted: only the stream can send them."""
    check = "table.rows"
    if not table_rows.SnapshotRows(connection).deletes_at_once(shape):
        report.ok(check, f"rows of {shape.table} stay until they are pruned")
        return
    reported = f"rows of {shape.table} are deleted as they are inserted"
    if catalog.slot is None:
        cure = "cdc-outbox slot create, or start the relay, before the first event is written"
        report.warn(
            check, f"{reported}, and there is no slot yet: events committed before it exists are never sent", cure
        )
    elif settings.on_slot_lost == "recover":
        report.warn(
            check,
            f"{reported}: --on-slot-lost recover finds no rows, so it loses the events that the lost slot had not delivered",
            "leave --on-slot-lost out, so that a lost slot stops the relay; or keep rows: "
            f"DROP TRIGGER {table_rows.DELETE_TRIGGER} ON {shape.table.quoted};",
        )
    else:
        report.ok(check, f"{reported}: undelivered events are in the WAL only")


def _check_published(
    connection: Connection,
    settings: Settings,
    table: publication.Table,
    published: publication.Publication | None,
    catalog: Server,
    report: Report,
) -> None:
    name = settings.publication
    before = report.count("fail")
    with report.judging("publication.table"):
        publication.require_published(
            published, name, [table], older_slot=catalog.slot is not None, own=settings.shard_filter
        )
        which = "every row" if settings.shard is None else f"every row of shard {settings.shard}"
        report.ok("publication.table", f"publication {name} sends {which} inserted into {table.name}")
    if published is None or report.count("fail") > before:
        report.not_checked("the publication does not send the table correctly", "publication.columns")
        return
    with report.judging("publication.columns"):
        published_columns.require_columns(
            connection, published, [table], partial(used_columns, settings), older_slot=catalog.slot is not None
        )
        report.ok("publication.columns", f"every column of {table.name} that records need is published")


def _check_first_start(connection: Connection, settings: Settings, report: Report) -> None:
    check = "slot.state"
    if not settings.create_slot:
        report.fail_with(check, slot.missing(settings.slot))
    elif not settings.tables:
        report.ok(check, f"there is no slot {settings.slot} yet: a first start creates it; older messages are not sent")
    elif settings.snapshot:
        report.ok(
            check, f"there is no slot {settings.slot} yet: a first start sends the rows in the table, then creates it"
        )
    else:
        report.warn(
            check,
            f"there is no slot {settings.slot} yet, and with --no-snapshot the rows in the table are never sent",
            "leave --no-snapshot out, if they need to be sent",
        )
    standbys = _standbys(connection)
    if standbys and not settings.failover:
        _warn_of_failover(
            connection, f"there are standbys ({standbys}), and the slot would not be synchronized to them", report
        )
    else:
        report.not_checked("there is no slot yet", "slot.failover")


def _check_kept(info: slot.SlotInfo, catalog: Server, report: Report) -> None:
    check = "slot.wal"
    kept = max(0, catalog.current_lsn - info.restart_lsn) if info.restart_lsn is not None else 0
    safe = "" if info.safe_wal_bytes is None else f", {size_text(info.safe_wal_bytes)} more until it is in danger"
    reported = f"{size_text(kept)} of WAL are kept for it{safe}"
    if info.wal_status == slot.LOST:
        report.ok(check, "no WAL is kept for it any more")
    elif info.wal_status == UNRESERVED:
        report.fail(
            check,
            f"{reported}: it is beyond max_slot_wal_keep_size, and the next checkpoint may lose it",
            "start the relay now, and find out why it falls behind; or raise the limit: "
            + catalog.platform.set("max_slot_wal_keep_size", 2 * max(kept, MUCH_WAL_BYTES)),
        )
    elif kept < MUCH_WAL_BYTES:
        report.ok(check, reported)
    elif info.active:
        report.warn(
            check,
            f"{reported}, although a relay streams from it",
            "is Kafka reachable for it (its log, /readyz?verbose)? Is an old transaction open (database.transactions)?",
        )
    else:
        report.warn(
            check,
            f"{reported}, and no relay streams from it",
            "cdc-outbox run; or, if it is not needed any more: cdc-outbox slot drop",
        )


def _check_failover(
    connection: Connection, settings: Settings, info: slot.SlotInfo, catalog: Server, report: Report
) -> None:
    check = "slot.failover"
    standbys = _standbys(connection)
    if info.failover:
        _check_held_back(connection, standbys, catalog.platform, report)
    elif settings.failover:
        with report.judging(check):
            slot.require_failover(connection)
            report.ok(check, "the next start makes it a failover slot, synchronized to standbys")
    elif standbys:
        _warn_of_failover(
            connection, f"there are standbys ({standbys}), and the slot is not synchronized to them", report
        )
    else:
        report.ok(check, "no standby is known to this server")


def _check_held_back(connection: Connection, standbys: str, platform: Platform, report: Report) -> None:
    """Check that the relay receives only transactions that a standby has received."""
    row = connection.execute("SELECT pg_catalog.current_setting('synchronized_standby_slots', true)").fetchone()
    if standbys and not (row and row[0]):
        report.warn(
            "slot.failover",
            "it is synchronized to standbys, but synchronized_standby_slots is empty: after a failover consumers may have "
            "received events that the new primary does not have",
            f"{platform.set('synchronized_standby_slots', standbys)} (while such a standby is down, no event is sent: "
            "docs/how-to/fail-over.md)",
        )
    else:
        report.ok("slot.failover", "it is synchronized to standbys")


def _warn_of_failover(connection: Connection, subject: str, report: Report) -> None:
    """Warn that after a failover there is no slot: a first start sends every row again, and cannot send deleted ones."""
    try:
        slot.require_failover(connection)
    except ConfigurationError as error:
        cure = error.cure.replace("leave --failover out, and ", "")
    else:
        cure = "cdc-outbox run --failover; and configure the servers as in docs/how-to/fail-over.md"
    report.warn("slot.failover", f"{subject}: a failover would lose it", cure)


def _standbys(connection: Connection) -> str:
    """Names of physical replication slots: standbys use them, and every role may see them."""
    query = "SELECT slot_name FROM pg_catalog.pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary ORDER BY 1"
    return ", ".join(str(name) for (name,) in connection.execute(query))
