"""A schema `public` in which another role has created a function, operator, type and view for every name in our SQL.

The names are read from the SQL itself: `sql/*.sql` and every string of the package that is no docstring. For each name that
`pg_catalog` has, the schema gets one of the same parameter types, which counts where `public` comes first in `search_path`, and
those that another call of the same name may fit better. Each of them raises SQLSTATE `TRAP` as soon as it is called.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

TRAP: Final = "XTRAP"
"""SQLSTATE of what the traps raise."""

ROLE: Final = "mallory"

PIN: Final = "-c search_path=pg_catalog,pg_temp"
"""libpq's `options` for sessions of the tests themselves."""

ROOT: Final = Path(__file__).parents[2]


@cache
def our_sql() -> str:
    """Everything in the package that may be SQL, in one text."""
    texts = [file.read_text() for file in sorted((ROOT / "sql").glob("*.sql"))]
    for file in sorted((ROOT / "cdc_outbox").rglob("*.py")):
        tree = ast.parse(file.read_text())
        documentation = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        texts += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation
        ]
    return "\n".join(texts)


def words() -> list[str]:
    """Every name in our SQL, and the names that the grammar has for functions and types with a syntax of their own."""
    return sorted({*re.findall(r"[a-z_][a-z0-9_]*", our_sql()), *GRAMMAR})


GRAMMAR: Final = (
    "int4",
    "int8",
    "bool",
    "varchar",
    "bpchar",
    "timezone",
    "extract",
    "interval",
    "numeric",
    "date_part",
)


def operators() -> list[str]:
    """Every operator in our SQL."""
    return sorted(set(re.findall(r"[-+*/<>=~!@#%^&|`?]+", our_sql())))


PREPARE: Final = f"""
CREATE ROLE {ROLE} NOLOGIN;
GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC;
SET ROLE {ROLE};
CREATE FUNCTION public.trap(what pg_catalog.text) RETURNS pg_catalog.bool LANGUAGE plpgsql AS $trap$
BEGIN
    RAISE EXCEPTION USING ERRCODE = '{TRAP}', MESSAGE = 'a trap was called: ' OPERATOR(pg_catalog.||) what;
END
$trap$;
"""

FUNCTIONS: Final = """
DO $traps$
DECLARE
    found record;
    tried text;
    body constant text :=
        $body$LANGUAGE plpgsql AS $t$BEGIN RAISE EXCEPTION USING ERRCODE = 'XTRAP', MESSAGE = %L; END$t$$body$;
    loose constant text[] := ARRAY['text', 'varchar', 'name', 'regclass', 'int4', 'int8', 'anyelement', 'anycompatible'];
BEGIN
    FOR found IN
        SELECT DISTINCT p.proname AS name, p.pronargs AS arity,
            array(SELECT format_type(t, NULL) FROM unnest(p.proargtypes::oid[]) AS t) AS types,
            CASE WHEN r.typtype = 'p' THEN 'text' ELSE format_type(r.oid, NULL) END AS result
        FROM pg_proc AS p JOIN pg_type AS r ON r.oid = p.prorettype
        WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind IN ('f', 'a', 'w') AND p.proname = ANY (%(words)s)
    LOOP
        FOR tried IN
            SELECT array_to_string(found.types, ', ')
            UNION SELECT array_to_string(array_fill(l, ARRAY[found.arity]), ', ')
                FROM unnest(loose) AS l WHERE found.arity > 0
            UNION SELECT array_to_string(found.types[:at - 1] || l || found.types[at + 1:], ', ')
                FROM unnest(loose) AS l, generate_series(1, found.arity) AS at
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION public.%%I(%%s) RETURNS %%s ', found.name, tried, found.result)
                    || format(body, 'a trap was called: ' || found.name || '(' || tried || ')');
            EXCEPTION
                WHEN duplicate_function OR feature_not_supported OR invalid_function_definition OR undefined_object THEN
                NULL;  -- another signature made the same, or a pseudo-type that no such function can have
            END;
        END LOOP;
    END LOOP;
END
$traps$
"""

OPERATORS: Final = """
DO $traps$
DECLARE
    found record;
    number integer := 0;
    body constant text :=
        $body$LANGUAGE plpgsql AS $t$BEGIN RAISE EXCEPTION USING ERRCODE = 'XTRAP', MESSAGE = %L; END$t$$body$;
BEGIN
    FOR found IN
        WITH ours AS (
            SELECT oprname, oprleft, oprright, oprresult FROM pg_operator
            WHERE oprnamespace = 'pg_catalog'::regnamespace AND oprname = ANY (%(operators)s) AND oprright <> 0
        ), loose (l, r) AS (
            VALUES ('text', 'anyelement'), ('anyelement', 'text'), ('anyelement', 'anyelement'), ('name', 'varchar'),
                ('text', 'varchar'), ('varchar', 'text'), ('varchar', 'varchar'), ('int8', 'text'), ('oid', 'int4')
        )
        SELECT oprname AS name, oprleft AS l, oprright AS r, oprresult AS result FROM ours
        UNION SELECT DISTINCT oprname, l::regtype, r::regtype, 16::oid FROM ours, loose WHERE oprleft <> 0
    LOOP
        number := number + 1;
        BEGIN
            EXECUTE format('CREATE FUNCTION public.trap_%%s(%%s) RETURNS %%s ', number,
                concat_ws(', ', nullif(found.l, 0)::regtype, found.r::regtype), found.result::regtype)
                || format(body, concat_ws(' ', 'a trap was called:', nullif(found.l, 0)::regtype, found.name,
                    found.r::regtype));
            EXECUTE format('CREATE OPERATOR public.%%s (FUNCTION = public.trap_%%s, %%s RIGHTARG = %%s)', found.name, number,
                'LEFTARG = ' || nullif(found.l, 0)::regtype || ',', found.r::regtype);
        EXCEPTION WHEN duplicate_function OR feature_not_supported OR invalid_function_definition OR syntax_error THEN
            NULL;  -- a pseudo-type that no such function can have, or a name that no operator can have
        END;
    END LOOP;
END
$traps$
"""

RELATIONS_AND_TYPES: Final = """
DO $traps$
DECLARE
    found name;
    columns text;
BEGIN
    FOR found, columns IN
        SELECT c.relname, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
        FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relkind IN ('r', 'v') AND c.relname = ANY (%(words)s)
            AND has_table_privilege(c.oid, 'SELECT') AND a.atttypid <> 'anyarray'::regtype
        GROUP BY c.relname
    LOOP
        EXECUTE format('CREATE VIEW public.%%1$I AS SELECT %%2$s FROM pg_catalog.%%1$I WHERE public.trap(%%1$L)',
            found, columns);
        EXECUTE format('GRANT SELECT ON public.%%1$I TO PUBLIC', found);
    END LOOP;
    FOR found IN SELECT typname FROM pg_type
        WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype = 'b' AND typelem = 0 AND typname = ANY (%(words)s)
    LOOP
        EXECUTE format('CREATE DOMAIN public.%%1$I AS pg_catalog.%%1$I CHECK (public.trap(%%1$L))', found);
    END LOOP;
END
$traps$
"""


def pinned(database: Database) -> psycopg.Connection[Any]:
    """A superuser's session that the traps do not concern. Close it."""
    return psycopg.connect(database.dsn, autocommit=True, options=PIN)


def set_traps(database: Database, search_path: str) -> int:
    """Create the traps, as a role without any privilege but CREATE on `public`; give the database `search_path`. How many."""
    with pinned(database) as session:
        session.execute(PREPARE.encode())
        names = {"words": words(), "operators": operators()}
        for traps in (FUNCTIONS, OPERATORS, RELATIONS_AND_TYPES):
            text = re.sub(r"%\((\w+)\)s", lambda match: _array(names[match[1]]), traps).replace("%%", "%")
            session.execute(text.encode())
        session.execute("RESET ROLE")
        session.execute(f"ALTER DATABASE {database.name} SET search_path = {search_path}".encode())
        query = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        row = session.execute(query).fetchone()
        assert row is not None
        return int(row[0])


def _array(values: list[str]) -> str:
    quoted = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"ARRAY[{quoted}]::text[]"
