"""The pages for those who come from elsewhere, each followed from top to bottom on a database as they have it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install
from tests.docs.pages import ROOT, block, read
from tests.docs.test_application_pages import url
from tests.plugins.outbox import insert
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

DEBEZIUM: Final = "docs/how-to/migrate-from-debezium.md"
POLLING: Final = "docs/how-to/come-from-a-polling-outbox.md"
TRIGGER: Final = "docs/how-to/emit-from-a-trigger.md"

BLOCKS: Final = {
    DEBEZIUM: [
        "cdc-outbox run --dsn",
        "cdc-outbox check --dsn",
        "SELECT plugin, active",
        "ALTER TABLE outboxevent",
    ],
    POLLING: [
        "CREATE TABLE messages",
        "cat > relay.toml",
        "CREATE PUBLICATION cdc_outbox FOR TABLE messages",
        "DELETE FROM messages",
        "cdc-outbox run --config relay.toml",
        "ALTER TABLE messages",
    ],
    TRIGGER: ["CREATE TABLE orders", "CREATE FUNCTION announce_order", "INSERT INTO orders"],
}
"""By page: how its blocks begin. tests/docs/test_blocks.py looks here."""

OUTBOXEVENT: Final = """
CREATE TABLE outboxevent (
    id uuid PRIMARY KEY, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL, payload jsonb
)
"""


def text_of(page: str, beginning: str) -> str:
    (found,) = [each.text for each in read(page).blocks if each.text.startswith(beginning)]
    return found


@pytest.mark.parametrize("published", ["TABLE outboxevent", "ALL TABLES"])
def test_a_slot_and_a_publication_of_debezium_are_taken_over(
    published: str, database: Database, kafka: KafkaCluster, shell: Shell
) -> None:
    kind = f"m{database.name}"
    servers = {"DSN": url(database), "BROKERS": kafka.brokers}
    database.execute(OUTBOXEVENT)
    database.execute("CREATE TABLE others (id int PRIMARY KEY)")
    database.execute(f"CREATE PUBLICATION dbz_publication FOR {published}")
    database.execute("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
    event = {"aggregatetype": kind, "aggregateid": "7", "type": "OrderPlaced"}
    with database.connect() as connection:
        delivered = insert(connection, "outboxevent", event)
        before = "SELECT pg_replication_slot_advance('debezium', pg_current_wal_lsn())"
        connection.execute(before)  # Debezium has delivered it, and said so
        waiting = insert(connection, "outboxevent", event)
        connection.execute(
            "INSERT INTO others VALUES (1); UPDATE others SET id = 2; DELETE FROM others; TRUNCATE others"
        )
        connection.execute("DELETE FROM outboxevent")

    checked = shell(text_of(DEBEZIUM, "cdc-outbox check"), **servers)
    assert "debezium" in checked.stdout
    assert database.execute(text_of(DEBEZIUM, "SELECT plugin")) == [("pgoutput", False)]
    shell(text_of(DEBEZIUM, "cdc-outbox run").rstrip() + " --until caught-up", **servers)

    (record,) = kafka.consume(f"outbox.event.{kind}", 1)
    assert record.key == b"7"
    assert record.headers == [("id", waiting.encode()), ("eventType", b"OrderPlaced")]
    assert delivered != waiting


def test_a_boolean_becomes_a_header_of_words_from_the_first_start_and_from_the_stream(
    database: Database, kafka: KafkaCluster, shell: Shell
) -> None:
    kind = f"m{database.name}"
    servers = {"DSN": url(database), "BROKERS": kafka.brokers}
    database.execute(OUTBOXEVENT)
    database.execute("CREATE PUBLICATION cdc_outbox FOR TABLE outboxevent")
    database.execute(text_of(DEBEZIUM, "ALTER TABLE outboxevent"))
    assert "`--header urgent_text:urgent`" in (ROOT / DEBEZIUM).read_text()
    for urgent in (True, False):
        with database.connect() as connection:
            event = {"aggregatetype": kind, "aggregateid": "7", "type": "OrderPlaced", "urgent": urgent}
            insert(connection, "outboxevent", event)
        shell(
            'cdc-outbox run --dsn "$DSN" --brokers "$BROKERS" --table public.outboxevent --header urgent_text:urgent'
            " --until caught-up",
            **servers,
        )
    found = [dict(record.headers)["urgent"] for record in kafka.consume(f"outbox.event.{kind}", 2)]
    assert found == [b"true", b"false"]


def test_the_connector_that_is_shown_matches_the_options_beside_it() -> None:
    connector, options = block(DEBEZIUM, "{").text, text_of(DEBEZIUM, "cdc-outbox run")
    for name, option in {
        '"slot.name": "debezium"': "--slot debezium",
        '"publication.name": "dbz_publication"': "--publication dbz_publication",
        '"table.include.list": "public.outboxevent"': "--table public.outboxevent",
        '"type:header:eventType"': "--header type:eventType",
    }.items():
        assert name in connector
        assert option in options


def test_a_table_that_was_polled_is_relayed_as_it_is(
    database: Database, kafka: KafkaCluster, shell: Shell, relay: Callable[..., Relay]
) -> None:
    topic = f"{kafka.unique_topic_prefix()}orders"
    servers = {"DSN": url(database), "BROKERS": kafka.brokers}

    def add(number: int, *, sent: bool = False) -> None:
        database.execute(
            "INSERT INTO messages (topic, key, kind, body, sent_at) VALUES (%s, '7', 'OrderPlaced', %s, %s)",
            [topic, f'{{"n": {number}}}', "now" if sent else None],
        )

    begun = False
    for each in read(POLLING).blocks:
        if each.language == "sql":
            database.execute(each.text)
        elif each.text.startswith("cdc-outbox run"):
            shell(each.text.rstrip() + " --until caught-up", **servers)
            assert [record.value for record in kafka.consume(topic, 2)] == [b'{"n": 3}', b'{"n": 4}'], "the first start"
            add(5)
            shell(each.text.rstrip() + " --until caught-up", **servers)
        else:
            shell(each.text, **servers)
        if not begun:  # the table is there: this is where they come from
            begun = True
            for number, sent in enumerate([True, True, False, False], start=1):
                add(number, sent=sent)

    *_, last = kafka.consume(topic, 3)
    ((event_id,),) = database.execute("SELECT id::text FROM messages WHERE body->>'n' = '5'")
    assert (last.key, last.value) == (b"7", b'{"n": 5}')
    assert last.headers == [("id", event_id.encode()), ("type", b"OrderPlaced")]
    assert len(kafka.consume(topic, 3)) == 3, "the stream goes on where the first start has ended"


def test_a_trigger_announces_what_happens_to_a_table_and_a_rollback_takes_it_back(
    database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    for beginning in BLOCKS[TRIGGER]:
        database.execute(text_of(TRIGGER, beginning))
    with database.connect(autocommit=False) as connection:
        connection.execute("INSERT INTO orders (total) VALUES (1)")
        connection.rollback()
    database.execute("CREATE ROLE clerk; GRANT INSERT ON orders TO clerk")
    database.execute("BEGIN; SET LOCAL ROLE clerk; INSERT INTO orders (total) VALUES (2); COMMIT")

    topic = kafka.unique_topic_prefix() + "{aggregatetype}"
    done = relay("--until", "caught-up", "--topic", topic, database=database, kafka=kafka)
    assert done.wait() == 0, done.stderr_text
    records = kafka.consume(topic.format(aggregatetype="order"), 4)
    by_key = {key: [record for record in records if record.key == key] for key in (b"1", b"3")}
    assert [record.header("type") for record in by_key[b"1"]] == [
        b"OrderPlaced",
        b"OrderStatusChanged",
        b"OrderDeleted",
    ]
    assert [record.value for record in by_key[b"1"]] == [
        b'{"id":1,"status":"placed","total":99.50}',
        b'{"id" : 1, "from" : "placed", "to" : "paid"}',
        None,
    ]
    assert [record.value for record in by_key[b"3"]] == [b'{"id":3,"status":"placed","total":2.00}']
    eventually(lambda: not done.running, "the relay has ended")
