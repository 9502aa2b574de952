"""A role with CONNECTION LIMIT 1: the stream may take the only connection. PostgreSQL 18 does not count a walsender."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

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


def test_the_watch_is_no_end_of_the_stream_and_either_looks_or_warns_with_a_cure_that_helps(limited: Outbox) -> None:
    role = f"limited_{limited.database.name}"
    relay = limited.streaming(dsn=limited.database.dsn_for(role, PASSWORD), http=True)
    written = limited.add()
    assert [event_id(record) for record in limited.records(until=1)] == [written]
    eventually(lambda: has_looked(relay) or relay.log_lines("watch.failed"), "the watch looks, or warns")
    for line in relay.log_lines("watch.failed"):
        assert "CONNECTION LIMIT" in line["cure"]
        assert not has_looked(relay)
        limited.database.execute(f"ALTER ROLE {role} CONNECTION LIMIT 3")
        eventually(lambda: has_looked(relay), "the watch looks again")
    limited.confirm()
    relay.terminate()
    assert relay.wait() == 0
