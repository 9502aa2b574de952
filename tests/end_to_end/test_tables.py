"""Tables of other shapes: columns are found by name, whatever else there is, and whatever is done to the table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.acts import recover
from tests.plugins.outbox import ended, event_id, ids, no_slot_left

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox


def test_columns_may_stand_in_any_order_among_others_of_any_type(outbox: Outbox) -> None:
    outbox.database.execute("""
        CREATE TYPE mood AS ENUM ('sad', 'happy');
        CREATE DOMAIN amount AS numeric(12, 2);
        CREATE TYPE point3 AS (x int, y int, z int);
        CREATE TABLE outbox (
            mood mood, payload json, prices amount[], type varchar(255), position point3, id char(36), xml xml,
            aggregateid bigint, doubled bigint GENERATED ALWAYS AS (aggregateid * 2) STORED, aggregatetype varchar(255) NOT NULL
        );
        INSERT INTO outbox (mood, payload, prices, type, position, id, aggregateid, aggregatetype)
        VALUES ('happy', '{"a": 1}', '{1.5,2}', 'OrderPlaced', '(1,2,3)', '4ec5ea43-5cff-4ad2-9a8e-0cfb0a0e0e4d', 42, 'order')
    """)
    outbox.publish("outbox")
    outbox.drain()
    outbox.database.execute(
        "INSERT INTO outbox (mood, payload, type, id, aggregateid, aggregatetype)"
        " SELECT mood, payload, type, id, aggregateid, aggregatetype FROM outbox"
    )
    outbox.drain()
    by_snapshot, by_stream = outbox.records()
    assert by_stream.headers == by_snapshot.headers
    for record in (by_snapshot, by_stream):
        assert (record.key, record.value, record.header("type")) == (b"42", b'{"a": 1}', b"OrderPlaced")
        assert record.header("id") == b"4ec5ea43-5cff-4ad2-9a8e-0cfb0a0e0e4d"


def test_dropped_columns_leave_no_trace(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.database.execute("ALTER TABLE outbox ADD first int DEFAULT 1, ADD last int DEFAULT 2")
    outbox.database.execute("ALTER TABLE outbox DROP first, DROP headers")
    outbox.publish("outbox")
    snapshot = outbox.add(payload='"1"')
    outbox.drain()
    stream = outbox.add(payload='"2"')
    outbox.drain()
    assert [(event_id(record), record.value) for record in outbox.records()] == [(snapshot, b'"1"'), (stream, b'"2"')]


def test_columns_come_and_go_while_the_relay_runs(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.streaming("--header", "type:kind")
    first = outbox.add()
    outbox.records(until=1)
    outbox.database.execute("ALTER TABLE outbox ADD traceparent text")
    second = outbox.add(traceparent="00-aa-bb-01")
    outbox.database.execute("ALTER TABLE outbox DROP headers, DROP seq")
    third = outbox.add(traceparent="00-cc-dd-01")
    records = outbox.records(until=3)
    assert ids(records) == [first, second, third]
    assert [record.headers[2:] for record in records] == [
        [],
        [("traceparent", b"00-aa-bb-01")],
        [("traceparent", b"00-cc-dd-01")],
    ]
    relay.terminate()
    assert relay.wait() == 0


def test_two_tables_of_different_shape(outbox: Outbox) -> None:
    outbox.database.execute("""
        CREATE SCHEMA billing;
        CREATE TABLE billing.events (
            payload bytea, aggregatetype text, aggregateid uuid, type text, id uuid DEFAULT gen_random_uuid());
    """)
    outbox.create_table()
    outbox.publish("outbox", "billing.events")
    outbox.create_slot()
    one = outbox.add(payload='{"n": 1}')
    two = outbox.add("billing.events", aggregatetype="invoice", aggregateid=outbox.add(), payload=b"\x01\x02")
    outbox.drain("--table", "outbox", "--table", "billing.events")
    by_id = outbox.records_by_id()
    assert (by_id[one].topic, by_id[one].value) == (f"{outbox.prefix}order", b'{"n": 1}')
    assert (by_id[two].topic, by_id[two].value) == (f"{outbox.prefix}invoice", b"\x01\x02")


def test_tables_written_in_one_transaction_keep_the_order_of_the_inserts(outbox: Outbox) -> None:
    outbox.create("outbox", "other")
    outbox.create_slot()
    with outbox.database.connect(autocommit=False) as connection:
        for number in range(20):
            table = ("outbox", "other")[number % 2]
            connection.execute(
                f"INSERT INTO {table} (aggregatetype, aggregateid, payload) VALUES ('order', '1', '{number}')".encode()
            )
        connection.commit()
    outbox.drain("--table", "outbox", "--table", "other")
    assert [record.value for record in outbox.records()] == [str(number).encode() for number in range(20)]


def test_a_partitioned_outbox_is_published_by_its_root_and_its_partitions_come_and_go(outbox: Outbox) -> None:
    outbox.database.execute("""
        CREATE TABLE outbox (
            id uuid DEFAULT gen_random_uuid(), at date, aggregatetype text, aggregateid text, type text, payload json
        ) PARTITION BY RANGE (at);
        CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE outbox_2 (payload json, type text, aggregateid text, aggregatetype text, at date, id uuid);
        ALTER TABLE outbox ATTACH PARTITION outbox_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
    """)
    outbox.publish("outbox")
    written = [outbox.add(at="2026-01-05"), outbox.add(at="2026-02-05")]
    relay = outbox.streaming()
    written += [outbox.add(at="2026-01-06"), outbox.add(at="2026-02-06")]
    outbox.database.execute(
        "CREATE TABLE outbox_3 PARTITION OF outbox FOR VALUES FROM ('2026-03-01') TO ('2026-04-01');"
        "ALTER TABLE outbox DETACH PARTITION outbox_1; DROP TABLE outbox_1"
    )
    written += [outbox.add(at="2026-03-05")]
    assert sorted(ids(outbox.records(until=5))) == sorted(written)
    assert ids(outbox.records())[2:] == written[2:]
    relay.terminate()
    assert relay.wait() == 0


def test_a_partitioned_outbox_whose_partitions_are_published_is_refused_with_the_sql_that_cures(outbox: Outbox) -> None:
    outbox.database.execute(
        "CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json)"
        " PARTITION BY LIST (aggregatetype);"
        "CREATE PUBLICATION cdc_outbox FOR TABLE outbox WITH (publish = 'insert')"
    )
    ended(outbox.relay(), 78, "public.outbox", "is partitioned", "SET (publish_via_partition_root = true)")
    no_slot_left(outbox)


def test_names_may_hold_anything_that_sql_allows(outbox: Outbox) -> None:
    outbox.database.execute("""
        CREATE SCHEMA "My Schema";
        CREATE TABLE "My Schema"."Out,box ""é" (
            "Id" uuid DEFAULT gen_random_uuid(), "Aggregate:Type" text, aggregateid text, type text, "pay load" json);
        CREATE PUBLICATION "it's ""mine"" too" FOR TABLE "My Schema"."Out,box ""é" WITH (publish = 'insert');
        INSERT INTO "My Schema"."Out,box ""é" ("Aggregate:Type", aggregateid, "pay load") VALUES ('order', '7', '1');
    """)
    options = (
        *("--table", '"My Schema"."Out,box ""é"', "--publication", 'it\'s "mine" too', "--slot", "slot_1"),
        *("--id-column", "Id", "--payload-column", "pay load", "--topic", outbox.prefix + "{Aggregate:Type}"),
    )
    outbox.drain(*options)
    outbox.database.execute(
        'INSERT INTO "My Schema"."Out,box ""é" ("Aggregate:Type", aggregateid, "pay load") VALUES (\'order\', \'7\', \'2\')'
    )
    outbox.drain(*options)
    assert [record.value for record in outbox.records()] == [b"1", b"2"]


def test_rows_of_other_tables_in_the_publication_are_left_and_named_once(outbox: Outbox) -> None:
    outbox.create("outbox", "noise")
    outbox.create_slot()
    outbox.add_all([{} for _ in range(5)], "noise")
    written = outbox.add()
    relay = outbox.drain()
    assert ids(outbox.records()) == [written]
    assert [line["table"] for line in relay.log_lines("row.ignored")] == ["public.noise"]


def test_a_publication_for_all_tables_will_do(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.database.execute("CREATE PUBLICATION cdc_outbox FOR ALL TABLES")
    outbox.create_slot()
    written = outbox.add()
    outbox.drain()
    assert ids(outbox.records()) == [written]


@pytest.mark.since_postgres(15)  # see docs/how-to/upgrade.md: 14 streams none of its rows
def test_rows_that_come_with_a_partition_are_sent_by_a_recovery_only(outbox: Outbox) -> None:
    run = outbox.database.execute
    run(
        "CREATE TABLE outbox (id uuid NOT NULL, aggregatetype text, aggregateid text, type text, payload json, day int)"
        " PARTITION BY LIST (day); CREATE TABLE outbox_1 PARTITION OF outbox FOR VALUES IN (1)"
    )
    outbox.publish("outbox")
    outbox.create_slot()
    run("CREATE TABLE outbox_2 (LIKE outbox INCLUDING ALL)")
    attached = outbox.add("outbox_2", day=2)
    run("ALTER TABLE outbox ATTACH PARTITION outbox_2 FOR VALUES IN (2)")
    streamed = [outbox.add(day=day) for day in (1, 2)]
    outbox.drain()
    assert ids(outbox.records()) == streamed
    recover(outbox)
    assert attached in ids(outbox.records())
