"""Prune beside a real relay: whatever the relay is doing, a row that is gone from the table is in Kafka."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from cdc_outbox.commands.install import InstallOptions, render_install
from tests.faults.acts import recover
from tests.plugins.command import run_command
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

ALL: Final = ("prune", "--older-than", "0")


def prune(outbox: Outbox, *arguments: str, dsn: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(*ALL, *arguments, dsn=dsn or outbox.database.dsn)


def in_table(outbox: Outbox) -> set[str]:
    return {event for (event,) in outbox.database.execute("SELECT id::text FROM outbox")}


def test_prune_beside_a_stopped_a_lagging_and_a_caught_up_relay(outbox: Outbox) -> None:
    outbox.create()
    first = outbox.add_all([{} for _ in range(50)])
    outbox.drain()

    stopped = outbox.add()
    done = prune(outbox, "--wait", "1s")
    assert done.returncode == 75
    assert "has not confirmed" in done.stderr
    assert "no process streams from it" in done.stderr
    assert in_table(outbox) == {*first, stopped}

    relay = outbox.streaming()
    outbox.confirm()
    relay.stop()
    behind = outbox.add_all([{} for _ in range(50)])
    done = prune(outbox, "--wait", "1s")
    assert done.returncode == 75
    assert {*behind, stopped, *first} <= in_table(outbox)

    relay.cont()
    done = prune(outbox, "--batch-size", "7")
    assert (done.returncode, done.stdout) == (0, "public.outbox 102\n"), done.stderr
    assert {*first, stopped, *behind} <= set(ids(outbox.records()))
    assert in_table(outbox) == set()
    relay.terminate()
    assert relay.wait() == 0


def test_a_table_that_is_published_and_that_the_relay_does_not_send_is_refused(outbox: Outbox) -> None:
    outbox.create("outbox", "returns")
    tables = ("--table", "outbox", "--table", "returns")
    outbox.drain(*tables)
    relay = outbox.streaming()
    written = outbox.add("returns")
    sent = outbox.add()
    outbox.confirm()
    relay.wait_for_log("row.ignored")
    for options in (("--table", "returns"), tables):
        done = prune(outbox, *options)
        assert done.returncode == 78, done.stderr
        assert "[prune-not-relayed]" in done.stderr
    assert outbox.database.execute("SELECT id::text FROM returns") == [(written,)]
    assert sent in in_table(outbox), "nothing at all was deleted"
    assert prune(outbox).returncode == 0
    relay.terminate()
    assert relay.wait() == 0

    recover(outbox, *tables)
    relay = outbox.streaming(*tables)
    outbox.confirm()
    done = prune(outbox, *tables)
    assert done.returncode == 0, done.stderr
    assert written in ids(outbox.records()), "the cure of the message: rows that were ignored are sent by a recovery"


def test_killed_under_load_while_it_prunes_every_row_that_is_gone_is_in_kafka(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox ADD created_at timestamptz DEFAULT clock_timestamp()")
    pruned_before = 0
    with writers(threads=3, rate=40):
        for _ in range(3):
            relay = outbox.streaming("--prune-after", "1s")
            relay.wait_for_log("pruned", nth=2)
            relay.kill()
            committed = {event.id for event in witness.committed()}
            gone = committed - in_table(outbox)
            assert gone <= set(ids(outbox.records()))
            assert len(gone) > pruned_before
            pruned_before = len(gone)


def test_a_relay_that_may_not_delete_reports_it_and_continues(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute(
        "ALTER TABLE outbox ADD created_at timestamptz DEFAULT clock_timestamp();"
        "CREATE ROLE reader LOGIN REPLICATION PASSWORD 'reader-password'; GRANT SELECT ON outbox TO reader"
    )
    relay = outbox.streaming("--prune-after", "1s", dsn=outbox.database.dsn_for("reader", "reader-password"), http=True)
    first = outbox.add()
    refused = relay.wait_for_log("prune.failed", level="warning")
    grant = re.search(r"GRANT SELECT, DELETE ON .* TO \"reader\"", refused["cure"])
    assert grant is not None
    second = outbox.add()
    assert ids(outbox.records(until=2)) == [first, second]
    outbox.database.execute(refused["cure"])
    eventually(lambda: not in_table(outbox), "both are old by then, and go", seconds=60)
    relay.terminate()
    assert relay.wait() == 0


def test_a_partitioned_outbox_from_its_first_start_to_its_last_day(outbox: Outbox) -> None:
    outbox.database.execute(render_install(InstallOptions(partitioned=True)))
    outbox.database.execute(
        "CREATE TABLE outbox_old PARTITION OF outbox FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-01-02 00:00Z')"
    )
    old = [outbox.add(created_at="2026-01-01 12:00Z"), outbox.add(created_at="2020-01-01")]
    young = outbox.add()
    relay = outbox.streaming("--prune-after", "1d", "--partitions-ahead", "9")
    streamed = outbox.add(created_at="2026-01-01 13:00Z")
    line = relay.wait_for_log("pruned", timeout=60)
    assert (line["rows"], line["partitions_dropped"], line["partitions_made"]) == (3, 1, 2)
    assert in_table(outbox) == {young}
    assert outbox.database.execute("SELECT to_regclass('outbox_old')") == [(None,)]
    assert set(ids(outbox.records(until=4))) == {*old, young, streamed}
    replayed = run_command(
        *("replay", "-b", outbox.kafka.brokers, "--topic", outbox.prefix + "{aggregatetype}", "--all", "--yes"),
        dsn=outbox.database.dsn,
    )
    assert replayed.stdout == "public.outbox 1\n", replayed.stderr
    assert ids(outbox.records(until=5)).count(young) == 2
    relay.terminate()
    assert relay.wait() == 0
