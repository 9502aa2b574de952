"""Several relays on one outbox: each key has one, every event is sent, and a relay takes no publication but its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install
from tests.plugins.command import run_command
from tests.plugins.oracle import judge
from tests.plugins.outbox import ended, ids
from tests.plugins.waiting import eventually

pytestmark = pytest.mark.since_postgres(15)
"""Before that, publications have no row filters."""

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox


def install(outbox: Outbox) -> None:
    apply_install(outbox.database.dsn, InstallOptions(shards=2), lambda _words: None)


def fill(outbox: Outbox, rows: int) -> None:
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload)"
        f" SELECT 'order', n % 100, 'OrderPlaced', to_json(n) FROM generate_series(1, {rows}) n"
    )


def confirmed(outbox: Outbox, lsn: str) -> bool:
    query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '_of_2$' AND database = current_database()"
    return outbox.database.execute(f"{query} AND confirmed_flush_lsn >= '{lsn}'") == [(2,)]


def test_two_shards_send_all_there_was_and_all_that_comes_in_order_of_each_key_though_one_is_killed(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    install(outbox)
    fill(outbox, 2000)
    first, second = (outbox.relay("--shard", f"{shard}/2") for shard in range(2))
    sent = [relay.wait_for_log("snapshot.finished")["rows"] for relay in (first, second)]
    assert sum(sent) == 2000
    assert min(sent) > 500, "the keys are not spread"
    with writers(threads=4, rate=500) as load:
        eventually(lambda: load.committed > 500, "writers write")
        second.kill()
        written = load.committed
        eventually(lambda: load.committed > written + 300, "writers go on while a shard is away")
        second = outbox.streaming("--shard", "1/2")
    end = outbox.current_lsn()
    outbox.add()
    eventually(lambda: confirmed(outbox, end), "both slots are confirmed to the end")
    verdict = judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert verdict.events > 2800
    for relay in (first, second):
        relay.terminate()
        assert relay.wait() == 0


def test_from_one_relay_to_two_nothing_is_lost_and_each_key_keeps_its_order(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    install(outbox)
    one = outbox.streaming()
    with writers(threads=4, rate=500) as load:
        eventually(lambda: load.committed > 200, "writers write")
        for shard in range(2):
            made = run_command("slot", "create", "--slot", f"cdc_outbox_{shard}_of_2", dsn=outbox.database.dsn)
            assert made.returncode == 0, made.stderr
        one.terminate()
        assert one.wait() == 0
        for shard in range(2):
            outbox.streaming("--shard", f"{shard}/2")
        written = load.committed
        eventually(lambda: load.committed > written + 300, "writers go on")
    end = outbox.current_lsn()
    outbox.add()
    eventually(lambda: confirmed(outbox, end), "both slots are confirmed to the end")
    judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)


def test_an_event_without_a_key_belongs_to_one_shard_in_the_snapshot_and_in_the_stream(outbox: Outbox) -> None:
    install(outbox)
    written = [outbox.add(aggregateid=None)]
    for _ in range(2):
        for shard in range(2):
            outbox.drain("--shard", f"{shard}/2")
        written.append(outbox.add(aggregateid=None))
    assert sorted(ids(outbox.records())) == sorted(written[:2])


def refused(relay: Relay, *words: str) -> None:
    ended(relay, 78, *words)


def test_a_shard_takes_no_publication_but_its_own(outbox: Outbox) -> None:
    install(outbox)
    outbox.database.execute(
        "DROP PUBLICATION cdc_outbox_0_of_2; CREATE PUBLICATION cdc_outbox_0_of_2 FOR TABLE outbox WHERE ("
        "mod(hashtext(coalesce(aggregateid, '')) & 2147483647, 2) = 1) WITH (publish = 'insert')"
    )
    refused(
        outbox.relay("--shard", "0/2"),
        "does not send just the rows of shard 0/2",
        "sql install --publication cdc_outbox_0_of_2 --shards 2",
    )
    outbox.database.execute("ALTER PUBLICATION cdc_outbox_0_of_2 SET TABLE outbox")
    refused(outbox.relay("--shard", "0/2"), "does not send just the rows of shard 0/2", "WHERE true")
    refused(outbox.relay("--shard", "0/3"), "publication cdc_outbox_0_of_3 of shard 0/3 does not exist")
    refused(outbox.relay("--publication", "cdc_outbox_1_of_2"), "sends the rows of shard 1/2 only")
    assert not outbox.slots()
