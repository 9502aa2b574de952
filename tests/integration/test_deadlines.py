"""Every wait for PostgreSQL ends: a server that does not answer is given up, one that works on a long query is not."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final

import pytest
from psycopg.conninfo import make_conninfo

from cdc_outbox.commands import emit, prune, slots
from cdc_outbox.commands.install import InstallOptions, apply_install
from cdc_outbox.commands.installation import read_installation
from cdc_outbox.errors import Unreachable
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres import connect, slot, table_rows
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop, Stopped
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database
    from tests.servers.proxy import Proxy

ANSWER: Final = 1.0
"""Seconds for an answer, in place of `connect.ANSWER_SECONDS`."""

LATE: Final = 6.0
"""Seconds of grace: a look on a second connection, and a busy machine."""

TABLE: Final = TableName("public", "outbox")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "ANSWER_SECONDS", ANSWER)


@pytest.fixture
def wire(proxy: Callable[[str], Proxy], database: Database) -> Proxy:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    database.execute(f"SELECT pg_create_logical_replication_slot('s_{database.name}', 'pgoutput')")
    return proxy(database.dsn)


@pytest.fixture
def dsn(wire: Proxy, database: Database) -> str:
    return make_conninfo(database.dsn, port=wire.port, connect_timeout=2, sslmode="disable")


@contextlib.contextmanager
def gives_up() -> Iterator[None]:
    began = time.monotonic()
    with pytest.raises(Unreachable) as silence:
        yield
    assert silence.value.code == "postgres-silent"
    assert time.monotonic() - began < ANSWER + LATE


def follow(dsn: str, name: str) -> None:
    session = ReplicationSession(dsn, Stop())
    with contextlib.closing(session):
        ReplicationStream.start(session, Stop(), slot=name, publication="cdc_outbox").close()


def create_temporary(dsn: str, name: str) -> None:
    session = ReplicationSession(dsn, Stop())
    with contextlib.closing(session):
        slot.create(session, f"t{name}", temporary=True)


def count(dsn: str, _name: str) -> None:
    with table_rows.open_snapshot(dsn, None, Stop()) as snapshot:
        snapshot.count(TABLE)


def prune_all(dsn: str, name: str) -> None:
    order = prune.PruneOrder(dsn, name, "cdc_outbox", (TABLE,), 60.0)
    prune.prune(order, Stop(), prune.PruneProgress())


ACTS: Final = {
    "slot status": slots.read_status,
    "slot create": create_temporary,
    "stream": follow,
    "snapshot": count,
    "prune": prune_all,
    "sql status": lambda dsn, _name: read_installation(dsn, InstallOptions()),
    "sql install": lambda dsn, _name: apply_install(dsn, InstallOptions(), pytest.fail),
    "emit": lambda dsn, _name: emit.emit_event(dsn, TABLE, emit.NewEvent("order", "1", "Placed", b"{}", None)),
}
"""All that waits for PostgreSQL, as a function of a conninfo and a slot."""


@pytest.mark.parametrize("act", ACTS)
def test_a_server_that_stops_to_answer_is_given_up(
    act: str, wire: Proxy, dsn: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is frozen once it is open: every query after the login is the first without an answer in turn."""
    original = connect._open
    opened: list[connect.Connection] = []

    def open_then_freeze(conninfo: str) -> connect.Connection:
        connection = original(conninfo)
        opened.append(connection)
        wire.freeze()
        return connection

    monkeypatch.setattr(connect, "_open", open_then_freeze)
    with gives_up():
        ACTS[act](dsn, f"s_{database.name}")
    assert opened


def test_a_short_query_has_a_deadline_although_the_server_works_on_it(dsn: str) -> None:
    with gives_up(), connect.open_connection(dsn) as connection:
        connection.execute("SELECT pg_catalog.pg_sleep(30)")


def test_a_query_that_is_given_up_is_cancelled(dsn: str, database: Database) -> None:
    with gives_up(), connect.open_connection(dsn) as connection:
        connection.execute("SELECT pg_catalog.pg_sleep(300)")
    running = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep(300)%%'"
    eventually(
        lambda: database.execute(f"{running} AND pid <> pg_backend_pid()", [database.name]) == [(0,)], "it has ended"
    )


def test_a_long_query_is_waited_for_while_the_server_works_on_it(dsn: str) -> None:
    with connect.open_connection(dsn) as connection:
        looks: list[bool] = []
        connection.on_progress = lambda: looks.append(True)
        with connection.long_query():
            connection.execute(f"SELECT pg_catalog.pg_sleep({3.5 * ANSWER})")
    assert 2 <= len(looks) <= 3


def test_the_rows_of_an_answer_may_come_slowly(wire: Proxy, dsn: str) -> None:
    """Each piece is on its way for less than the limit, all of them together for longer."""
    with connect.open_connection(dsn) as connection:
        slow = "SELECT number, repeat('x', 9000) FROM generate_series(1, 6) number, pg_catalog.pg_sleep(0.4)"
        assert len(connection.execute(slow).fetchall()) == 6


def test_an_answer_that_was_lost_is_not_waited_for_although_the_query_was_long(wire: Proxy, dsn: str) -> None:
    """The server has answered, and a NAT has forgotten the connection meanwhile."""
    with gives_up(), connect.open_connection(dsn) as connection:
        wire.forget_idle(0.2)
        with connection.long_query():
            connection.execute("SELECT pg_catalog.pg_sleep(0.5)")


def test_a_slot_that_waits_for_a_transaction_is_waited_for_and_a_lost_answer_is_not(
    wire: Proxy, dsn: str, database: Database
) -> None:
    writer = database.connect(autocommit=False)
    writer.execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('order', '1', 'Placed')")
    threading.Timer(2.5 * ANSWER, writer.commit).start()
    create_temporary(dsn, database.name)
    again = database.connect(autocommit=False)
    again.execute("INSERT INTO outbox (aggregatetype, aggregateid, type) VALUES ('order', '1', 'Placed')")
    wire.forget_idle(0.5 * ANSWER)
    threading.Timer(1.5 * ANSWER, again.commit).start()
    began = time.monotonic()
    with pytest.raises(Unreachable) as silence:
        create_temporary(dsn, database.name)
    assert silence.value.code == "postgres-silent"
    assert time.monotonic() - began < 1.5 * ANSWER + 2 * ANSWER + LATE


def test_a_stop_ends_a_query_at_once_and_cancels_it(dsn: str, database: Database) -> None:
    stop = Stop()
    threading.Timer(0.5, stop.request).start()
    began = time.monotonic()
    with pytest.raises(Stopped), connect.open_connection(dsn, stop) as connection, connection.long_query():
        connection.execute("SELECT pg_catalog.pg_sleep(301)")
    assert time.monotonic() - began < 0.5 + LATE / 2
    running = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND query LIKE '%%pg_sleep(301)%%'"
    eventually(
        lambda: database.execute(f"{running} AND pid <> pg_backend_pid()", [database.name]) == [(0,)], "it has ended"
    )


def test_an_idle_connection_is_kept_alive(wire: Proxy, dsn: str) -> None:
    with connect.open_connection(dsn) as connection, connection.kept_alive():
        wire.forget_idle(connect.KEPT_ALIVE_SECONDS + LATE)
        idle_since = time.monotonic()
        eventually(lambda: time.monotonic() - idle_since > connect.KEPT_ALIVE_SECONDS + LATE, "a NAT would forget it")
        connection.require_alive()
        assert connection.execute("SELECT 2").fetchone() == (2,)


def test_a_connection_that_breaks_while_it_is_kept_alive_is_noticed_without_a_query(wire: Proxy, dsn: str) -> None:
    with connect.open_connection(dsn) as connection, connection.kept_alive():
        wire.cut()

        def broken() -> bool:
            with contextlib.suppress(Unreachable):
                connection.require_alive()
                return False
            return True

        eventually(broken, "the loss is noticed")


def test_the_server_notices_a_dead_client_which_may_have_a_lock(dsn: str) -> None:
    with connect.open_connection(dsn) as connection:
        assert connection.execute("SHOW tcp_keepalives_idle").fetchone() == ("30",)
