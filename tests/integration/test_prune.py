"""Prune on a real server: what goes, what stays whatever its timestamp says, and when nothing goes at all."""

from __future__ import annotations

import contextlib
import os
import pty
import secrets
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from cdc_outbox.commands.prune import Pruned, PruneOrder, PruneProgress, prune
from cdc_outbox.errors import AccessRefused, ConfigurationError, Undelivered, Unreachable
from cdc_outbox.identifiers import TableName, parse_table
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import connect, publication, retention
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.postgres.wire import KEEPALIVE, XLOGDATA_HEADER_BYTES, parse_keepalive
from cdc_outbox.shutdown import Stop, Stopped
from tests.plugins.command import DSN, environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database

DAY: Final = 86_400.0
WEEK: Final = 7 * DAY


class StandIn:
    """A thread that streams from a slot and confirms all of it at once, as a relay with a very fast Kafka would."""

    def __init__(self, database: Database, slot: str) -> None:
        self.messages: list[bytes] = []
        self._over = threading.Event()
        stop = Stop()
        session = ReplicationSession(database.dsn, stop)
        self._stream = ReplicationStream.start(session, stop, slot=slot, publication="cdc_outbox")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._stream.close()

    def _run(self) -> None:
        confirmed = 0
        while not self._over.is_set():
            self._stream.wait(0.02)
            for message in self._stream.receive(1000):
                if message[0] == KEEPALIVE:
                    confirmed = parse_keepalive(message).wal_end
                else:
                    self.messages.append(message[XLOGDATA_HEADER_BYTES:])
            self._stream.send_status(write=confirmed, flush=confirmed, reply_requested=True)


class Shop:
    """An outbox, its slot, and somebody who reads the slot when told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.slot = f"s_{secrets.token_hex(6)}"
        self.order = PruneOrder(database.dsn, self.slot, "cdc_outbox", (TableName("public", "outbox"),), WEEK, wait=30)

    def install(self) -> None:
        apply_install(self.database.dsn, InstallOptions(), pytest.fail)
        self.make_slot()

    def make_slot(self) -> None:
        self.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [self.slot])

    def drop_slot(self) -> None:
        self.database.execute("SELECT pg_drop_replication_slot(%s)", [self.slot])

    def write(self, count: int = 1, age: str = "8 days", table: str = "outbox") -> None:
        self.database.execute(
            f"INSERT INTO {table} (aggregatetype, aggregateid, payload, created_at)"
            f" SELECT 'order', n::text, '1', clock_timestamp() - interval '{age}' FROM generate_series(1, {count}) n"
        )

    @contextlib.contextmanager
    def relayed(self) -> Iterator[StandIn]:
        """Somebody streams from the slot, inside the block."""
        with contextlib.closing(StandIn(self.database, self.slot)) as reader:
            yield reader

    def deliver(self) -> None:
        """All that is committed by now is confirmed, and nobody streams any more."""
        lsn = self.database.execute("SELECT pg_logical_emit_message(true, 'mark', '')")[0][0]
        with self.relayed():
            query = f"SELECT confirmed_flush_lsn > '{lsn}' FROM pg_replication_slots WHERE slot_name = '{self.slot}'"
            eventually(lambda: self.database.execute(query) == [(True,)], "all is confirmed")

    def rows(self, table: str = "outbox") -> int:
        return int(self.database.execute(f"SELECT count(*) FROM {table}")[0][0])

    def prune(self, delivered: Callable[[Lsn], bool] = lambda _: True, **changes: Any) -> Pruned:
        """With a relay that keeps up."""
        with self.relayed():
            return self.prune_alone(delivered, **changes)

    def prune_alone(self, delivered: Callable[[Lsn], bool] = lambda _: True, **changes: Any) -> Pruned:
        """With nobody who streams."""
        return prune(replace(self.order, **changes), Stop(), PruneProgress(), delivered=delivered)


@pytest.fixture
def shop(database: Database) -> Shop:
    made = Shop(database)
    made.install()
    return made


def test_rows_that_are_old_and_delivered_go_and_young_ones_stay(shop: Shop) -> None:
    shop.write(2500)
    shop.write(10, age="6 days")
    pruned = shop.prune()
    assert pruned.rows == {TableName("public", "outbox"): 2500}
    assert pruned.held == {TableName("public", "outbox"): 0}
    assert shop.database.execute("SELECT DISTINCT created_at > now() - interval '7 days' FROM outbox") == [(True,)]
    assert shop.rows() == 10


@pytest.mark.parametrize("older_than", [WEEK, 0.0])
def test_with_one_row_undelivered_nothing_at_all_goes(shop: Shop, older_than: float) -> None:
    shop.write(10)
    shop.deliver()
    shop.write(1)
    with pytest.raises(Undelivered, match="has not confirmed") as stopped:
        shop.prune_alone(older_than=older_than, wait=0.3)
    assert "no process streams from it" in stopped.value.cure
    assert shop.rows() == 11
    assert shop.prune(older_than=older_than).total == 11


def test_a_row_that_is_committed_after_the_fence_stays_whatever_its_timestamp(shop: Shop) -> None:
    shop.write(5)
    shop.deliver()
    slow = shop.database.connect(autocommit=False)
    slow.execute("INSERT INTO outbox (aggregatetype, created_at) VALUES ('slow', '2001-01-01')")
    shop.deliver()

    def meanwhile(_: Lsn) -> bool:
        slow.commit()
        shop.write(3, age="20 years")
        return True

    pruned = shop.prune(meanwhile, older_than=0.0)
    # The rows that were delivered were committed before the open transaction began, so they are known to be.
    assert pruned.total == 5
    assert shop.rows() == 4
    assert pruned.held == {TableName("public", "outbox"): 4}
    assert shop.prune(older_than=0.0).total == 4


def test_rows_of_a_savepoint_in_an_open_transaction_stay(shop: Shop) -> None:
    slow = shop.database.connect(autocommit=False)
    slow.execute("SELECT pg_current_xact_id()")
    slow.execute("SAVEPOINT a")
    slow.execute("INSERT INTO outbox (aggregatetype, created_at) VALUES ('slow', '2001-01-01')")
    slow.execute("RELEASE a")
    shop.write(1)
    shop.deliver()

    def meanwhile(_: Lsn) -> bool:
        slow.commit()
        return True

    pruned = shop.prune(meanwhile)
    assert (pruned.total, shop.rows()) == (0, 2)  # the other row was committed after the open one began: it waits too
    assert shop.prune().total == 2


def test_every_slot_that_is_named_must_have_confirmed_it(shop: Shop) -> None:
    other = f"{shop.slot}_1"
    shop.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other])
    shop.write(3)
    with pytest.raises(Undelivered, match=other):
        shop.prune(also=(other,), wait=1.0)
    assert shop.rows() == 3
    with contextlib.closing(StandIn(shop.database, other)):
        assert shop.prune(also=(other,)).total == 3


def test_rows_of_a_shard_wait_for_all_shards_whichever_is_named(shop: Shop) -> None:
    first, second = (f"{shop.slot}_{index}_of_2" for index in range(2))
    shop.write(20)
    shop.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [first])
    with contextlib.closing(StandIn(shop.database, first)):
        with pytest.raises(ConfigurationError, match=f"{second} does not exist"):
            shop.prune(slot=first)
        shop.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [second])
        shop.write(20)
        for named in ({"slot": first}, {"slot": second}, {"also": (second,)}):
            with pytest.raises(Undelivered, match=second):
                shop.prune(**named, wait=1.0)
        assert shop.rows() == 40
        with contextlib.closing(StandIn(shop.database, second)):
            assert shop.prune(slot=first).total == 40


@pytest.mark.since_postgres(15)
def test_the_publication_of_a_shard_is_refused_and_not_to_be_changed(shop: Shop) -> None:
    apply_install(shop.database.dsn, InstallOptions(shards=2), lambda _words: None)
    with pytest.raises(ConfigurationError, match="sends the rows of shard 1/2 only") as refused:
        shop.prune(publication="cdc_outbox_1_of_2")
    assert refused.value.cure.startswith("--publication cdc_outbox, ")
    assert "ALTER PUBLICATION" not in refused.value.cure


def test_nothing_is_deleted_when_the_caller_denies_delivery(shop: Shop) -> None:
    shop.write(1)
    with pytest.raises(Undelivered):
        shop.prune(lambda _: False, wait=0.3)
    assert shop.rows() == 1


def test_without_the_slot_nothing_goes(shop: Shop) -> None:
    shop.write(1)
    shop.deliver()
    shop.drop_slot()
    with pytest.raises(ConfigurationError, match="does not exist") as refused:
        shop.prune_alone()
    assert "cdc-outbox run" in refused.value.cure
    assert shop.rows() == 1


def test_a_slot_that_vanishes_or_is_made_again_while_it_is_waited_for_stops_the_prune(shop: Shop) -> None:
    shop.write(1)
    shop.deliver()
    shop.write(1)

    class MadeAgain(PruneProgress):
        def waiting(self, *_: object) -> None:
            shop.drop_slot()
            shop.make_slot()

    class Dropped(PruneProgress):
        def waiting(self, *_: object) -> None:
            shop.drop_slot()

    with pytest.raises(ConfigurationError, match="dropped and made again"):
        prune(shop.order, Stop(), MadeAgain())
    shop.write(1)
    with pytest.raises(ConfigurationError, match="does not exist"):
        prune(shop.order, Stop(), Dropped())
    assert shop.rows() == 3


def test_an_unused_slot_proves_no_delivery(shop: Shop) -> None:
    shop.write(1)
    shop.drop_slot()
    shop.make_slot()
    with pytest.raises(Undelivered) as stopped:
        shop.prune_alone(wait=0.3)
    assert "its position proves nothing" in stopped.value.cure
    assert "has confirmed 0/" not in stopped.value.cure, "it stands where it has to, and that is no proof"
    assert shop.rows() == 1


def test_an_age_that_no_row_can_have_deletes_nothing(shop: Shop) -> None:
    shop.write(1, age="500 years")
    assert shop.prune(older_than=1e12 * DAY).total == 0
    assert shop.prune(older_than=400 * 365 * DAY).total == 1


def test_a_database_that_takes_no_writes_is_refused_with_the_setting(shop: Shop) -> None:
    shop.write(1)
    name = shop.database.execute("SELECT quote_ident(current_database())")[0][0]
    shop.database.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(ConfigurationError, match="takes no writes") as refused:
        shop.prune()
    assert "RESET default_transaction_read_only" in refused.value.cure
    assert shop.rows() == 1


def test_a_locked_row_ends_it_and_the_cure_finds_the_session(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc_outbox.commands.prune.LOCK_SECONDS", 0.2)
    shop.write(3)
    with shop.database.connect(autocommit=False) as holder:
        holder.execute(b"SELECT FROM outbox FOR UPDATE")
        shop.write(1, age="1 hour")  # flushes the WAL of the lock, which PostgreSQL would do within 20 s
        with pytest.raises(Unreachable, match="has a table or a row of it locked") as refused:
            shop.prune()
        query = refused.value.cure.partition(": ")[2].replace("TABLE", "outbox")
        assert [pid for pid, *_ in shop.database.execute(query)] == [holder.info.backend_pid]
    assert shop.rows() == 4


def test_a_slot_of_another_plugin_is_refused(shop: Shop) -> None:
    shop.write(1)
    shop.drop_slot()
    shop.database.execute("SELECT pg_create_logical_replication_slot(%s, 'test_decoding')", [shop.slot])
    with pytest.raises(ConfigurationError, match="plugin test_decoding"):
        shop.prune_alone()


def test_a_table_that_is_not_published_is_not_pruned(shop: Shop) -> None:
    shop.write(1)
    shop.database.execute("ALTER PUBLICATION cdc_outbox DROP TABLE outbox")
    with pytest.raises(ConfigurationError, match="does not publish table"):
        shop.prune()
    assert shop.rows() == 1


def test_a_table_that_leaves_the_publication_while_it_waits_is_not_pruned(shop: Shop) -> None:
    shop.write(1)

    def meanwhile(_: Lsn) -> bool:
        shop.database.execute("ALTER PUBLICATION cdc_outbox DROP TABLE outbox")
        return True

    with pytest.raises(ConfigurationError, match="does not publish table"):
        shop.prune(meanwhile)
    assert shop.rows() == 1


def test_the_deletes_send_no_message(shop: Shop) -> None:
    shop.write(10)
    with shop.relayed() as reader:
        assert shop.prune_alone(batch=3).total == 10
        shop.write(1)
        eventually(lambda: [message[:1] for message in reader.messages].count(b"I") == 11, "the last row is streamed")
    assert {message[:1] for message in reader.messages} <= {b"B", b"R", b"I", b"C"}


def test_a_dry_run_counts_and_waits_for_nothing(shop: Shop) -> None:
    shop.write(10)
    shop.write(5, age="1 hour")
    assert shop.prune_alone(dry_run=True).total == 10
    assert shop.rows() == 15


def test_times_that_an_application_sets_neither_hide_old_rows_behind_them_nor_young_ones(shop: Shop) -> None:
    shop.write(30, age="-10 years")
    shop.database.execute("INSERT INTO outbox (aggregatetype, created_at) VALUES ('x', 'infinity'), ('x', '-infinity')")
    shop.write(20)
    shop.write(5, age="1 hour")
    assert shop.prune(batch=4).total == 21
    assert shop.rows() == 36


def test_the_walk_ends_where_the_young_rows_begin(shop: Shop) -> None:
    shop.write(20)
    shop.write(1000, age="1 hour")
    steps: list[object] = []

    class Counting(PruneProgress):
        def stepped(self, *told: object) -> None:
            steps.append(told[1])

    with shop.relayed():
        prune(replace(shop.order, batch=10), Stop(), Counting())
    assert steps == [10, 10, 0]


def test_on_a_terminal_a_bar_is_drawn_and_the_cursor_comes_back(shop: Shop) -> None:
    shop.write(2500)
    terminal, its_end = pty.openpty()
    with shop.relayed():
        command = [sys.executable, "-m", "cdc_outbox", "prune", "--older-than", "7d", "--slot", shop.slot]
        done = subprocess.run(
            command,
            stderr=its_end,
            stdout=subprocess.PIPE,
            env=environment({DSN: shop.database.dsn}),
            check=True,
            text=True,
        )
    os.close(its_end)
    drawn = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert done.stdout == "public.outbox 2500\n"
    assert "0/2500" in drawn
    assert "2500/2500" in drawn
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")
    assert drawn.splitlines()[-1].endswith("deleted: 2,500 rows")


def test_a_stop_ends_it_between_two_batches_and_what_is_deleted_stays_so(shop: Shop) -> None:
    shop.write(30)
    stop = Stop()

    class Stopping(PruneProgress):
        def stepped(self, *_: object) -> None:
            stop.request()

    with shop.relayed(), pytest.raises(Stopped):
        prune(replace(shop.order, batch=10), stop, Stopping())
    assert shop.rows() == 20


def test_two_at_once_delete_each_row_once(shop: Shop) -> None:
    shop.write(5000)
    with shop.relayed(), ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: shop.prune_alone(batch=50), range(2)))
    assert sum(pruned.total for pruned in both) == 5000
    assert shop.rows() == 0


@pytest.mark.parametrize("column", ["created_at timestamptz", '"timestamp" timestamp', '"Wann: %s" date'])
def test_a_table_of_another_shape_is_walked_by_its_blocks(database: Database, column: str) -> None:
    shop = Shop(database)
    name = column.rpartition(" ")[0]
    database.execute(
        f'CREATE TABLE "Out%s{{x}}" (id uuid, aggregatetype text, aggregateid text, type text, payload text, {column})'
    )
    database.execute("""CREATE PUBLICATION cdc_outbox FOR TABLE "Out%s{x}" WITH (publish = 'insert')""")
    shop.make_slot()
    database.execute(
        f"INSERT INTO \"Out%s{{x}}\" (payload, {name}) SELECT repeat('x', 500), now() - n * interval '1 day'"
        " FROM generate_series(1, 100) n"
    )
    table = (parse_table('"Out%s{x}"'),)
    named = name.strip('"')
    age_column = named if named.startswith("W") else None
    left = shop.prune(tables=table, batch=50, age_column=age_column, older_than=10 * DAY + 3600)
    assert left.total in ({89, 90} if "date" in column else {90})  # a day is old when its last row is
    assert shop.rows('"Out%s{x}"') == 100 - left.total


def test_a_table_without_the_age_of_its_rows_is_refused_but_for_all_of_them(shop: Shop) -> None:
    shop.database.execute("ALTER TABLE outbox DROP created_at, ADD at bigint")
    shop.database.execute("INSERT INTO outbox (aggregatetype) VALUES ('x')")
    with pytest.raises(ConfigurationError, match="has no column created_at or timestamp"):
        shop.prune()
    with pytest.raises(ConfigurationError, match=r"column at of public\.outbox cannot be used for the age"):
        shop.prune(age_column="at")
    assert shop.prune(older_than=0.0).total == 1


def test_partitions_are_pruned_through_their_root(database: Database) -> None:
    shop = Shop(database)
    database.execute(
        "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json,"
        " created_at timestamptz) PARTITION BY HASH (aggregateid);"
        "CREATE TABLE one PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE two PARTITION OF outbox FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE PUBLICATION cdc_outbox FOR TABLE outbox WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    shop.make_slot()
    shop.write(500)
    shop.write(7, age="1 hour")
    assert shop.prune(batch=100).total == 500
    assert shop.rows() == 7


def test_a_role_without_rights_gets_the_grant_as_cure_and_the_pruner_has_what_it_needs(shop: Shop) -> None:
    shop.write(3)
    apply_roles(shop.database.dsn, InstallOptions(), pytest.fail)
    role, password = f"p_{secrets.token_hex(4)}", secrets.token_hex(8)
    shop.database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT cdc_outbox_relay TO {role}")
    dsn = shop.database.dsn_for(role, password)
    for dry_run in (True, False):
        with pytest.raises(AccessRefused, match=r"may not prune public\.outbox") as refused:
            shop.prune(dsn=dsn, dry_run=dry_run)
        assert f'GRANT SELECT, DELETE ON "public"."outbox" TO "{role}"' in refused.value.cure
    assert shop.rows() == 3
    shop.database.execute(refused.value.cure.rpartition(": ")[2])
    assert shop.prune(dsn=dsn).total == 3


def test_rows_that_a_policy_hides_are_not_taken_for_gone(shop: Shop) -> None:
    shop.write(3)
    role, password = f"p_{secrets.token_hex(4)}", secrets.token_hex(8)
    shop.database.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT SELECT, DELETE ON outbox TO {role};"
        f"ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; CREATE POLICY half ON outbox USING (seq = 1)"
    )
    dsn = shop.database.dsn_for(role, password)
    with pytest.raises(AccessRefused) as refused:
        shop.prune(dsn=dsn)
    shop.database.execute(refused.value.cure)
    assert shop.prune(dsn=dsn).total == 3


@pytest.mark.parametrize("by_seq", [True, False])
def test_rows_of_a_child_by_inherits_stay_even_if_it_comes_after_the_checks(shop: Shop, by_seq: bool) -> None:
    """A prune refuses a table with children, whose rows are not in its stream. So this walks without a prune."""
    if not by_seq:
        shop.database.execute("ALTER TABLE outbox DROP seq")
    shop.write(3)
    with connect.open_connection(shop.database.dsn) as connection:
        old = retention.find_old_rows(
            connection, publication.find_table(connection, TableName("public", "outbox")), None
        )
        shop.database.execute(
            "CREATE TABLE child () INHERITS (outbox); INSERT INTO child SELECT * FROM outbox; SELECT txid_current()"
        )
        fence = retention.take_fence(connection, DAY)
        for delete in (False, True):
            steps = list(retention.walk(connection, old, fence, 1000, delete=delete))
            assert sum(step.rows for step in steps) == 3
    assert shop.rows("ONLY outbox") == 0
    assert shop.rows("child") == 3


@pytest.mark.parametrize("by_seq", [True, False])
def test_delete_and_select_on_the_columns_that_find_old_rows_are_enough(shop: Shop, by_seq: bool) -> None:
    if not by_seq:
        shop.database.execute("ALTER TABLE outbox DROP seq")
    shop.write(3)
    role, password = f"p_{secrets.token_hex(4)}", secrets.token_hex(8)
    columns = "seq, xmin, created_at" if by_seq else "ctid, xmin, created_at"
    shop.database.execute(
        f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT DELETE, SELECT ({columns}) ON outbox TO {role}"
    )
    assert shop.prune(dsn=shop.database.dsn_for(role, password)).total == 3


def test_a_role_that_acts_as_another_is_given_the_grant_for_that_one(shop: Shop) -> None:
    """`ALTER ROLE login SET role = other`: a GRANT to the login would change nothing."""
    shop.write(3)
    login, other, password = f"p_{secrets.token_hex(4)}", f"o_{secrets.token_hex(4)}", secrets.token_hex(8)
    shop.database.execute(
        f"CREATE ROLE {other}; CREATE ROLE {login} LOGIN PASSWORD '{password}' IN ROLE {other};"
        f"ALTER ROLE {login} SET role = '{other}'"
    )
    dsn = shop.database.dsn_for(login, password)
    with pytest.raises(AccessRefused, match=f"role {other} may not prune") as refused:
        shop.prune(dsn=dsn)
    shop.database.execute(refused.value.cure.partition("; or,")[0])
    assert shop.prune(dsn=dsn).total == 3
