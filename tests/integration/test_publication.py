"""Publications as a real catalog tells them, and whether one will do: what is refused comes with the SQL that cures it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import ConfigurationError, StreamGap
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres import connect, publication
from tests.plugins.command import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.postgres import Database

OUTBOX = TableName("public", "outbox")
OTHER = TableName("app", "Other Box")


@pytest.fixture
def connection(database: Database) -> Iterator[connect.Connection]:
    database.execute('CREATE TABLE outbox (n int); CREATE SCHEMA app; CREATE TABLE app."Other Box" (n int)')
    with connect.open_connection(database.dsn) as opened:
        yield opened


def require(connection: connect.Connection, *tables: TableName) -> None:
    found = [publication.find_table(connection, table) for table in tables or (OUTBOX,)]
    publication.require_published(publication.inspect(connection, "p"), "p", found)


def cure(connection: connect.Connection, *tables: TableName) -> str:
    """The cure that a refusal names, up to its first full stop outside of a name."""
    with pytest.raises(ConfigurationError) as refused:
        require(connection, *tables)
    return refused.value.cure.split(". ")[0]


def test_the_publication_is_read_from_the_catalog(database: Database, connection: connect.Connection) -> None:
    assert publication.inspect(connection, "p") is None
    database.execute(
        'CREATE PUBLICATION p FOR TABLE outbox, app."Other Box"'
        " WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    found = publication.inspect(connection, "p")
    assert found is not None
    assert (found.inserts, found.via_partition_root) == (True, True)
    assert [table.name for table in found.tables] == [OTHER, OUTBOX]
    assert publication.other_tables(found, [publication.find_table(connection, OUTBOX)]) == [OTHER]
    require(connection, OUTBOX, OTHER)


@pytest.mark.parametrize(
    "what", ["ALL TABLES", pytest.param("TABLES IN SCHEMA public", marks=pytest.mark.since_postgres(15))]
)
def test_publications_that_name_no_table_will_do(database: Database, connection: connect.Connection, what: str) -> None:
    database.execute(f"CREATE PUBLICATION p FOR {what}")
    require(connection)


def test_a_missing_table_is_refused(connection: connect.Connection) -> None:
    with pytest.raises(ConfigurationError, match=r"public\.nowhere does not exist"):
        publication.find_table(connection, TableName("public", "nowhere"))


def test_a_view_is_no_outbox(database: Database, connection: connect.Connection) -> None:
    database.execute("CREATE VIEW seen AS SELECT * FROM outbox")
    with pytest.raises(ConfigurationError, match=r"public\.seen"):
        publication.find_table(connection, TableName("public", "seen"))


@pytest.mark.parametrize(
    "arrange",
    [
        "SELECT 1",
        "CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'update')",
        'CREATE PUBLICATION p FOR TABLE app."Other Box"',
        pytest.param("CREATE PUBLICATION p FOR TABLE outbox WHERE (n > 1)", marks=pytest.mark.since_postgres(15)),
    ],
)
def test_rows_that_are_not_published_are_a_gap_for_a_slot_that_is_there_and_for_no_other(
    database: Database, connection: connect.Connection, arrange: str
) -> None:
    database.execute(arrange)
    found = [publication.find_table(connection, OUTBOX)]
    published = publication.inspect(connection, "p")
    with pytest.raises(ConfigurationError) as without:
        publication.require_published(published, "p", found)
    with pytest.raises(StreamGap) as with_slot:
        publication.require_published(published, "p", found, older_slot=True)
    assert not isinstance(without.value, StreamGap)
    assert "slot recover" not in without.value.cure
    assert str(with_slot.value) == str(without.value)
    assert with_slot.value.cure.startswith(without.value.cure)
    assert with_slot.value.cure.count("cdc-outbox slot recover") == 1


def test_a_missing_publication_is_cured_by_the_command_of_the_message(
    database: Database, connection: connect.Connection
) -> None:
    statement = cure(connection, OUTBOX, OTHER).partition("or: ")[2]
    assert statement.startswith("CREATE PUBLICATION")
    database.execute(statement)
    require(connection, OUTBOX, OTHER)


def test_a_publication_without_inserts_is_cured_by_the_command_of_the_message(
    database: Database, connection: connect.Connection
) -> None:
    database.execute("CREATE PUBLICATION p FOR TABLE outbox WITH (publish = 'update')")
    database.execute(cure(connection))
    require(connection)


def test_a_table_that_is_not_in_it_is_cured_by_the_command_of_the_message(
    database: Database, connection: connect.Connection
) -> None:
    database.execute("CREATE PUBLICATION p FOR TABLE outbox")
    database.execute(cure(connection, OTHER))
    require(connection, OUTBOX, OTHER)


@pytest.mark.since_postgres(15)
def test_a_row_filter_is_cured_by_the_command_of_the_message_and_the_other_tables_stay_as_they_are(
    database: Database, connection: connect.Connection
) -> None:
    database.execute(
        'CREATE TABLE filtered (n int); CREATE PUBLICATION p FOR TABLE outbox WHERE (n > 1), app."Other Box",'
        " filtered WHERE (n > 7) WITH (publish = 'insert')"
    )
    database.execute(cure(connection))
    require(connection, OUTBOX, OTHER)
    found = publication.inspect(connection, "p")
    assert found is not None
    assert {table.name.name: table.row_filter for table in found.tables} == {
        "outbox": None,
        "Other Box": None,
        "filtered": "(n > 7)",
    }


def test_a_partitioned_table_needs_publish_via_partition_root(
    database: Database, connection: connect.Connection
) -> None:
    database.execute(
        "CREATE TABLE parted (n int) PARTITION BY RANGE (n);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9);"
        "CREATE PUBLICATION p FOR TABLE parted"
    )
    parted = TableName("public", "parted")
    assert publication.find_table(connection, parted).partitioned
    database.execute(cure(connection, parted))
    require(connection, parted)


def test_what_is_missing_is_made_by_the_command_that_the_cure_names(
    database: Database, connection: connect.Connection
) -> None:
    orders = TableName("app", "Orders")

    def typed(cure: str) -> None:
        command = cure.removeprefix("create it: ").partition(";")[0]
        done = run_command(*shlex.split(command)[1:], dsn=database.dsn)
        assert done.returncode == 0, done.stderr

    with pytest.raises(ConfigurationError) as no_table:
        publication.find_table(connection, orders)
    typed(no_table.value.cure)
    with pytest.raises(ConfigurationError) as no_publication:
        require(connection, orders)
    typed(no_publication.value.cure)
    require(connection, orders)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("CREATE TABLE public.child () INHERITS (outbox)", "public.child"),
        ("CREATE TABLE app.child () INHERITS (outbox)", "app.child"),
    ],
)
def test_children_by_inherits_are_refused(
    database: Database, connection: connect.Connection, made: str, named: str
) -> None:
    """A query of the table reads their rows, and its stream has none of them."""
    database.execute("CREATE PUBLICATION p FOR TABLE ONLY outbox WITH (publish = 'insert')")
    require(connection)
    database.execute(made)
    with pytest.raises(ConfigurationError, match=rf"rows of {named} belong to table public\.outbox"):
        require(connection)
    database.execute(f"ALTER TABLE {named} NO INHERIT outbox")
    require(connection)


def test_an_unlogged_partition_is_refused(database: Database, connection: connect.Connection) -> None:
    database.execute(
        "CREATE TABLE days (n int) PARTITION BY RANGE (n); CREATE TABLE one PARTITION OF days FOR VALUES FROM (0) TO (1);"
        "CREATE PUBLICATION p FOR TABLE days WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    days = TableName("public", "days")
    require(connection, days)
    database.execute("CREATE UNLOGGED TABLE two PARTITION OF days FOR VALUES FROM (1) TO (2)")
    with pytest.raises(ConfigurationError, match=r"rows of public\.two belong to table public\.days"):
        require(connection, days)
    database.execute("ALTER TABLE two SET LOGGED")
    require(connection, days)
