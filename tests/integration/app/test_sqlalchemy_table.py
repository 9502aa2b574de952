"""`outbox_table` is the table that sql/outbox.sql makes: Alembic's autogenerate finds nothing to change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata, produce_migrations, render_python_code
from alembic.migration import MigrationContext
from alembic.operations import Operations

from cdc_outbox.app import OutboxUsageError
from cdc_outbox.app.sqlalchemy import SQL_VERSION, outbox_table
from cdc_outbox.commands import install
from cdc_outbox.commands.install import PAYLOAD_TYPES, InstallOptions, apply_install, render_install
from cdc_outbox.identifiers import TableName
from tests.integration.app.adapters import engine

if TYPE_CHECKING:
    from cdc_outbox.app import PayloadType
    from tests.plugins.postgres import Database

CONVENTION = {"ck": "ck_%(table_name)s_%(constraint_name)s", "pk": "pk_%(table_name)s"}


def differences(database: Database, metadata: sa.MetaData, **options: Any) -> list[Any]:
    with engine(database.dsn, autocommit=False).connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "include_schemas": True, **options}
        )
        return compare_metadata(context, metadata)


@pytest.mark.parametrize("payload", PAYLOAD_TYPES)
def test_autogenerate_sees_no_difference_to_what_install_makes(database: Database, payload: PayloadType) -> None:
    metadata = sa.MetaData(naming_convention=CONVENTION)
    apply_install(database.dsn, InstallOptions(payload_type=payload), pytest.fail)
    apply_install(database.dsn, InstallOptions(table=TableName("app", "events"), payload_type=payload), pytest.fail)
    outbox_table(metadata, payload=payload)
    outbox_table(metadata, "events", "app", payload)

    assert differences(database, metadata) == []


def test_autogenerate_sees_what_is_different(database: Database) -> None:
    apply_install(database.dsn, InstallOptions(payload_type="jsonb"), pytest.fail)
    database.execute("ALTER TABLE outbox DROP headers, ALTER aggregatetype DROP NOT NULL")
    metadata = sa.MetaData()
    outbox_table(metadata)

    found = str(differences(database, metadata))

    assert all(word in found for word in ("add_column", "headers", "modify_type", "modify_nullable"))


def test_the_constraints_are_those_of_the_sql_also_under_a_naming_convention(database: Database) -> None:
    metadata = sa.MetaData(naming_convention=CONVENTION)
    outbox_table(metadata, "made")
    metadata.create_all(engine(database.dsn, autocommit=False))
    apply_install(database.dsn, InstallOptions(), pytest.fail)

    query = """
        SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'c' AND conrelid = %s::regclass
        ORDER BY 1
    """
    assert database.execute(query, ["made"]) == database.execute(query, ["outbox"]) != []


def test_its_comment_is_the_mark_that_install_leaves() -> None:
    assert SQL_VERSION == install.SQL_VERSION


def test_the_sql_runs_in_a_migration_of_alembic_and_leaves_nothing_to_generate(database: Database) -> None:
    metadata = sa.MetaData()
    outbox_table(metadata)
    with engine(database.dsn, autocommit=False).begin() as connection:
        context = MigrationContext.configure(connection)
        before = render_python_code(produce_migrations(context, metadata).upgrade_ops)
        with Operations.context(context) as op:
            op.execute(render_install(InstallOptions()))

    assert "create_table('outbox'" in before
    assert differences(database, metadata) == []


def test_a_null_payload_is_a_tombstone_and_not_the_word_null(database: Database) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    outbox = outbox_table(sa.MetaData())
    with engine(database.dsn, autocommit=False).begin() as connection:
        connection.execute(outbox.insert().values(aggregatetype="order", payload=None, headers=None))
        connection.execute(outbox.insert().values(aggregatetype="order", payload={"a": 1}, headers={"b": "c"}))

    assert database.execute("SELECT payload, headers FROM outbox ORDER BY seq") == [
        (None, None),
        ({"a": 1}, {"b": "c"}),
    ]


def test_a_payload_of_another_type_is_refused() -> None:
    wrong: Any = "xml"
    with pytest.raises(OutboxUsageError, match="json, jsonb, text, bytea"):
        outbox_table(sa.MetaData(), payload=wrong)
