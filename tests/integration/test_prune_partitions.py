"""An outbox that is partitioned by day: what install makes, whole days dropped once they are delivered, days made ahead."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles, render_install
from cdc_outbox.errors import AccessRefused, ConfigurationError, Undelivered, Unreachable
from cdc_outbox.identifiers import TableName
from tests.integration.test_prune import DAY, Shop

if TYPE_CHECKING:
    from cdc_outbox.lsn import Lsn
    from tests.plugins.postgres import Database

PARTITIONED: Final = InstallOptions(partitioned=True)


class Days(Shop):
    """An outbox with a partition for each of the last ten days too."""

    def install(self) -> None:
        apply_install(self.database.dsn, PARTITIONED, pytest.fail)
        for age in range(1, 11):
            self.make_day(age)
        self.make_slot()

    def make_day(self, age: int) -> None:
        begin = today() - timedelta(days=age)
        self.database.execute(
            f"CREATE TABLE {day(age)} PARTITION OF outbox"
            f" FOR VALUES FROM ('{begin.isoformat()}') TO ('{(begin + timedelta(days=1)).isoformat()}')"
        )

    def partitions(self) -> set[str]:
        query = "SELECT relid::text FROM pg_partition_tree('outbox') WHERE isleaf"
        return {name for (name,) in self.database.execute(query)}


def today() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def day(age: int) -> str:
    return f"outbox_{today() - timedelta(days=age):%Y%m%d}"


@pytest.fixture
def days(database: Database) -> Days:
    made = Days(database)
    made.install()
    return made


def test_a_day_is_one_of_utc_also_where_the_session_prints_times_that_it_would_read_as_others(
    database: Database,
) -> None:
    """IST is the time of India here and, until PostgreSQL 18, read as that of Israel."""
    with psycopg.connect(database.dsn, options="-c datestyle=SQL,DMY -c timezone=Asia/Kolkata") as connection:
        connection.execute(render_install(PARTITIONED).encode())

    with psycopg.connect(database.dsn, options="-c timezone=UTC", autocommit=True) as connection:
        query = "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = %s"
        (bounds,) = connection.execute(query, [day(0)]).fetchone() or ("",)
    tomorrow = today() + timedelta(days=1)
    assert bounds == f"FOR VALUES FROM ('{today():%Y-%m-%d} 00:00:00+00') TO ('{tomorrow:%Y-%m-%d} 00:00:00+00')"


def test_install_makes_days_a_default_partition_and_a_key_that_partitioning_allows(database: Database) -> None:
    for _ in range(2):  # again as well
        apply_install(database.dsn, PARTITIONED, pytest.fail)
    names = {name for (name,) in database.execute("SELECT relid::text FROM pg_partition_tree('outbox') WHERE isleaf")}
    assert names == {"outbox_default", *(day(-ahead) for ahead in range(8))}
    key = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'outbox'::regclass AND contype = 'p'"
    assert database.execute(key) == [("PRIMARY KEY (seq, created_at)",)]
    database.execute("SELECT outbox_emit('order', '1', 'A', '{}'), outbox_emit('order', '1', 'B', '{}')")
    assert database.execute(f"SELECT seq, type FROM {day(0)} ORDER BY seq") == [(1, "A"), (2, "B")]


def test_a_table_that_is_there_without_partitions_is_not_taken_for_one(database: Database) -> None:
    database.execute(render_install(InstallOptions()))
    with pytest.raises(psycopg.errors.RaiseException, match="is not partitioned"):
        database.execute(render_install(PARTITIONED))


def test_whole_days_are_dropped_and_young_rows_stay(days: Days) -> None:
    days.write(100, age="9 days")
    days.write(50, age="8 days 1 hour")
    days.write(30, age="1 day")
    days.write(5, age="40 days")  # into the default partition
    before = days.partitions()
    pruned = days.prune(older_than=7 * DAY)
    assert pruned.rows == {TableName("public", "outbox"): 155}
    assert {str(name) for name in pruned.dropped} == {f"public.{day(age)}" for age in (8, 9, 10)}
    assert before - days.partitions() == {day(8), day(9), day(10)}
    assert days.rows() == 30


def test_a_day_with_an_undelivered_row_stays_and_so_do_all_when_the_slot_does_not_move(days: Days) -> None:
    days.write(3, age="9 days")
    days.deliver()
    days.write(1, age="9 days")
    before = days.partitions()
    with pytest.raises(Undelivered):
        days.prune_alone(older_than=7 * DAY, wait=0.3)
    assert (days.rows(), days.partitions()) == (4, before)

    looks = []

    def undelivered_from_the_second_look_on(lsn: Lsn) -> bool:
        looks.append(lsn)
        return len(looks) == 1

    with pytest.raises(Undelivered):
        days.prune(undelivered_from_the_second_look_on, older_than=7 * DAY, wait=0.3)
    assert looks[-1] >= looks[0]
    assert (days.rows(), days.partitions()) == (4, before)


def test_a_writer_of_an_old_day_is_waited_for_and_other_days_continue(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_outbox.commands.prune.DROP_TRIES", 1)
    days.write(1, age="9 days")
    slow = days.database.connect(autocommit=False)
    slow.execute(
        "INSERT INTO outbox (aggregatetype, created_at) VALUES ('slow', clock_timestamp() - interval '9 days')"
    )
    days.deliver()
    before = days.partitions()
    with pytest.raises(Unreachable, match="another session has a table or a row of it locked"):
        days.prune(older_than=7 * DAY)
    assert days.partitions() == before
    slow.commit()
    assert days.prune(older_than=7 * DAY).total == 2


def test_days_are_made_ahead_by_the_owner_of_the_table_and_writers_need_not_wait(days: Days) -> None:
    writer = days.database.connect(autocommit=False)
    writer.execute("INSERT INTO outbox (aggregatetype) VALUES ('open')")
    made = days.prune(older_than=300 * DAY, partitions_ahead=10).made
    assert [name.name for name in made] == [day(-8), day(-9), day(-10)]
    writer.commit()
    days.database.execute(
        "INSERT INTO outbox (aggregatetype, created_at) SELECT 'x', now() + n * interval '1 day' FROM generate_series(1, 10) n"
    )
    assert days.rows("outbox_default") == 0
    assert days.prune(older_than=300 * DAY, partitions_ahead=10).made == []
    owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname ~ '^outbox_2'"
    assert len(days.database.execute(owners)) == 1


def test_a_table_with_the_name_of_a_day_is_named(days: Days) -> None:
    days.database.execute(f"CREATE TABLE {day(-9)} ()")
    with pytest.raises(
        ConfigurationError, match=rf"table public.{day(-9)} exists, and is not the partition"
    ) as refused:
        days.prune(older_than=300 * DAY, partitions_ahead=10)
    days.database.execute(refused.value.cure.partition(": ")[2])
    days.prune(older_than=300 * DAY, partitions_ahead=10)
    assert days.rows(day(-9)) == 0


def test_a_day_whose_rows_are_in_the_default_partition_is_left_to_it(days: Days) -> None:
    days.database.execute(
        "INSERT INTO outbox (aggregatetype, created_at) SELECT 'x', date_trunc('day', now(), 'UTC') + interval '9 days'"
    )
    made = days.prune(older_than=300 * DAY, partitions_ahead=10).made
    assert [name.name for name in made] == [day(-8), day(-10)]


def test_the_pruner_deletes_rows_where_it_may_not_drop_days_and_may_make_none(days: Days) -> None:
    apply_roles(days.database.dsn, InstallOptions(), pytest.fail)
    role, password = f"p_{secrets.token_hex(4)}", secrets.token_hex(8)
    days.database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT cdc_outbox_pruner TO {role}")
    dsn = days.database.dsn_for(role, password)
    days.write(3, age="9 days")
    pruned = days.prune(dsn=dsn, older_than=7 * DAY)
    assert (pruned.total, pruned.dropped) == (3, [])
    with pytest.raises(AccessRefused, match="may not drop or make partitions") as refused:
        days.prune(dsn=dsn, older_than=7 * DAY, partitions_ahead=9)
    assert f'TO "{role}"' in refused.value.cure
