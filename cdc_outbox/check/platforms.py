"""Commands that set a parameter or grant replication, on PostgreSQL itself and on each managed service.

In: a connection, to identify the platform; a setting or a role. Out: the command for this platform, in one line.
Never: a change; a command of another platform.

A platform is identified by the roles that the service creates for administrators; every role can read pg_roles. Services'
own manuals: Amazon RDS and Aurora, "Working with parameter groups"; Google Cloud SQL, "Configure database flags"; Azure
Database for PostgreSQL, "Server parameters"; Supabase, "Custom Postgres config"; Neon, "Logical replication".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc_outbox.identifiers import quote_identifier, quote_literal
from cdc_outbox.postgres.connect import Connection

_MEBIBYTE: Final = 1024 * 1024

_BYTES: Final = frozenset({"max_slot_wal_keep_size"})
"""Settings that are sizes: services expect a number of megabytes, which is PostgreSQL's unit of these settings."""


@dataclass(frozen=True, slots=True)
class Platform:
    """A platform. `parameter`: template of the command that sets a parameter, with `{name}` and `{value}`."""

    name: str
    parameter: str
    logical: str
    """The command that sets wal_level to logical."""
    replication: str = "ALTER ROLE {role} REPLICATION;"
    """Template of the command that lets a role stream, with `{role}`."""

    def set(self, name: str, value: int | str, *, restart: bool = False) -> str:
        """Set a parameter of the server. Sizes are given in bytes."""
        shown = self._shown(name, value)
        after = self._after(restart)
        return f"{self.name}: {self.parameter.format(name=name, value=shown)}{after}"

    def grant_replication(self, role: str) -> str:
        """The command that lets a role stream."""
        return f"{self.name}, as an administrator: {self.replication.format(role=quote_identifier(role))}"

    def make_logical(self) -> str:
        """The command that enables logical decoding."""
        return f"{self.name}: {self.logical}"

    def _shown(self, name: str, value: int | str) -> str:
        if name in _BYTES and isinstance(value, int):
            megabytes = value // _MEBIBYTE
            return quote_literal(f"{megabytes}MB") if self is POSTGRESQL else str(megabytes)
        return quote_literal(str(value)) if self is POSTGRESQL else str(value)

    def _after(self, restart: bool) -> str:
        if self is POSTGRESQL:
            return " then restart it" if restart else " SELECT pg_reload_conf();"
        return ", then restart it" if restart and self is not CLOUD_SQL else ""


POSTGRESQL: Final = Platform(
    "PostgreSQL",
    "ALTER SYSTEM SET {name} = {value};",
    "ALTER SYSTEM SET wal_level = 'logical'; then restart it",
)
RDS: Final = Platform(
    "Amazon RDS",
    "aws rds modify-db-parameter-group --db-parameter-group-name GROUP "
    "--parameters ParameterName={name},ParameterValue={value},ApplyMethod=pending-reboot",
    "aws rds modify-db-parameter-group --db-parameter-group-name GROUP "
    "--parameters ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot; then reboot the instance",
    "GRANT rds_replication TO {role};",
)
AURORA: Final = Platform(
    "Amazon Aurora",
    "aws rds modify-db-cluster-parameter-group --db-cluster-parameter-group-name GROUP "
    "--parameters ParameterName={name},ParameterValue={value},ApplyMethod=pending-reboot",
    "aws rds modify-db-cluster-parameter-group --db-cluster-parameter-group-name GROUP "
    "--parameters ParameterName=rds.logical_replication,ParameterValue=1,ApplyMethod=pending-reboot; then reboot the writer",
    "GRANT rds_replication TO {role};",
)
CLOUD_SQL: Final = Platform(
    "Cloud SQL",
    "gcloud sql instances patch INSTANCE --database-flags={name}={value} (name every other flag that is set, too: the list "
    "is replaced)",
    "gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on (name every other flag that is set, "
    "too: the list is replaced; the instance restarts)",
)
AZURE: Final = Platform(
    "Azure Database for PostgreSQL",
    "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER --name {name} --value {value}",
    "az postgres flexible-server parameter set --resource-group GROUP --server-name SERVER --name wal_level --value logical; "
    "then az postgres flexible-server restart --resource-group GROUP --name SERVER",
)
SUPABASE: Final = Platform(
    "Supabase",
    "supabase --experimental --project-ref PROJECT postgres-config update --config {name}={value}",
    "wal_level is logical there from the beginning: is --dsn that of the database itself, and not of the pooler?",
)
NEON: Final = Platform(
    "Neon",
    "{name} is set by Neon: ask its support for {value}",
    "in the console: Settings, Logical Replication, Enable (for all databases of the project, and for good)",
    "GRANT neon_superuser TO {role}; or make the role in the console, which does it",
)

PLATFORMS: Final = (POSTGRESQL, RDS, AURORA, CLOUD_SQL, AZURE, SUPABASE, NEON)

_BY_ROLE: Final = (
    ("neon_superuser", NEON),
    ("supabase_admin", SUPABASE),
    ("cloudsqlsuperuser", CLOUD_SQL),
    ("azure_pg_admin", AZURE),
    ("rds_superuser", RDS),
)
"""Roles that exist on one platform only, in the order in which they are looked up."""


def identify(connection: Connection) -> Platform:
    """Identify the platform; PostgreSQL itself if no known role exists."""
    rows = connection.execute("SELECT rolname FROM pg_catalog.pg_roles").fetchall()
    roles = {str(name) for (name,) in rows}
    found = next((platform for role, platform in _BY_ROLE if role in roles), POSTGRESQL)
    if found is RDS and _is_aurora(connection):
        return AURORA
    return found


def _is_aurora(connection: Connection) -> bool:
    row = connection.execute("SELECT pg_catalog.to_regproc('aurora_version') IS NOT NULL").fetchone()
    return row is not None and bool(row[0])
