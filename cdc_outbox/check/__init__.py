"""Preflight of everything that `run` needs: `run_check`.

report.py         what was found, as lines and as JSON
configuration.py  the settings, without a server
database.py       the server: version, wal_level, free slots and walsenders, limits on WAL and time
source.py         tables, publication, slot
resharding.py     slots of another number of shards
kept_rows.py      rows that stay in the table: the right to prune them, rows older than the slot
recent.py         the newest rows as records: which topics, how large
cluster.py        Kafka: brokers, topics, privileges, limits
platforms.py      the commands of a cure, for PostgreSQL itself and for each managed service

In: `Settings`, as `run` takes them. Out: `Report`. Never: an end at the first failure, or a change.
The checks call the functions that the relay calls before it streams.
"""

from __future__ import annotations

from functools import partial

from cdc_outbox.check import cluster, configuration, database, kept_rows, platforms, recent, resharding, source
from cdc_outbox.check.report import Report
from cdc_outbox.config.cures import complete
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.postgres import connect, conninfo, publication, server, slot
from cdc_outbox.shutdown import Stop

_BEHIND_THE_CONNECTION = (
    "database.version",
    "database.primary",
    "database.wal-level",
    "database.free-slots",
    "database.free-walsenders",
    "database.replication",
    "database.wal-limit",
    "database.timeouts",
    "database.clock",
    "database.transactions",
    "database.other-slots",
    "table.exists",
    "table.columns",
    "table.select",
    "table.writers",
    "table.function",
    "publication.table",
    "publication.columns",
    "slot.state",
    "slot.wal",
    "slot.failover",
    resharding.CHECK,
    "slot.older-rows",
    "table.attached",
    "table.events",
)


def run_check(settings: Settings, stop: Stop, *, offline: bool = False) -> Report:
    """Check everything; `offline`: the settings only. Raises Stopped."""
    report = Report(complete=partial(complete, settings=settings))
    properties = configuration.check_configuration(settings, report)
    if offline:
        return report
    newest = _check_postgres(settings, stop, report)
    _check_kafka(settings, properties, newest, report)
    return report


def _check_kafka(
    settings: Settings, properties: dict[str, str] | None, newest: recent.Recent | None, report: Report
) -> None:
    if properties is None:
        report.not_checked("librdkafka does not take its settings", "kafka.reach", *cluster.CHECKS)
        return
    kafka = cluster.reach(settings, properties, report)
    if kafka is None:
        report.not_checked("Kafka cannot be reached", *cluster.CHECKS)
    else:
        cluster.check_topics(kafka, settings, properties, newest, report)


def _check_postgres(settings: Settings, stop: Stop, report: Report) -> recent.Recent | None:
    """Run all checks of PostgreSQL over one connection. Returns the newest rows; None without a connection."""
    try:
        dsn = settings.dsn.reveal()
        with connect.open_connection(dsn, stop, lock_timeout=publication.LOCK_SECONDS) as connection:
            _say_connected(connection, report)
            catalog = database.Server(
                platforms.identify(connection),
                server.current_lsn(connection),
                slot.inspect(connection, settings.slot),
            )
            database.check_server(connection, settings, catalog, report)
            database.check_login(dsn, connection, catalog.platform, stop, report)
            shapes = source.check_tables(connection, settings, catalog, report)
            source.check_slot(connection, settings, catalog, report)
            resharding.check_resharding(connection, settings, catalog, report)
            kept_rows.check_kept_rows(connection, settings, shapes, catalog, report)
            newest = recent.read_recent(connection, settings, shapes)
            recent.check_events(newest, report)
            return newest
    except CdcOutboxError as error:
        if not settings.dsn.reveal():
            error.message += (
                f" (without --dsn, libpq's environment and defaults count: {conninfo.environment_of_libpq()})"
            )
        report.fail_with("database.connection", error)
        reported = {finding.check for finding in report.findings}
        behind = (*_BEHIND_THE_CONNECTION, *((kept_rows.PRUNE,) if settings.prune_after is not None else ()))
        report.not_checked(
            "there is no connection to PostgreSQL", *(check for check in behind if check not in reported)
        )
        return None


def _say_connected(connection: connect.Connection, report: Report) -> None:
    info, role = connection.info, connection.role
    acting = "" if role == info.user else f", acting as {role}"
    report.ok("database.connection", f"{info.host}:{info.port}, database {info.dbname}, role {info.user}{acting}")
