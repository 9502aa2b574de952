"""A table that changes underneath: the relay goes on, or stops with a cure after which nothing is lost."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.relay.catalog_watch import WATCH_SECONDS
from tests.faults.acts import QUICK_RECONNECT, confirmed, down, ends_well, judged, recover, terminate_walsender, up
from tests.plugins.outbox import TABLE, Outbox, ended, ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import PostgresServer

LATE: Final = 10.0
"""Seconds of grace for a look at the catalog."""

PAUSED: Final = ("--max-in-flight-events", "20", "--shutdown-timeout", "2s", *QUICK_RECONNECT)
"""Reading is paused soon after Kafka is down; then the catalog is looked at at once."""


MADE_AGAIN: Final = TABLE.format(table="outbox", payload="json")


@pytest.fixture
def ready(outbox: Outbox) -> Outbox:
    outbox.create()
    outbox.create_slot()
    return outbox


@pytest.fixture
def paused(fragile: Outbox) -> Outbox:
    """With a Kafka that may be broken, for relays with the options `PAUSED`."""
    fragile.create()
    fragile.create_slot()
    return fragile


def held_up(outbox: Outbox) -> Relay:
    """A relay that has a hundred events to deliver, and a Kafka that is down."""
    relay = outbox.streaming(*PAUSED)
    outbox.add()
    outbox.records(until=1)
    down(outbox.kafka)
    outbox.add_all([{} for _ in range(100)])
    return relay


# Renamed


def test_after_a_rename_the_relay_stops_at_the_first_row_and_continues_with_the_new_name(
    ready: Outbox, witness: Witness
) -> None:
    relay = ready.streaming()
    ready.confirm()
    ready.database.execute("ALTER TABLE outbox RENAME TO events")
    unseen = ready.add("events")
    last = ended(relay, 78, "public.outbox has become public.events", "--table public.events")
    assert last["lsn"]
    (renamed,) = [each for each in witness.transactions() if each.events[0].id == unseen]
    assert confirmed(ready) < renamed.end_lsn
    ended(ready.relay(), 78, "public.outbox", "does not exist", "--table")
    again = ready.streaming("--table", "events")
    ready.add("events")
    assert judged_after(ready, again, witness).duplicates == 0


def test_rows_that_wait_under_the_old_name_come_under_the_new_one_too(paused: Outbox, witness: Witness) -> None:
    relay = held_up(paused)
    paused.database.execute("ALTER TABLE outbox RENAME TO events")
    paused.add("events")
    last = ended(relay, 78, "public.outbox has become public.events", "--table public.events")
    assert last["lsn"]
    up(paused.kafka)
    again = paused.streaming("--table", "events")
    paused.add("events")
    judged_after(paused, again, witness)


def test_renamed_back_the_relay_continues(ready: Outbox, witness: Witness) -> None:
    relay = ready.streaming()
    ready.confirm()
    ready.database.execute("ALTER TABLE outbox RENAME TO events")
    ready.add("events")
    ended(relay, 78, "has become")
    ready.database.execute("ALTER TABLE events RENAME TO outbox")
    ready.add()
    assert ends_well(ready, ready.streaming(), witness).duplicates == 0


@pytest.mark.parametrize(
    ("there", "meanwhile", "back"),
    [
        ("ALTER TABLE outbox RENAME TO events", "events", "ALTER TABLE events RENAME TO outbox"),
        ("ALTER SCHEMA public RENAME TO shop", "shop.outbox", "ALTER SCHEMA shop RENAME TO public"),
    ],
    ids=["the table", "its schema"],
)
def test_renamed_and_renamed_back_within_a_second_the_relay_goes_on(
    there: str, meanwhile: str, back: str, ready: Outbox, witness: Witness
) -> None:
    relay = ready.streaming()
    ready.confirm()
    ready.database.execute(there)
    ready.add(meanwhile)
    ready.database.execute(back)
    ready.add()
    relay.wait_for_log("streaming", nth=2)
    ends_well(ready, relay, witness)


def test_moved_to_another_schema_it_is_renamed(ready: Outbox, witness: Witness) -> None:
    relay = ready.streaming()
    ready.add()
    ready.database.execute("CREATE SCHEMA shop; ALTER TABLE outbox SET SCHEMA shop")
    ready.add("shop.outbox")
    ended(relay, 78, "public.outbox has become shop.outbox", "--table shop.outbox")
    again = ready.streaming("--table", "shop.outbox")
    ready.add("shop.outbox")
    judged_after(ready, again, witness)


def judged_after(outbox: Outbox, relay: Relay, witness: Witness):  # type: ignore[no-untyped-def]
    """What is committed arrives; then it stops cleanly, and is judged."""
    outbox.records(until=len(witness.committed()))
    relay.terminate()
    assert relay.wait() == 0, relay.stderr_text
    return judged(outbox, witness)


# Dropped


def test_dropped_it_stops_and_what_was_written_before_comes_once_there_is_a_table_again(
    paused: Outbox, witness: Witness
) -> None:
    relay = held_up(paused)
    paused.database.execute("DROP TABLE outbox")
    assert ended(relay, 78, "public.outbox", "does not exist", "sql install")["lsn"]
    up(paused.kafka)
    paused.create_table()
    paused.database.execute("ALTER PUBLICATION cdc_outbox ADD TABLE outbox")
    paused.add()
    paused.drain()
    assert judged(paused, witness).events == 102


def test_dropped_and_made_again_it_stops_and_recovery_sends_what_is_in_the_new_one(
    paused: Outbox, witness: Witness
) -> None:
    relay = held_up(paused)
    up(paused.kafka)
    paused.records(until=101)
    down(paused.kafka)
    paused.add_all([{} for _ in range(100)])
    paused.database.execute(f"DROP TABLE outbox; {MADE_AGAIN}")
    unseen = paused.add()
    ended(relay, 78, "public.outbox", "dropped and made again", "ADD TABLE", "slot recover")
    up(paused.kafka)
    ended(paused.relay(), 78, "does not publish table public.outbox", "slot recover")
    paused.database.execute("ALTER PUBLICATION cdc_outbox ADD TABLE outbox")
    ended(
        paused.relay(),
        78,
        "publication cdc_outbox was changed while rows of public.outbox were written",
        "slot recover",
    )
    assert unseen not in ids(paused.records())
    recover(paused)
    paused.drain()
    judged(paused, witness)


def test_dropped_and_made_again_while_the_connection_was_away_it_stops(ready: Outbox) -> None:
    relay = ready.streaming()
    ready.database.execute(f"DROP TABLE outbox; {MADE_AGAIN}; ALTER PUBLICATION cdc_outbox ADD TABLE outbox")
    terminate_walsender(ready.database)
    ended(relay, 78, "public.outbox", "dropped and made again", "slot recover")


# Columns


def test_a_required_column_that_was_renamed_is_named_with_both_names_and_nothing_is_lost(
    ready: Outbox, witness: Witness
) -> None:
    relay = ready.streaming()
    before = ready.add()
    ready.database.execute("ALTER TABLE outbox RENAME payload TO body")
    after = insert_body(ready)
    last = ended(relay, 78, "no column payload", "--payload-column", "name both")
    assert last["lsn"]
    ready.database.execute("ALTER TABLE outbox RENAME body TO payload")
    back = ready.add()
    ended(ready.relay(), 78, "no column payload", "even after it is renamed back")
    ready.drain("--payload-column", "body,payload")
    assert ids(ready.records()) == [before, after, back]
    assert judged(ready, witness).duplicates == 0


def insert_body(outbox: Outbox) -> str:
    query = (
        "INSERT INTO outbox (id, aggregatetype, aggregateid, type, body)"
        " VALUES (gen_random_uuid(), 'order', '1', 'OrderPlaced', '{}') RETURNING id::text"
    )
    return str(outbox.database.execute(query)[0][0])


def test_a_type_that_cannot_be_a_payload_stops_it_and_rows_of_that_time_come_from_the_table(
    ready: Outbox, witness: Witness
) -> None:
    relay = ready.streaming()
    ready.add(payload="1")
    ready.database.execute("ALTER TABLE outbox ALTER payload TYPE text")
    ready.add(payload="2")
    ready.records(until=2)
    ready.database.execute("ALTER TABLE outbox ALTER payload TYPE int USING payload::int")
    ready.add(payload=3)
    assert ended(relay, 78, "payload", "cannot be the event's payload", "json, jsonb, text", "slot recover")["lsn"]
    ready.database.execute("ALTER TABLE outbox ALTER payload TYPE text")
    ended(ready.relay(), 78, "payload", "cannot be the event's payload")
    recover(ready)
    ready.drain()
    assert judged(ready, witness).events == 3


@pytest.mark.nightly
def test_changes_that_the_stream_does_not_show_are_found_within_forty_seconds(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    """Several relays at once, since all of them wait for the same half minute."""
    server = own_postgres()
    changes = {
        "DROP TABLE outbox; CREATE TABLE outbox (LIKE model)": "dropped and made again",
        "DROP TABLE outbox": "does not exist",
        "ALTER TABLE outbox RENAME TO events": "has become public.events",
        "ALTER PUBLICATION cdc_outbox DROP TABLE outbox": "does not publish table",
        "ALTER PUBLICATION cdc_outbox SET TABLE outbox WHERE (seq > 5)": "hides rows",
        "ALTER PUBLICATION cdc_outbox SET (publish = 'update')": "does not publish inserts",
        "DROP PUBLICATION cdc_outbox": "publication cdc_outbox does not exist",
    }
    outboxes = []
    for number in range(len(changes)):
        outbox = Outbox(server.create_database(), kafka, relay)
        outbox.create()
        outbox.database.execute("CREATE TABLE model (LIKE outbox)")
        slot = f"slot_{number}"
        outbox.database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        outboxes.append((outbox, outbox.relay("--slot", slot)))
    for _, running in outboxes:
        running.wait_for_log("streaming")
    began = time.monotonic()
    for (outbox, _), change in zip(outboxes, changes, strict=True):
        outbox.database.execute(change)
    for (_, running), words in zip(outboxes, changes.values(), strict=True):
        assert ended(running, 78, words, timeout=WATCH_SECONDS + LATE)["lsn"]
    assert time.monotonic() - began < WATCH_SECONDS + LATE
