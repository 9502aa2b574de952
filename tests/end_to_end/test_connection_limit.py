"""A role with CONNECTION LIMIT 1: PostgreSQL does not count the stream, so the catalog watch has a connection."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from cdc_outbox.observe.logs import REPEAT_SECONDS
from tests.plugins.outbox import event_id
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox

PASSWORD: Final = "limited"


def has_looked(relay: Relay) -> bool:
    """Whether the catalog watch has read the slot."""
    with urllib.request.urlopen(f"{relay.http_url}/status", timeout=10) as answer:
        return json.loads(answer.read())["wal_status"] is not None


@pytest.fixture
def limited(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    role = f"limited_{outbox.database.name}"
    outbox.database.execute(
        f"CREATE ROLE {role} LOGIN REPLICATION CONNECTION LIMIT 1 PASSWORD '{PASSWORD}'; GRANT SELECT ON outbox TO {role}"
    )
    return outbox


def test_the_watch_looks_with_a_limit_of_one_and_warns_with_a_cure_that_helps_when_another_session_has_the_place(
    limited: Outbox,
) -> None:
    role = f"limited_{limited.database.name}"
    dsn = limited.database.dsn_for(role, PASSWORD)
    relay = limited.streaming(dsn=dsn, http=True)
    written = limited.add()
    assert [event_id(record) for record in limited.records(until=1)] == [written]
    eventually(lambda: has_looked(relay), "the watch looks")
    limited.database.execute("ALTER TABLE outbox ADD other int")  # nothing is confirmed before a look that succeeds
    limited.add()
    limited.confirm()
    failed = len(relay.log_lines("watch.failed"))
    assert failed <= 1, "PostgreSQL may still count the session of the start, but only for a moment"
    eventually(lambda: takes_the_place(limited, dsn), "the watch has closed its connection")
    limited.database.execute("ALTER TABLE outbox ADD extra int")  # the next row makes the watch look at once
    limited.add()
    # The log has an equal warning once in REPEAT_SECONDS, and the watch looks again every five.
    within = 10 + failed * REPEAT_SECONDS
    assert "CONNECTION LIMIT" in relay.wait_for_log("watch.failed", nth=failed + 1, timeout=within)["cure"]
    limited.database.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3")
    limited.confirm()
    relay.terminate()
    assert relay.wait() == 0


def takes_the_place(outbox: Outbox, dsn: str) -> bool:
    """Open a session of the role, which stays open; False when it is refused."""
    try:
        outbox.database.connect(dsn)
    except psycopg.OperationalError:
        return False
    return True
