"""The SQL objects of `install` that a database has, from the catalog.

In: a connection string, the names. Out: `Installation`. Never: a change; a privilege that is needed.
PostgreSQL manual: 52 System Catalogs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cdc_outbox.commands.install import ROLES, SQL_VERSION, InstallOptions
from cdc_outbox.postgres import connect
from cdc_outbox.postgres.table_rows import DELETE_TRIGGER

_INSTALLED: Final = """
SELECT substring(obj_description(c.oid, 'pg_class') FROM 'cdc-outbox:([0-9]+)')::integer,
    (SELECT format_type(atttypid, NULL) FROM pg_attribute WHERE attrelid = c.oid AND attname = 'payload'),
    EXISTS (
        SELECT FROM pg_publication_tables
        WHERE pubname = %(publication)s AND schemaname = %(schema)s AND tablename = %(table)s),
    EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid AND tgname = %(trigger)s AND tgenabled <> 'D')
FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = %(table)s AND c.relkind IN ('r', 'p')
"""

_FUNCTION: Final = """
SELECT coalesce(bool_or(p.proargtypes[1] = 'text'::regtype), false),
    count(*) FILTER (WHERE p.proargtypes[1] IN ('bigint'::regtype, 'uuid'::regtype)) >= 2
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname = %(schema)s AND p.proname = %(function)s
"""

_PUBLICATION: Final = """
SELECT pubinsert AND pubviaroot AND NOT (pubupdate OR pubdelete OR pubtruncate) FROM pg_publication WHERE pubname = %s
"""


@dataclass(frozen=True, slots=True)
class Installation:
    """The installed objects of the three files. None: the table, or the publication, does not exist."""

    table: bool
    version: int | None
    """In the table's comment; None also for a table that `outbox.sql` has not been run on."""
    payload_type: str | None
    function: bool
    """Whether the function exists with a text as key."""
    keys: bool
    """Whether the function also takes an integer or a uuid as key, since version 4."""
    publication: bool
    published: bool
    """Whether the publication has the table."""
    delete_after_insert: bool
    """Whether rows are deleted in the transaction that inserts them."""
    options_as_installed: bool | None
    """Whether the publication publishes insertions only, via the root of a partitioned table."""
    roles: frozenset[str]
    """The roles of `ROLES` that exist. A site may have others of its own."""

    def complete_for(self, source: str) -> bool:
        """Whether `sql install --source …` has made everything: `message` has neither table nor version."""
        return self.function and self.keys and self.publication if source == "message" else self.complete

    @property
    def complete(self) -> bool:
        """Whether `sql install` would change nothing."""
        made = self.version == SQL_VERSION and self.function and self.keys
        return made and self.published and self.options_as_installed is True


def read_installation(dsn: str, options: InstallOptions) -> Installation:
    """Read the catalog; needs no privilege. `options.slot` and `.payload_type` do not matter."""
    names = {
        "schema": options.table.schema,
        "table": options.table.name,
        "function": options.emit_function.name,
        "publication": options.publication,
        "trigger": DELETE_TRIGGER,
    }
    with connect.open_connection(dsn) as connection:
        table = connection.execute(_INSTALLED, names).fetchone()
        function, keys = connection.execute(_FUNCTION, names).fetchone() or (False, False)
        publication = connection.execute(_PUBLICATION, [options.publication]).fetchone()
        roles = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", [list(ROLES)]).fetchall()
    version, payload_type, published, deletes = table or (None, None, False, False)
    return Installation(
        table=table is not None,
        version=version if isinstance(version, int) else None,
        payload_type=None if payload_type is None else str(payload_type),
        function=function is True,
        keys=keys is True,
        publication=publication is not None,
        published=published is True,
        delete_after_insert=deletes is True,
        options_as_installed=None if publication is None else publication[0] is True,
        roles=frozenset(str(role) for (role,) in roles),
    )
