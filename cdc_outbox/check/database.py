"""Checks of the server: can it stream, has it a free slot and walsender, and which limits apply while no relay runs?

In: a short connection, `Settings`. Out: lines `database.…`. Never: a change; a slot; a connection kept.

PostgreSQL manual: 19.6 Replication (settings); 52.20 pg_replication_slots; 27.2.4 pg_stat_replication;
52.17 pg_prepared_xacts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from cdc_outbox.check.platforms import Platform
from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import size_text
from cdc_outbox.errors import AccessRefused, CdcOutboxError
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import open_transactions, server, slot
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.shutdown import Stop

OLDEST_VERSION: Final = 140_000
"""The oldest PostgreSQL that the tests run against."""

MUCH_WAL_BYTES: Final = 1024**3
"""WAL kept for a slot, in bytes, above which a warning is given: 64 segments."""

LITTLE_WAL_BYTES: Final = 1024**3
"""Bytes. A busy server writes this much WAL within minutes, so a lower limit loses the slot in a short outage."""

SUGGESTED_WAL_BYTES: Final = 50 * 1024**3
"""Bytes that the cure proposes. The right value depends on the disk's size and on the longest outage of a relay."""

SKEW_SECONDS: Final = 1.0
"""Seconds. Lag and latency compare the two clocks, so a larger difference makes them useless."""

SHORT_TIMEOUT_SECONDS: Final = 5.0
"""Seconds. A lower wal_sender_timeout ends connections over a slow network, or while the relay waits for a busy broker."""

OLD_TRANSACTION_SECONDS: Final = 300.0
"""Seconds. A transaction that has been open for longer holds back every slot's restart LSN."""

SLOTS_OF_A_FIRST_START: Final = 2
"""Slots of a first start: the temporary one, whose snapshot is read, and the permanent one that is copied from it."""


@dataclass(frozen=True, slots=True)
class Server:
    """Facts that the checks share: the platform, and the state of the relay's slot."""

    platform: Platform
    current_lsn: Lsn
    slot: slot.SlotInfo | None


def check_server(connection: Connection, settings: Settings, catalog: Server, report: Report) -> None:
    """Run all checks of the server that need one ordinary connection."""
    platform = catalog.platform
    _check_version(connection, report)
    with report.judging("database.primary"):
        server.require_primary(connection)
        report.ok("database.primary", "it takes writes")
    with report.judging("database.wal-level", platform.make_logical()):
        server.require_logical(connection)
        report.ok("database.wal-level", "logical")
    with report.judging("database.free-slots"):
        _check_free_slots(connection, settings, catalog, report)
    with report.judging("database.free-walsenders"):
        _check_free_walsenders(connection, catalog, report)
    with report.judging("database.wal-limit"):
        _check_wal_limit(connection, platform, report)
    with report.judging("database.timeouts"):
        _check_timeouts(connection, platform, report)
    with report.judging("database.clock"):
        _check_clock(connection, report)
    with report.judging("database.transactions"):
        _check_transactions(connection, catalog, report)
    with report.judging("database.other-slots"):
        _check_other_slots(connection, settings, report)


def check_login(dsn: str, connection: Connection, platform: Platform, stop: Stop, report: Report) -> None:
    """Check that the role may stream: open the session that the relay opens, and close it at once."""
    check = "database.replication"
    role = connection.info.user
    try:
        ReplicationSession(dsn, stop).close()
    except CdcOutboxError as error:
        row = connection.execute(
            "SELECT rolreplication OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = SESSION_USER"
        ).fetchone()
        may_not = isinstance(error, AccessRefused) and row is not None and row[0] is False
        report.fail_with(check, error, *([platform.grant_replication(role)] if may_not else []))
    else:
        report.ok(check, f"role {role} may stream")


def _check_version(connection: Connection, report: Report) -> None:
    version = connection.info.server_version
    shown = str(connection.info.parameter_status("server_version") or version)
    if version < OLDEST_VERSION:
        report.fail(
            "database.version",
            f"PostgreSQL {shown} is older than {OLDEST_VERSION // 10_000}, the oldest that is supported",
            "upgrade the server (pg_upgrade, or the service's own way)",
        )
    else:
        report.ok("database.version", f"PostgreSQL {shown}")


def _check_free_slots(connection: Connection, settings: Settings, catalog: Server, report: Report) -> None:
    used = int(_value(connection, "SELECT count(*) FROM pg_catalog.pg_replication_slots"))
    limit = int(_setting(connection, "max_replication_slots"))
    needed = SLOTS_OF_A_FIRST_START if settings.snapshot and settings.tables else 1
    reported = f"{limit - used} of {limit} replication slots are free"
    cures = (
        catalog.platform.set("max_replication_slots", limit + needed, restart=True),
        "or drop an unused slot: SELECT slot_name, active FROM pg_replication_slots; cdc-outbox slot drop --slot NAME",
    )
    if limit - used >= needed:
        report.ok("database.free-slots", reported)
    elif catalog.slot is None and settings.create_slot:
        report.fail("database.free-slots", f"{reported}, and a first start needs {needed}", *cures)
    else:
        report.warn("database.free-slots", f"{reported}: if the slot is lost, its recovery needs {needed}", *cures)


def _check_free_walsenders(connection: Connection, catalog: Server, report: Report) -> None:
    used = int(_value(connection, "SELECT count(*) FROM pg_catalog.pg_stat_replication"))
    limit = int(_setting(connection, "max_wal_senders"))
    reported = f"{limit - used} of {limit} walsenders are free"
    cures = (
        catalog.platform.set("max_wal_senders", limit + 2, restart=True),
        "or end one that is not needed: SELECT pid, client_addr FROM pg_stat_replication; SELECT pg_terminate_backend(PID);",
    )
    if used < limit:
        report.ok("database.free-walsenders", reported)
    elif catalog.slot is not None and catalog.slot.active:
        report.warn("database.free-walsenders", f"{reported}: a relay that reconnects may find its place taken", *cures)
    else:
        report.fail("database.free-walsenders", reported, *cures)


def _check_wal_limit(connection: Connection, platform: Platform, report: Report) -> None:
    check = "database.wal-limit"
    limit = int(_value(connection, _BYTES_OF_LIMIT))
    cure = platform.set("max_slot_wal_keep_size", SUGGESTED_WAL_BYTES)
    if limit < 0:
        report.warn(
            check,
            "max_slot_wal_keep_size is -1: while no relay runs, WAL is kept until the server's disk is full",
            f"{cure} (as much as the disk can spare: beyond it the slot is lost, but the server keeps running)",
        )
    elif limit < LITTLE_WAL_BYTES:
        report.warn(
            check,
            f"max_slot_wal_keep_size is {size_text(limit)}: after a long outage the relay's slot is lost",
            cure,
        )
    else:
        report.ok(
            check,
            f"max_slot_wal_keep_size is {size_text(limit)}: beyond it the slot is lost, so alert on its safe WAL",
        )


_BYTES_OF_LIMIT: Final = """
SELECT CASE WHEN setting = '-1' THEN -1
            ELSE pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_slot_wal_keep_size')) END
  FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'
"""


def _check_timeouts(connection: Connection, platform: Platform, report: Report) -> None:
    """Check the time-outs that end a connection of a slow relay, or invalidate the slot of a stopped one."""
    check = "database.timeouts"
    idle = _value(connection, "SELECT pg_catalog.current_setting('idle_replication_slot_timeout', true)")
    if idle not in {"", "0"}:
        report.warn(
            check,
            f"idle_replication_slot_timeout is {idle}: if no relay runs for that long, the slot is lost",
            platform.set("idle_replication_slot_timeout", 0),
        )
    sender = float(
        _value(connection, "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'") or 0
    )
    sender /= 1000
    if sender == 0:
        report.warn(
            check,
            "wal_sender_timeout is 0: if the relay's machine vanishes, the server notices it hours later, and until then "
            "no other one can take over",
            platform.set("wal_sender_timeout", "60s" if platform.name == "PostgreSQL" else "60000"),
        )
    elif sender < SHORT_TIMEOUT_SECONDS:
        report.warn(
            check,
            f"wal_sender_timeout is {sender:g} s: a short pause of the network ends the connection",
            platform.set("wal_sender_timeout", "60s" if platform.name == "PostgreSQL" else "60000"),
        )
    elif idle in {"", "0"}:
        report.ok(check, f"wal_sender_timeout is {sender:g} s")


def _check_clock(connection: Connection, report: Report) -> None:
    before = time.time()
    theirs = float(_value(connection, "SELECT extract(epoch FROM pg_catalog.clock_timestamp())"))
    after = time.time()
    skew = theirs - (before + after) / 2
    doubt = (after - before) / 2
    if abs(skew) - doubt > SKEW_SECONDS:
        report.warn(
            "database.clock",
            f"the server's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} this machine's: lag and latency "
            "are wrong by as much",
            "have both follow NTP: timedatectl set-ntp true; chronyc tracking",
        )
    else:
        report.ok("database.clock", f"within {abs(skew) + doubt:.3f} s of this machine's")


def _check_transactions(connection: Connection, catalog: Server, report: Report) -> None:
    """Check for open transactions that have written: they hold a slot back and delay the creation of a new one."""
    check = "database.transactions"
    first = catalog.slot is None
    age = 0.0 if first else OLD_TRANSACTION_SECONDS
    prepared = open_transactions.prepared(connection, older_than=age)
    old = open_transactions.blockers(connection, older_than=age)
    means = "no slot can be created before they end" if first else "the server keeps WAL for the slot until they end"
    if prepared:
        report.warn(
            check,
            f"{means}: " + "; ".join(each.text for each in prepared),
            *(
                f"in database {each.database}: COMMIT PREPARED or ROLLBACK PREPARED {each.literal};"
                for each in prepared
            ),
        )
    if old:
        report.warn(
            check,
            f"{means}: " + "; ".join(each.text for each in old),
            "have the application end them; or SELECT pg_terminate_backend(PID);",
        )
    if not prepared and not old:
        report.ok(check, "none holds the slot back")


_OTHER_SLOTS: Final = """
SELECT slot_name, pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), restart_lsn)::int8
  FROM pg_catalog.pg_replication_slots
 WHERE NOT active AND slot_name <> %s AND restart_lsn IS NOT NULL AND NOT pg_catalog.pg_is_in_recovery()
 ORDER BY 2 DESC
"""


def _check_other_slots(connection: Connection, settings: Settings, report: Report) -> None:
    rows = connection.execute(_OTHER_SLOTS, (settings.slot,)).fetchall()
    much = [(str(name), int(str(kept))) for name, kept in rows if int(str(kept)) >= MUCH_WAL_BYTES]
    if much:
        report.warn(
            "database.other-slots",
            "other slots keep WAL, and no process reads from them: "
            + ", ".join(f"{name} ({size_text(kept)})" for name, kept in much),
            *(f"if nothing needs it any more: SELECT pg_drop_replication_slot('{name}');" for name, _ in much),
        )
    else:
        report.ok("database.other-slots", f"none of the {len(rows)} other unused slots keeps much WAL")


def _value(connection: Connection, query: str) -> str:
    row = connection.execute(query.encode()).fetchone()
    return "" if row is None or row[0] is None else str(row[0])


def _setting(connection: Connection, name: str) -> str:
    row = connection.execute("SELECT pg_catalog.current_setting(%s)", (name,)).fetchone()
    return "" if row is None else str(row[0])
