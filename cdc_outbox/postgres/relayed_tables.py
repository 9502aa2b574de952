"""Which tables the relay of a slot sends: it declares them by advisory locks, and a prune of any other table is refused.

In: a replication session and the OIDs of its tables; for the prune, a connection and tables. Out: locks; ConfigurationError.
Never: a lock that another process waits for (all are shared), or one that outlives its session.

A slot confirms what its relay has read, also rows of a published table that no --table names: they are ignored, and not
delivered. Without a relay that streams, nothing is declared.
PostgreSQL manual: 13.3.5 Advisory Locks; 54.12 pg_locks (readable for every role).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.postgres.connect import Connection
from cdc_outbox.postgres.publication import Table
from cdc_outbox.postgres.replication import ReplicationSession

_LOCK: Final = 0x63646F74
"""First key of the advisory locks ("cdot"). The second is the table's OID."""

_DECLARED: Final = """
SELECT l.objid::int8
  FROM pg_catalog.pg_locks l
  JOIN pg_catalog.pg_replication_slots s ON s.active_pid = l.pid
  JOIN pg_catalog.pg_database d ON d.oid = l.database
 WHERE s.slot_name = %s AND d.datname = pg_catalog.current_database()
   AND l.locktype = 'advisory' AND l.objsubid = 2 AND l.classid = %s::int8::oid AND l.granted
"""


def declare(session: ReplicationSession, table_oids: Iterable[int]) -> None:
    """Declare the tables whose rows are sent, until the session ends."""
    for oid in table_oids:
        signed = oid - 2**32 if oid >= 2**31 else oid
        session.rows(f"SELECT pg_catalog.pg_advisory_lock_shared({_LOCK}, {signed})")


def require_relayed(connection: Connection, slot_name: str, tables: Iterable[Table]) -> None:
    """Raise ConfigurationError for a table that the relay of the slot, if one streams, does not send."""
    declared = {int(str(oid)) for (oid,) in connection.execute(_DECLARED, (slot_name, _LOCK)).fetchall()}
    for table in tables:
        if declared and table.oid not in declared:
            raise ConfigurationError(
                f"the relay that streams from slot {slot_name} does not send rows of {table.name}, so they are not delivered",
                code="prune-not-relayed",
                cure=f"nothing was deleted. Prune only tables that the relay's --table names; or restart the relay with "
                f"--table {table.name}: rows that it has ignored before are sent by cdc-outbox slot recover",
                table=str(table.name),
            )
