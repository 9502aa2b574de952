"""Rows of a table in an exported snapshot: the same text that the stream would send, in batches, in order."""

from __future__ import annotations

import contextlib
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import AccessRefused, ConnectionLost
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres import connect, slot, table_rows
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.shutdown import Stop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdc_outbox.postgres.table_rows import SnapshotRows
    from tests.plugins.postgres import Database

OUTBOX = TableName("public", "outbox")


@contextlib.contextmanager
def snapshot_of(database: Database, dsn: str | None = None) -> Iterator[SnapshotRows]:
    stop = Stop()
    with contextlib.closing(ReplicationSession(database.dsn, stop)) as session:
        created = slot.create(session, "mine", temporary=True, snapshot=True)
        assert created.snapshot is not None
        with table_rows.open_snapshot(dsn or database.dsn, created.snapshot, stop) as snapshot:
            yield snapshot


def read(snapshot: SnapshotRows, *order: str) -> list[list[bytes | None]]:
    return list(chain.from_iterable(snapshot.read(snapshot.shape(OUTBOX), order)))


@pytest.mark.parametrize("name", ["00000005-000001F6-1", "00000003-00000002-7"])
def test_a_snapshot_whose_session_has_ended_is_a_lost_connection(name: str, database: Database) -> None:
    with pytest.raises(ConnectionLost), table_rows.open_snapshot(database.dsn, name, Stop()):
        pytest.fail("opened")


def test_values_are_the_text_that_postgres_prints(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (a json, b jsonb, c bytea, d timestamptz, e float8, f text, g uuid, h int[]);"
        """INSERT INTO outbox VALUES ('{"z": 1,  "a":2}', '{"z": 1,  "a":2}', '\\x00ff', '2026-11-23 01:02:03.5+01', 0.1,"""
        " '', '4ec5ea43-5cff-4ad2-9a8e-0cfb0a0e0e4d', '{1,2}'), (NULL, 'null', '', NULL, 'NaN', NULL, NULL, NULL)"
    )
    with snapshot_of(database) as snapshot:
        first, second = read(snapshot)
    assert first == [
        b'{"z": 1,  "a":2}',
        b'{"a": 2, "z": 1}',
        b"\\x00ff",
        b"2026-11-23 00:02:03.5+00",
        b"0.1",
        b"",
        b"4ec5ea43-5cff-4ad2-9a8e-0cfb0a0e0e4d",
        b"{1,2}",
    ]
    assert second == [None, b"null", b"\\x", None, b"NaN", None, None, None]


@pytest.mark.parametrize(
    "count",
    [0, 1, table_rows.BATCH_ROWS - 1, table_rows.BATCH_ROWS, table_rows.BATCH_ROWS + 1, 3 * table_rows.BATCH_ROWS],
)
def test_every_row_comes_once_whatever_the_size_of_a_batch(database: Database, count: int) -> None:
    database.execute(f"CREATE TABLE outbox AS SELECT n AS seq FROM generate_series({count}, 1, -1) n")
    with snapshot_of(database) as snapshot:
        assert snapshot.count(OUTBOX) == count
        batches = list(snapshot.read(snapshot.shape(OUTBOX), ["seq"]))
    assert [int(cell or b"") for batch in batches for (cell,) in batch] == list(range(1, count + 1))
    assert all(0 < len(batch) <= table_rows.BATCH_ROWS for batch in batches)


def test_the_first_of_the_wanted_columns_that_is_there_gives_the_order(database: Database) -> None:
    database.execute("CREATE TABLE outbox (created_at int, n int); INSERT INTO outbox VALUES (3, 1), (1, 2), (2, 3)")
    with snapshot_of(database) as snapshot:
        assert [cells[0] for cells in read(snapshot, "seq", "created_at")] == [b"1", b"2", b"3"]
        assert [cells[0] for cells in read(snapshot, "n", "created_at")] == [b"3", b"1", b"2"]


def test_the_shape_leaves_dropped_columns_out_and_keeps_generated_ones(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (a int, b text, c int GENERATED ALWAYS AS (a + 1) STORED, d json);"
        "ALTER TABLE outbox DROP b; INSERT INTO outbox (a, d) VALUES (1, '[]')"
    )
    with snapshot_of(database) as snapshot:
        assert snapshot.shape(OUTBOX).columns == (("a", 23), ("c", 23), ("d", 114))
        assert read(snapshot) == [[b"1", b"2", b"[]"]]


def test_it_sees_the_table_as_it_was_when_the_snapshot_was_made(database: Database) -> None:
    database.execute("CREATE TABLE outbox (n int); INSERT INTO outbox VALUES (1)")
    with snapshot_of(database) as snapshot:
        database.execute("INSERT INTO outbox VALUES (2); DELETE FROM outbox WHERE n = 1")
        assert read(snapshot) == [[b"1"]]


def test_partitions_are_read_through_their_root(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (seq int) PARTITION BY LIST (seq);"
        "CREATE TABLE odd PARTITION OF outbox FOR VALUES IN (1, 3);"
        "CREATE TABLE even PARTITION OF outbox FOR VALUES IN (2, 4); INSERT INTO outbox VALUES (4), (1), (3), (2)"
    )
    with snapshot_of(database) as snapshot:
        assert snapshot.count(OUTBOX) == 4
        assert read(snapshot, "seq") == [[b"1"], [b"2"], [b"3"], [b"4"]]


def test_a_role_that_may_not_read_gets_the_grant_as_cure(database: Database) -> None:
    database.execute("CREATE TABLE outbox (n int); CREATE ROLE blind LOGIN PASSWORD 'blind'")
    with (
        snapshot_of(database, database.dsn_for("blind", "blind")) as snapshot,
        pytest.raises(AccessRefused) as refused,
    ):
        snapshot.count(OUTBOX)
    assert (
        refused.value.cure == 'GRANT USAGE ON SCHEMA "public" TO "blind"; GRANT SELECT ON "public"."outbox" TO "blind";'
    )


def test_rows_of_children_by_inherits_are_not_read(database: Database) -> None:
    """The stream of the table does not have them either; a child may come after the preflight."""
    database.execute(
        "CREATE TABLE outbox (seq int, created_at timestamptz DEFAULT now()); INSERT INTO outbox VALUES (2);"
        "CREATE TABLE child () INHERITS (outbox); INSERT INTO child VALUES (1), (3)"
    )
    with snapshot_of(database) as snapshot:
        assert snapshot.count(OUTBOX) == 1
        assert [seq for seq, _ in read(snapshot, "seq")] == [b"2"]
        assert snapshot.first_kept(snapshot.shape(OUTBOX)) is not None


def test_select_on_the_columns_that_are_used_is_enough_for_a_narrowed_shape(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (seq int, id int, secret text); INSERT INTO outbox VALUES (2, 1, 'x'), (1, 2, 'y');"
        "CREATE ROLE reader LOGIN PASSWORD 'reader'; GRANT SELECT (id) ON outbox TO reader"
    )
    with snapshot_of(database, database.dsn_for("reader", "reader")) as snapshot:
        shape = snapshot.shape(OUTBOX).narrowed(lambda names: [name for name in names if name == "id"])
        assert shape.columns == (("id", 23),)
        assert shape.first_of(["seq", "id"]) == "id", "a column that may not be read gives no order"
        assert snapshot.count(OUTBOX) == 2
        assert list(chain.from_iterable(snapshot.read(shape, ["seq", "id"]))) == [[b"1"], [b"2"]]
        with pytest.raises(AccessRefused, match="outbox"):
            list(snapshot.read(snapshot.shape(OUTBOX), ["seq"]))


def test_a_count_for_a_warning_has_a_limit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is locked stands for one that is large."""
    monkeypatch.setattr(table_rows, "COUNT_SECONDS", 1)
    database.execute("CREATE TABLE outbox (n int); INSERT INTO outbox VALUES (1)")
    locker = database.connect(autocommit=False)
    with connect.open_connection(database.dsn) as connection:
        rows = table_rows.SnapshotRows(connection)
        shape = rows.shape(OUTBOX)
        locker.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        assert rows.count_older_than(shape, "any") is None
        locker.rollback()
        assert rows.count_older_than(shape, "any") == 0
