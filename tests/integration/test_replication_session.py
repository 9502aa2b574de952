"""A walsender session: what one command leaves behind for the next."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import ConfigurationError, ConnectionLost, SlotBusy
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.postgres import Database


@pytest.fixture
def session(database: Database) -> Iterator[Callable[[], ReplicationSession]]:
    with contextlib.ExitStack() as sessions:

        def start() -> ReplicationSession:
            opened = ReplicationSession(database.dsn, Stop())
            sessions.callback(opened.close)
            return opened

        yield start


def test_a_standby_asks_for_a_busy_slot_again_and_again_on_one_connection_until_it_gets_it(
    session: Callable[[], ReplicationSession], database: Database
) -> None:
    database.execute("CREATE PUBLICATION cdc_outbox")
    slot = f"slot_{database.name}"
    database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    holder = ReplicationStream.start(session(), Stop(), slot=slot, publication="cdc_outbox")
    standby = session()
    for _ in range(3):
        with pytest.raises(SlotBusy, match="is active for PID"):
            ReplicationStream.start(standby, Stop(), slot=slot, publication="cdc_outbox")
    holder.close()
    ReplicationStream.start(standby, Stop(), slot=slot, publication="cdc_outbox").close()


def test_a_refused_command_leaves_the_session_ready_for_the_next(session: Callable[[], ReplicationSession]) -> None:
    asked = session()
    with pytest.raises(ConfigurationError):
        asked.rows("SELECT 1 / 0")
    assert asked.rows("SELECT 1") == [("1",)]


def test_the_message_of_a_server_that_ends_the_session_is_quoted(
    session: Callable[[], ReplicationSession], database: Database
) -> None:
    asked = session()
    ((pid,),) = asked.rows("SELECT pg_backend_pid()")
    with pytest.raises(ConnectionLost, match="terminating connection due to administrator command"):
        asked.rows(f"SELECT pg_terminate_backend({pid})")
