"""A publication that changes underneath: the relay stops and confirms nothing past the gap, and `slot recover` closes it.

PostgreSQL 18 skips a publication that is missing, with a warning; before, the walsender ends with an error, for ever. Both are
tried: the server of the session, and an older one where Debian's packages are installed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.faults.acts import all_confirmed, confirmed, down, ends_well, judged, recover
from tests.plugins.absence import absent
from tests.plugins.command import run_command
from tests.plugins.nightly import others_nightly
from tests.plugins.oracle import Witness
from tests.plugins.outbox import Outbox, ended, ids
from tests.plugins.postgres import PostgresServer
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster

OLDER: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Debian's."""


@pytest.fixture(scope="module")
def older_server() -> Iterator[PostgresServer]:
    """A PostgreSQL before 18."""
    if not OLDER:
        absent("no PostgreSQL of Debian's is installed")
    with EmbeddedPostgres(bin_dir=OLDER[-1]) as embedded:
        yield PostgresServer(embedded.dsn, embedded)


@pytest.fixture(params=others_nightly(["of the session", "older"]))
def ready(request: pytest.FixtureRequest, kafka: KafkaCluster, relay: Callable[..., Relay]) -> Iterator[Outbox]:
    """An outbox with a table, a publication and a slot."""
    name = "older_server" if request.param == "older" else "postgres_server"
    database = request.getfixturevalue(name).create_database()
    outbox = Outbox(database, kafka, relay)
    outbox.create()
    outbox.create_slot()
    yield outbox
    database.drop()


def test_dropped_while_the_relay_runs_it_is_a_gap_that_making_it_again_does_not_close(ready: Outbox) -> None:
    witness = Witness(ready.database)
    relay = ready.streaming()
    before = ready.add()
    ready.records(until=1)
    delivered = witness.transactions()[-1].end_lsn
    eventually(lambda: confirmed(ready) >= delivered, "the event is confirmed")
    ready.database.execute("DROP PUBLICATION cdc_outbox")
    unseen = ready.add()
    ended(relay, 78, "publication", "while rows", "slot recover")
    stopped_at = confirmed(ready)
    ended(ready.relay(), 78, "publication cdc_outbox does not exist", "CREATE PUBLICATION", "slot recover")
    ready.publish("outbox")
    behind = ready.add()
    for _ in range(2):
        ended(ready.relay(), 78, "publication", "while rows", "slot recover")
    gap = next(each for each in witness.transactions() if each.events[0].id == unseen)
    assert stopped_at <= confirmed(ready) < gap.end_lsn, "confirmed past the gap"
    assert ids(ready.records()) == [before]
    recover(ready)
    ready.drain()
    assert ids(ready.records()) == [before, before, unseen, behind]
    judged(ready, witness)


def test_dropped_and_made_again_before_anything_was_written_it_is_no_gap(ready: Outbox) -> None:
    witness = Witness(ready.database)
    relay = ready.streaming()
    ready.add()
    ready.records(until=1)
    ready.database.execute("DROP PUBLICATION cdc_outbox")
    ready.publish("outbox")
    ready.add()
    assert ends_well(ready, relay, witness).duplicates == 0


def test_dropped_while_the_relay_is_away_it_is_a_gap_as_well(ready: Outbox) -> None:
    witness = Witness(ready.database)
    ready.add()
    ready.drain()
    ready.database.execute("DROP PUBLICATION cdc_outbox")
    unseen = ready.add()
    ready.publish("outbox")
    ready.add()
    ended(ready.relay(), 78, "publication", "while rows", "slot recover")
    gap = next(each for each in witness.transactions() if each.events[0].id == unseen)
    assert confirmed(ready) < gap.end_lsn
    recover(ready)
    ready.drain()
    judged(ready, witness)


def test_what_was_committed_before_the_gap_is_delivered_once_before_the_relay_stops(ready: Outbox) -> None:
    witness = Witness(ready.database)
    ready.add_all([{} for _ in range(300)])
    ready.add()
    ready.database.execute("DROP PUBLICATION cdc_outbox")
    unseen = ready.add()
    ready.publish("outbox")
    ended(ready.relay(), 78, "publication", "while rows")
    *before, gap = witness.transactions()
    assert gap.events[0].id == unseen
    assert confirmed(ready) < gap.end_lsn
    if ready.database.server.version >= 180_000:  # before, the server's side of the stream has ended by then
        assert confirmed(ready) >= before[-1].end_lsn
    assert len(ready.records()) == 301


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("ALTER PUBLICATION cdc_outbox DROP TABLE outbox", "does not publish table public.outbox"),
        ("ALTER PUBLICATION cdc_outbox SET TABLE outbox WHERE (seq > 1000)", "hides rows"),
        ("ALTER PUBLICATION cdc_outbox SET (publish = 'update')", "does not publish inserts"),
        (
            "ALTER PUBLICATION cdc_outbox SET TABLE outbox (seq, id, aggregatetype, aggregateid, type, payload)",
            "leaves out columns of public.outbox: headers",
        ),
    ],
)
def test_a_change_that_hides_rows_without_an_error_is_found_at_once_while_kafka_is_down(
    change: str, words: str, fragile: Outbox, witness: Witness
) -> None:
    """The watch looks every half minute, and as soon as reading is paused."""
    fragile.create()
    fragile.create_slot()
    options = ("--max-in-flight-events", "20", "--shutdown-timeout", "2s", "-X", "reconnect.backoff.max.ms=200")
    relay = fragile.streaming(*options)
    fragile.add()
    fragile.records(until=1)
    down(fragile.kafka)
    fragile.add_all([{} for _ in range(100)])
    fragile.database.execute(change)
    fragile.add()
    last = ended(relay, 78, words, "slot recover")
    assert "lsn" in last
    assert fragile.kafka.proxy is not None
    fragile.kafka.proxy.accept()
    fragile.database.execute("DROP PUBLICATION cdc_outbox")
    fragile.publish("outbox")
    recover(fragile)
    fragile.drain()
    judged(fragile, witness)


# Changed and changed back, within a second


CHANGES: Final = {
    "dropped and added": ("DROP TABLE outbox", "ADD TABLE outbox"),
    "inserts not published": ("SET (publish = 'update')", "SET (publish = 'insert')"),
    "another table instead": ("SET TABLE other", "SET TABLE outbox"),
    "renamed": ("RENAME TO away", None),
    "a row filter": ("SET TABLE outbox WHERE (seq < 0)", "SET TABLE outbox"),
}


def change_and_back(outbox: Outbox, how: str) -> str:
    """Hide rows from the stream for a moment. The id of one that was written then."""
    there, back = CHANGES[how]
    outbox.database.execute(f"ALTER PUBLICATION cdc_outbox {there}")
    hidden = outbox.add()
    outbox.database.execute(
        f"ALTER PUBLICATION cdc_outbox {back}" if back else "ALTER PUBLICATION away RENAME TO cdc_outbox"
    )
    return hidden


@pytest.mark.parametrize("how", others_nightly(CHANGES))
def test_changed_and_changed_back_within_a_second_it_is_a_gap(ready: Outbox, how: str) -> None:
    ready.database.execute("CREATE TABLE other (id int)")
    witness = Witness(ready.database)
    relay = ready.streaming()
    ready.confirm()
    hidden = change_and_back(ready, how)
    behind = ready.add(aggregateid="2")
    ended(relay, 78, "publication", "slot recover", timeout=60)
    gap = next(each for each in witness.transactions() if each.events[0].id == hidden)
    assert confirmed(ready) < gap.end_lsn, "confirmed past the gap"
    ended(ready.relay(), 78, "publication", "slot recover")
    recover(ready)
    ready.drain()
    assert {hidden, behind} <= set(ids(ready.records()))
    judged(ready, witness)


def test_changed_and_changed_back_on_a_quiet_outbox_it_is_a_gap_that_the_next_start_finds(ready: Outbox) -> None:
    relay = ready.streaming()
    ready.confirm()
    hidden = change_and_back(ready, "dropped and added")
    relay.kill()
    ended(ready.relay(), 78, "publication cdc_outbox was changed while rows", "slot recover")
    assert hidden not in ids(ready.records())


def test_changed_and_changed_back_while_the_relay_is_away_it_is_a_gap(ready: Outbox) -> None:
    ready.add()
    ready.drain()
    hidden = change_and_back(ready, "inserts not published")
    ended(ready.relay(), 78, "publication cdc_outbox was changed while rows", "slot recover")
    recover(ready)
    ready.drain()
    assert hidden in ids(ready.records())


def test_changed_while_nothing_is_written_it_is_no_gap(ready: Outbox) -> None:
    witness = Witness(ready.database)
    relay = ready.streaming()
    all_confirmed(ready)
    ready.database.execute("ALTER PUBLICATION cdc_outbox SET (publish = 'update')")
    ready.database.execute("ALTER PUBLICATION cdc_outbox SET (publish = 'insert')")
    all_confirmed(ready)  # as a keepalive is confirmed only up to a look: there was one
    ready.confirm()
    ready.database.execute(
        "CREATE TABLE other (id int); ALTER PUBLICATION cdc_outbox ADD TABLE other; COMMENT ON PUBLICATION cdc_outbox IS 'x'"
    )
    ready.confirm()
    ends_well(ready, relay, witness)


def test_with_on_slot_lost_recover_the_relay_closes_the_gap_itself(ready: Outbox) -> None:
    relay = ready.streaming("--on-slot-lost", "recover")
    ready.confirm()
    hidden = change_and_back(ready, "dropped and added")
    ready.add()
    relay.wait_for_log("snapshot.finished", timeout=60)
    ready.confirm()
    relay.terminate()
    assert relay.wait() == 0
    assert hidden in ids(ready.records())


GENERATED: Final = "ALTER TABLE outbox ADD COLUMN urgent text GENERATED ALWAYS AS ('application/json') STORED"


@pytest.mark.parametrize(
    ("change", "hidden", "options"),
    [
        (GENERATED, "urgent", ("--header", "urgent:urgent")),
        (GENERATED, "urgent", ("--content-type", "{urgent}", "--format", "cloudevents", "--ce-source", "/shop")),
        (
            "ALTER TABLE outbox ADD COLUMN traceparent text GENERATED ALWAYS AS ('application/json') STORED",
            "traceparent",
            (),
        ),
        (
            "ALTER PUBLICATION cdc_outbox SET TABLE outbox (seq, id, aggregatetype, aggregateid, type, payload)",
            "headers",
            (),
        ),
        (
            "ALTER PUBLICATION cdc_outbox SET TABLE outbox (seq, id, aggregatetype, aggregateid, type, headers)",
            "payload",
            (),
        ),
    ],
    ids=["header", "content type", "traceparent", "headers", "payload"],
)
def test_columns_that_the_stream_does_not_carry_are_refused_by_a_start_and_by_check_alike(
    ready: Outbox, change: str, hidden: str, options: tuple[str, ...]
) -> None:
    database = ready.database
    database.execute(change)
    words = f"publication cdc_outbox leaves out columns of public.outbox: {hidden}"
    for slot in ("a slot", "no slot"):
        if slot == "no slot":
            database.execute("SELECT pg_drop_replication_slot('cdc_outbox')")
        refused = ended(ready.relay(*options), 78, words, "publication-columns")
        topic = ("--topic", ready.prefix + "{aggregatetype}")
        checked = run_command("check", *topic, *options, "--brokers", ready.kafka.brokers, dsn=database.dsn)
        assert checked.returncode == 1, checked.stdout
        assert words in checked.stdout
    database.execute(refused["cure"].partition("; then")[0])
    filled = {hidden: "application/json"} if "DROP EXPRESSION" in refused["cure"] else {}
    for _ in ("the first start", "the stream"):
        ready.add(**filled)
        ready.drain(*options)
    first, second = ([name for name, _ in record.headers] for record in ready.records())
    assert first == second, "the first start and the stream differ"
