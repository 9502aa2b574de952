"""Upgrade of a database's SQL objects to the version of this program.

In: a DSN and names. Out: an `Upgrade`: the installed version, and the script that upgrades it to the newest.
Never: a second set of scripts. `sql/outbox.sql` upgrades any version to its own, and changes nothing if it was run before;
this finds the payload type that it has to be rendered for, and whether it is needed. The version is in the table's comment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.commands.install import PAYLOAD_TYPES, SQL_VERSION, InstallOptions, render_install
from cdc_outbox.commands.installation import read_installation
from cdc_outbox.errors import ConfigurationError

UNKNOWN: Final = 0
"""Version of a table without a version in its comment."""


@dataclass(frozen=True, slots=True)
class Upgrade:
    """`version` is installed; `script` upgrades it to `newest`. None: there is nothing to do."""

    version: int
    newest: int
    options: InstallOptions
    script: str | None


def find_upgrade(dsn: str, options: InstallOptions) -> Upgrade:
    """Find the installed version; `options.payload_type` is ignored.

    Raises ConfigurationError when there is no such table, its payload has another type than the script knows, or it was
    installed by a newer program; Unreachable.
    """
    found = read_installation(dsn, options)
    if not found.table:
        raise ConfigurationError(
            f"table {options.table} does not exist, so there is nothing to upgrade",
            code="upgrade",
            cure="cdc-outbox sql install --apply; or name the table with --table",
            table=str(options.table),
        )
    payload_type = next((known for known in PAYLOAD_TYPES if known == found.payload_type), None)
    if payload_type is None:
        raise ConfigurationError(
            f"the payload of table {options.table} is of type {found.payload_type}, for which there is no script",
            code="upgrade",
            cure=f"change the column to one of {', '.join(PAYLOAD_TYPES)}, or keep the table as it is: the relay may know it",
            table=str(options.table),
        )
    version = found.version or UNKNOWN
    if version > SQL_VERSION:
        raise ConfigurationError(
            f"table {options.table} was installed by a newer cdc-outbox: it has version {version}, this program {SQL_VERSION}",
            code="upgrade",
            cure="upgrade the program first",
            table=str(options.table),
        )
    options = replace(options, payload_type=payload_type)
    return Upgrade(version, SQL_VERSION, options, None if found.complete else render_install(options))
