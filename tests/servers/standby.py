"""A physical standby of an `EmbeddedPostgres`, that keeps copies of the primary's failover slots and can be promoted.

In: a running primary, and where to reach it (a proxy, say). Out: a server like any other, in recovery until `promote()`.
Never: synchronous replication; whether commits wait for this standby is the test's to set, on the primary.

PostgreSQL manual: 26.2 Log-Shipping Standby Servers; 47.2.3 Replication Slot Synchronization; pg_basebackup.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING, Final

import psycopg
from psycopg.conninfo import make_conninfo

from cdc_outbox.demo.binaries import reachable_binaries, server_environment
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.servers.client_programs import folder_of
from tests.servers.place import data_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PHYSICAL_SLOT: Final = "standby"
"""The primary's slot for this standby: what `synchronized_standby_slots` names."""

_PROMOTE_SECONDS: Final = 30.0


class Standby(EmbeddedPostgres):
    """Begins as a copy of `primary`, with the same superuser and password. `upstream`: host and port to follow it by."""

    def __init__(
        self,
        primary: EmbeddedPostgres,
        *,
        upstream: tuple[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(bin_dir=primary.bin_dir, parent=data_folder())
        self._primary = primary
        self._password = primary._password  # the copy has the primary's roles
        host, port = upstream or ("127.0.0.1", primary.port)
        self._upstream = make_conninfo(primary.dsn, host=host, port=port, dbname="postgres", application_name="standby")
        self._following = {
            "hot_standby_feedback": "on",
            "sync_replication_slots": "on",
            "primary_conninfo": self._upstream.replace("'", "''"),
            "primary_slot_name": PHYSICAL_SLOT,
            "wal_retrieve_retry_interval": "200ms",
            **(settings or {}),
        }

    def promote(self) -> None:
        """Make it a primary; returns when it takes writes."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, %s)", [int(_PROMOTE_SECONDS)])

    def wait_for_copy(self, slot: str, *, past: str = "0/0", seconds: float = 30.0) -> None:
        """Wait until the copy of a slot would outlive a promotion, and has confirmed up to `past`."""
        state = (
            "SELECT true FROM pg_replication_slots WHERE slot_name = %s AND synced AND NOT temporary"
            " AND confirmed_flush_lsn >= %s::pg_lsn"
        )
        deadline = time.monotonic() + seconds
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while connection.execute(state, [slot, past]).fetchone() is None:
                assert time.monotonic() < deadline, f"slot {slot} has no copy on the standby\n{self._log_tail()}"
                time.sleep(0.05)

    def _fill(self, folder: Path) -> None:
        """A base backup instead of a new cluster."""
        with psycopg.connect(self._primary.dsn, autocommit=True) as connection:
            there = "SELECT FROM pg_replication_slots WHERE slot_name = %(slot)s"
            connection.execute(
                f"SELECT pg_create_physical_replication_slot(%(slot)s, true) WHERE NOT EXISTS ({there})".encode(),
                {"slot": PHYSICAL_SLOT},
            )
        if self._account:
            os.chown(folder, self._account.uid, self._account.gid)
        copier = folder_of("pg_basebackup", self.bin_dir)
        if copier != self.bin_dir:
            copier = reachable_binaries(copier, self._account)
        backup = [copier / "pg_basebackup", "--pgdata", folder / "data", "--dbname", self._upstream]
        subprocess.run(
            [*backup, "--checkpoint", "fast", "--wal-method", "stream", "--slot", PHYSICAL_SLOT, "--no-sync"],
            cwd=folder,
            env=server_environment(),
            capture_output=True,
            check=True,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        with (folder / "data" / "postgresql.auto.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in self._following.items())
        (folder / "data" / "standby.signal").touch()
