"""A standby takes over: what goes on, what is sent again, and what only a setting of PostgreSQL can prevent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import psycopg
import pytest

from tests.plugins.command import run_command
from tests.plugins.oracle import judge
from tests.plugins.outbox import SLOT, ended, event_id, ids
from tests.plugins.pair import Writer
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox
    from tests.plugins.pair import Pair, PairOutbox
    from tests.plugins.secure import TlsOutbox

pytestmark = pytest.mark.nightly

SOME: Final = 50
"""Events that are under way when something happens."""

SINCE: Final = 170000
"""server_version_num from which a slot can have copies on standbys."""

RECONNECTED: Final = 60.0
"""Seconds; the relay's pauses have grown to a quarter of that when a promotion takes long."""


def started(outbox: PairOutbox, pair: Pair) -> Relay:
    """A relay that streams from a failover slot which the standby has a copy of."""
    relay = outbox.streaming("--failover")
    outbox.confirm()  # a slot that has never moved may be younger than the standby can copy
    pair.standby.wait_for_copy(SLOT)
    return relay


def judged(outbox: PairOutbox, relay: Relay) -> None:
    """All that the present primary has is in Kafka, in order, and nothing else but the same events again."""
    outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0, relay.stderr_text
    judge(outbox.committed(), outbox.records())


def test_a_planned_switch_loses_nothing_and_keeps_the_order(pair: Pair, pair_outbox: PairOutbox) -> None:
    relay = started(pair_outbox, pair)
    with Writer(pair.dsn(pair_outbox.database.name)) as writer:
        eventually(lambda: writer.committed > SOME, "events are written")
        pair.primary.stop("fast")
        pair.promote()
        relay.wait_for_log("streaming", nth=2, timeout=RECONNECTED)
        before = writer.committed
        eventually(lambda: writer.committed > before + SOME, "events are written to the new primary")
    judged(pair_outbox, relay)


def test_a_lost_primary_takes_nothing_along_that_was_delivered(pair: Pair, pair_outbox: PairOutbox) -> None:
    """With synchronized_standby_slots: what the standby does not have is not sent, so consumers never see what gets lost."""
    pair.hold_back_what_the_standby_lacks()
    relay = started(pair_outbox, pair)
    with Writer(pair.dsn(pair_outbox.database.name)) as writer:
        eventually(lambda: writer.committed > SOME, "events are written")
        pair.wire.refuse()
        waiting = relay.wait_for_log("postgres.warning")
        assert "synchronized_standby_slots" in waiting["error"]
        assert "Start the standby" in waiting["cure"]
        before = writer.committed
        eventually(lambda: writer.committed > before + SOME, "events are written that the standby will never have")
        pair.primary.kill()
        pair.promote()
        relay.wait_for_log("streaming", nth=2, timeout=RECONNECTED)
        before = writer.committed
        eventually(lambda: writer.committed > before + SOME, "events are written to the new primary")
    assert len(pair_outbox.committed()) < writer.committed
    judged(pair_outbox, relay)


def test_the_new_primarys_events_all_arrive(pair: Pair, pair_outbox: PairOutbox) -> None:
    """Without synchronized_standby_slots: events were delivered that the new primary does not have, and the LSNs that were
    acknowledged lie ahead of all that it writes. A relay that went on from there would skip its events without a word.
    """
    relay = started(pair_outbox, pair)
    kept = [pair_outbox.add(), pair_outbox.add()]
    written = pair_outbox.current_lsn()
    with psycopg.connect(pair.standby.dsn, autocommit=True) as standby:
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        eventually(lambda: standby.execute(replayed, [written]).fetchone() == (True,), "the standby has what is kept")
    pair.wire.refuse()
    ghosts = [pair_outbox.add() for _ in range(SOME)]
    pair_outbox.database.execute("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 1000000))")
    pair_outbox.confirm()
    [[acknowledged]] = pair_outbox.database.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [SLOT]
    )
    pair.primary.kill()
    pair.promote()
    relay.wait_for_log("streaming", nth=2, timeout=RECONNECTED)
    fresh = [pair_outbox.add() for _ in range(SOME)]
    assert pair_outbox.database.execute("SELECT pg_current_wal_lsn() < %s::pg_lsn", [acknowledged]) == [(True,)]
    pair_outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0, relay.stderr_text
    records = pair_outbox.records()
    assert set(kept) | set(ghosts) | set(fresh) <= set(ids(records))
    there = pair_outbox.committed()
    assert set(kept) | set(fresh) <= {event.id for event in there}
    assert not set(ghosts) & {event.id for event in there}, "the new primary has what it should lack"
    judge(there, [record for record in records if event_id(record) in {event.id for event in there}])


def test_a_standby_is_waited_for_until_it_is_promoted(pair: Pair, pair_outbox: PairOutbox) -> None:
    """And no slot is made on it. PostgreSQL 16 and later would let us: one that no primary knows, and nobody remembers."""
    first = started(pair_outbox, pair)
    first.terminate()
    assert first.wait() == 0
    relay = pair_outbox.relay(
        "--failover",
        dsn=pair.dsn(pair_outbox.database.name, port=pair.standby.port, host="127.0.0.1", target_session_attrs="any"),
    )
    waiting = relay.wait_for_log("waiting")
    assert "is a standby, in recovery" in waiting["error"]
    assert "target_session_attrs=read-write" in waiting["cure"]
    created = run_command("slot", "create", "--slot", "another", dsn=pair.standby.dsn)
    assert (created.returncode, "is a standby, in recovery" in created.stderr) == (69, True), created.stderr
    pair.primary.stop("fast")
    pair.promote()
    relay.wait_for_log("streaming", timeout=RECONNECTED)
    judged(pair_outbox, relay)


def test_no_server_that_takes_writes_is_waited_for_and_reported(pair: Pair, pair_outbox: PairOutbox) -> None:
    started(pair_outbox, pair).kill()
    pair.primary.stop("fast")
    relay = pair_outbox.relay("--failover", "--startup-timeout", "2")
    ended(relay, 69, "no server takes writes", "Connection refused", "read-only", "when it is promoted")


def test_without_failover_the_slot_ends_with_its_server_and_the_relay_reports_it(
    pair: Pair, pair_outbox: PairOutbox
) -> None:
    """And a new start sends every row of the table, so that nothing is lost all the same."""
    relay = pair_outbox.streaming()
    pair_outbox.add()
    pair_outbox.confirm()
    pair.primary.stop("fast")
    pair.promote()
    ended(relay, 78, f"slot {SLOT} is gone", "every row that is still in the table", timeout=RECONNECTED)
    pair_outbox.drain()
    judge(pair_outbox.committed(), pair_outbox.records())


def test_a_slot_that_was_made_again_after_a_failover_below_the_old_position_is_not_taken_for_the_old_one(
    pair: Pair, pair_outbox: PairOutbox
) -> None:
    """Permanent slots of a cluster manager: the new primary has a slot of the name, which begins after the promotion."""
    relay = pair_outbox.streaming(http=True)
    pair_outbox.add()
    pair_outbox.confirm()
    with psycopg.connect(pair.standby.dsn, autocommit=True) as standby:
        replayed = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        written = pair_outbox.current_lsn()
        eventually(lambda: standby.execute(replayed, [written]).fetchone() == (True,), "the standby has it all")
    pair.wire.refuse()
    for _ in range(SOME):
        pair_outbox.add()
    pair_outbox.database.execute("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 1000000))")
    pair_outbox.confirm()
    pair.primary.kill()
    pair.promote()
    skipped = pair_outbox.add()
    pair_outbox.create_slot()
    ended(relay, 78, SLOT, "made again", "slot recover", timeout=RECONNECTED)
    assert skipped not in ids(pair_outbox.records())


def test_run_makes_an_existing_slot_one_that_fails_over(outbox: Outbox) -> None:
    since_17(outbox)
    outbox.create()
    outbox.create_slot()
    first = outbox.streaming()
    assert failover_of(outbox) is False
    outbox.relay("--failover").wait_for_log("standby")
    first.terminate()
    assert first.wait() == 0
    eventually(lambda: failover_of(outbox), "the slot is one that fails over, as soon as it can be changed")
    outbox.confirm()


def test_slot_create_makes_one_that_fails_over(outbox: Outbox) -> None:
    since_17(outbox)
    done = run_command("slot", "create", "--failover", dsn=outbox.database.dsn)
    assert done.returncode == 0, done.stderr
    assert failover_of(outbox) is True
    shown = run_command("slot", "status", dsn=outbox.database.dsn)
    assert "standbys may keep a copy" in shown.stdout


def test_before_postgresql_17_it_is_78(tls_outbox: TlsOutbox) -> None:
    if tls_outbox.database.server.version >= SINCE:
        pytest.skip("the server with TLS is newer")
    ended(tls_outbox.relay("--failover"), 78, "needs PostgreSQL 17")
    assert not tls_outbox.slots()


def since_17(outbox: Outbox) -> None:
    if outbox.database.server.version < SINCE:
        pytest.skip("slots fail over since PostgreSQL 17")


def failover_of(outbox: Outbox) -> object:
    found = outbox.slot()
    assert found is not None
    return found["failover"]
