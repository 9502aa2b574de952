"""The outbox of a Django database as the catalog describes it: the migration's objects, the table, the slots.

In: the alias of a database. Out: `Installed`, `Slot`.
Never: a change; a privilege beyond those of every role (PostgreSQL manual: 52 System Catalogs; 52.20 pg_replication_slots).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from django.db import connections

_OBJECTS: Final = """
SELECT to_regclass('public.outbox') IS NOT NULL,
    EXISTS (SELECT FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid = p.pronamespace
        WHERE n.nspname = 'public' AND p.proname = 'outbox_emit'),
    EXISTS (SELECT FROM pg_catalog.pg_publication_tables
        WHERE pubname = 'cdc_outbox' AND schemaname = 'public' AND tablename = 'outbox')
"""

_SLOTS: Final = """
SELECT slot_name::text, active, coalesce(wal_status, 'unknown'),
    pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
FROM pg_catalog.pg_replication_slots
WHERE plugin = 'pgoutput' AND database = pg_catalog.current_database() AND NOT temporary
ORDER BY slot_name
"""


@dataclass(frozen=True, slots=True)
class Installed:
    """The objects of the migration that exist."""

    table: bool
    function: bool
    publication: bool

    @property
    def missing(self) -> list[str]:
        """Those that do not."""
        found = {
            "table public.outbox": self.table,
            "function public.outbox_emit": self.function,
            "publication cdc_outbox with the table": self.publication,
        }
        return [name for name, exists in found.items() if not exists]


@dataclass(frozen=True, slots=True)
class Slot:
    """A logical replication slot of this database that a relay can stream from."""

    name: str
    active: bool
    wal_status: str
    lag_bytes: int | None
    """WAL that is written and not confirmed."""


def read_installed(alias: str) -> Installed:
    """Look the objects up."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_OBJECTS)
        return Installed(*cursor.fetchone())


def read_slots(alias: str) -> list[Slot]:
    """Look the slots up. Needs a primary server."""
    with connections[alias].cursor() as cursor:
        cursor.execute(_SLOTS)
        return [Slot(*row) for row in cursor.fetchall()]
