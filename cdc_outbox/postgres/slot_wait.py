"""What a slot that is being created waits for: transactions that are open, prepared ones included.

In: a connection string, a walsender session. Out: the created slot; while that takes long, the transactions and the cure.
Never: a transaction ended; a connection kept; a wait of its own. The creation itself is silent in PostgreSQL.

PostgreSQL manual: 54.4 CREATE_REPLICATION_SLOT; 27.2.3 pg_stat_activity; 52.17 pg_prepared_xacts.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Final

from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.postgres import connect, open_transactions, slot
from cdc_outbox.postgres.replication import ReplicationSession

PATIENCE_SECONDS: Final = 5.0
"""A slot is created in milliseconds unless a transaction is open: after this long the reason is reported."""

REMINDER_SECONDS: Final = 30.0
"""Between two reports of the transactions that it waits for."""

LOOK_TIMEOUT_SECONDS: Final = 4.0
"""For the queries of one report, so that the first report is made within 10 s."""

Report = Callable[[str, str], None]
"""Receives what the creation waits for, and the cure (it may be empty). Called in a thread of its own."""


def create(
    session: ReplicationSession, dsn: str, name: str, report: Report, *, temporary: bool = False, snapshot: bool = False
) -> slot.CreatedSlot:
    """As `slot.create`; calls `report` while that takes long. Raises Stopped with no slot left behind."""
    with _explained(dsn, report):
        return slot.create(session, name, temporary=temporary, snapshot=snapshot)


@contextlib.contextmanager
def _explained(dsn: str, report: Report) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        pause = PATIENCE_SECONDS
        while not done.wait(pause):
            waits_for, cure = _open_transactions(dsn)
            if not done.is_set():
                report(waits_for, cure)
            pause = REMINDER_SECONDS

    threading.Thread(target=watch, name="blockers", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _open_transactions(dsn: str) -> tuple[str, str]:
    try:
        with connect.open_connection(dsn, timeout=LOOK_TIMEOUT_SECONDS) as connection:
            sessions, prepared = open_transactions.blockers(connection), open_transactions.prepared(connection)
    except CdcOutboxError as error:
        return f"PostgreSQL has not created the slot yet, and the reason cannot be read: {error}", error.cure
    if not sessions and not prepared:
        return "PostgreSQL has not created the slot yet, and no transaction that has written is open any more", ""
    found = "; ".join([each.text for each in sessions] + [each.text for each in prepared])
    cures = ["wait until they end, or end them"]
    cures += [f"SELECT pg_terminate_backend({each.pid});" for each in sessions]
    cures += [f"in database {each.database}: COMMIT PREPARED or ROLLBACK PREPARED {each.literal};" for each in prepared]
    return f"a slot begins when every transaction that has written something by now is over. Still open: {found}", (
        f"{cures[0]}: {' '.join(cures[1:])}"
    )
