"""The demo's database: a shop with two business tables and an outbox, and a role for each program.

In: a running PostgreSQL. Out: `Logins`, connection strings by role.
Never: SQL of its own for the outbox; it is installed by `commands.install`, as by users.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.postgres import connect

DATABASE: Final = "shop"

_TABLES: Final = """
CREATE TABLE public.users (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL
);
CREATE TABLE public.orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id bigint NOT NULL REFERENCES public.users,
    total numeric(8, 2) NOT NULL,
    state text NOT NULL CHECK (state IN ('placed', 'paid', 'shipped'))
);
CREATE ROLE shop LOGIN IN ROLE cdc_outbox_writer;
GRANT SELECT, INSERT, UPDATE ON public.users, public.orders TO shop;
"""


@dataclass(frozen=True, slots=True)
class Logins:
    """Connection strings, passwords included."""

    admin: str
    """The superuser: for commands that users try."""
    shop: str
    """The application: its own tables, and the right to emit events. It cannot even read the outbox."""
    relay: str
    """The relay: REPLICATION, and SELECT on the outbox for the rows of a first start."""


def prepare(postgres: EmbeddedPostgres, warn: Callable[[str], None]) -> Logins:
    """Make the database, the outbox, the business tables and the roles."""
    with connect.open_connection(postgres.dsn) as connection:
        connection.execute(SQL("CREATE DATABASE {}").format(Identifier(DATABASE)))
    admin = postgres.dsn_for(dbname=DATABASE)
    options = InstallOptions()
    apply_install(admin, options, warn)
    apply_roles(admin, options, warn)
    with connect.open_connection(admin) as connection:
        connection.execute(_TABLES)
        passwords = {role: _new_password(connection, role) for role in ("shop", "cdc_outbox_relay")}
    logins = {
        role: postgres.dsn_for(user=role, password=password, dbname=DATABASE) for role, password in passwords.items()
    }
    return Logins(admin, logins["shop"], logins["cdc_outbox_relay"])


def _new_password(connection: psycopg.Connection[tuple[object, ...]], role: str) -> str:
    """Give the role a password. Only its hash is sent to the server."""
    password = secrets.token_urlsafe(12)
    hashed = connection.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    connection.execute(SQL("ALTER ROLE {} PASSWORD {}").format(Identifier(role), Literal(hashed)))
    return password
