"""System checks of the outbox: `manage.py check --database default`.

In: Django's settings; the databases that Django passes to checks tagged `database`. Out: Django's messages, with a hint each.
Never: an error before the migration is applied, because `migrate` runs these checks too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from django.core import checks
from django.db import connections, router
from django.db.migrations.recorder import MigrationRecorder

from cdc_outbox.app.django.installed import read_installed

LABEL: Final = "cdc_outbox"
MIGRATION: Final = "0001_outbox"


def check_outbox(databases: Sequence[str] | None = None, **_: Any) -> list[checks.CheckMessage]:
    """Compare each database that the app is migrated in with the record of its migrations."""
    found: list[checks.CheckMessage] = []
    for alias in databases or ():
        if router.allow_migrate(alias, LABEL):
            found += _check(alias)
    return found


def _check(alias: str) -> list[checks.CheckMessage]:
    connection = connections[alias]
    if connection.vendor != "postgresql":
        return [
            checks.Error(
                f"the outbox needs PostgreSQL, and the database {alias!r} is one of {connection.vendor}",
                hint="Let a database router refuse the app label 'cdc_outbox' there.",
                id="cdc_outbox.E001",
            )
        ]
    if (LABEL, MIGRATION) not in MigrationRecorder(connection).applied_migrations():
        return [
            checks.Warning(
                f"the outbox's migration is not applied to the database {alias!r}",
                hint=f"Run: python manage.py migrate {LABEL} --database {alias}",
                id="cdc_outbox.W001",
            )
        ]
    missing = read_installed(alias).missing
    if not missing:
        return []
    return [
        checks.Error(
            f"the outbox's migration is applied to the database {alias!r}, but there is no {', no '.join(missing)}",
            hint=f"Run: python manage.py migrate {LABEL} zero --fake --database {alias}"
            f" && python manage.py migrate {LABEL} --database {alias}",
            id="cdc_outbox.E002",
        )
    ]
