"""OIDs and names of PostgreSQL's built-in types, which are the same on every server.

In: a name or an OID. Out: the other one. Never: a query, or a type that a database defines for itself.
Source: pg_type.dat, through psycopg's registry.
"""

from __future__ import annotations

from psycopg.postgres import types


def oid_of(name: str) -> int | None:
    """The OID of the built-in type `name` of pg_type; None if there is none."""
    found = types.get(name)
    return None if found is None else found.oid


def name_of(oid: int) -> str | None:
    """The name in SQL of the built-in type; None when the database defines it."""
    found = types.get(oid)
    return None if found is None else found.regtype
