"""`outbox_postgres`: a PostgreSQL server for a test run, with the outbox and the inbox installed.

In: the server binaries that the demo finds. Out: `OutboxPostgres`.
Never: SQL of its own; the scripts are those of `cdc-outbox sql install` and `sql consumer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg import sql

from cdc_outbox.app.django.scripts import read_script
from cdc_outbox.demo.postgres import EmbeddedPostgres

DATABASE: Final = "outbox_test"


@dataclass(frozen=True, slots=True)
class OutboxPostgres:
    """A database with the outbox."""

    dsn: str
    """Connection URL of its owner, a superuser."""

    def url(self, scheme: str) -> str:
        """The same with another scheme, for example SQLAlchemy's `postgresql+psycopg`."""
        return scheme + self.dsn.removeprefix("postgresql")


@contextlib.contextmanager
def embedded() -> Iterator[OutboxPostgres]:
    """Start a server; stop it and delete its data at the end. Raises ConfigurationError where no binaries are found."""
    with EmbeddedPostgres() as server:
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
        postgres = OutboxPostgres(server.dsn_for(dbname=DATABASE))
        with psycopg.connect(postgres.dsn, autocommit=True) as connection:
            for script in ("outbox", "consumer"):
                connection.execute(read_script(script).encode())
        yield postgres
