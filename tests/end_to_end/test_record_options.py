"""What an option makes of the record: topic, headers, timestamp, partition, and names of columns."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from cloudevents.core.formats.json import JSONFormat

from tests.plugins.outbox import ended, event_id, insert

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox


def add_columns(outbox: Outbox, columns: str) -> None:
    outbox.create()
    outbox.database.execute(f"ALTER TABLE outbox {columns}")
    outbox.create_slot()


def test_by_default_the_topic_is_that_of_debezium(outbox: Outbox, relay: Callable[..., Relay]) -> None:
    outbox.create()
    outbox.add(aggregatetype=f"{outbox.prefix}order")
    assert relay("--until", "caught-up", database=outbox.database, kafka=outbox.kafka).wait() == 0
    assert len(outbox.kafka.consume(f"outbox.event.{outbox.prefix}order", 1)) == 1


def test_any_columns_may_name_the_topic(outbox: Outbox) -> None:
    add_columns(outbox, "ADD tenant text, ADD shard int")
    outbox.add(tenant="acme", shard=7)
    outbox.drain("--topic", outbox.prefix + "{tenant}.{aggregatetype}-{shard}")
    assert [record.topic for record in outbox.records()] == [f"{outbox.prefix}acme.order-7"]


def test_a_topic_may_be_a_fixed_one(outbox: Outbox) -> None:
    outbox.create()
    outbox.add_all([{"aggregatetype": "order"}, {"aggregatetype": None}])
    outbox.drain("--topic", f"{outbox.prefix}all")
    assert [record.topic for record in outbox.records()] == [f"{outbox.prefix}all"] * 2


def test_columns_become_headers_after_the_members_of_headers_under_their_own_or_a_given_name(outbox: Outbox) -> None:
    add_columns(outbox, "ADD tenant text, ADD attempt int, ADD digest bytea")
    full = outbox.add(tenant="Ärger", attempt=3, digest=b"\x00\xff", headers='{"a": "1"}')
    empty = outbox.add(tenant=None, attempt=None, digest=b"")
    outbox.drain("--header", "tenant", "--header", "attempt:x-attempt", "--header", "digest")
    by_id = outbox.records_by_id()
    assert by_id[full].headers[2:] == [
        ("a", b"1"),
        ("tenant", "Ärger".encode()),
        ("x-attempt", b"3"),
        ("digest", b"\x00\xff"),
    ]
    assert by_id[empty].headers[2:] == [("digest", b"")]


def test_headers_may_be_jsonb_whose_order_is_postgresqls(outbox: Outbox) -> None:
    outbox.create_table()
    outbox.database.execute("ALTER TABLE outbox ALTER headers TYPE jsonb")
    outbox.publish("outbox")
    outbox.add(headers='{"bb": {"x": [1, 2]}, "a": "1", "c": 1.50, "d": null}')
    outbox.drain()
    (record,) = outbox.records()
    assert record.headers[2:] == [("a", b"1"), ("c", b"1.50"), ("d", None), ("bb", b'{"x":[1,2]}')]


def test_the_headers_id_and_type_can_be_called_otherwise(outbox: Outbox) -> None:
    outbox.create()
    written = outbox.add(headers='{"id": "mine"}')
    outbox.drain("--header", "id:eventId", "--header", "type:eventType")
    (record,) = outbox.records()
    assert record.headers == [("eventId", written.encode()), ("eventType", b"OrderPlaced"), ("id", b"mine")]


def test_a_member_named_like_a_standard_header_is_left_out_so_that_each_name_comes_once(outbox: Outbox) -> None:
    outbox.create()
    written = outbox.add(headers='{"id": "mine", "type": "mine", "a": "1"}')
    outbox.drain()
    (record,) = outbox.records()
    assert record.headers == [("id", written.encode()), ("type", b"OrderPlaced"), ("a", b"1")]


def test_a_second_name_for_the_header_id_is_refused_at_the_start(outbox: Outbox) -> None:
    outbox.create()
    ended(outbox.relay("--header", "id:a", "--header", "id:b"), 78, "several names: a, b")


@pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-structured"])
def test_the_sdk_of_cloudevents_reads_what_their_formats_make(outbox: Outbox, mode: str) -> None:
    outbox.create()
    written = outbox.add(headers='{"traceparent": "00-aa-bb-01"}')
    outbox.drain("--format", mode, "--ce-source", "/shop/{aggregatetype}")
    (record,) = outbox.records()
    headers = {name: value or b"" for name, value in record.headers}
    event = from_kafka_event(KafkaMessage(headers, record.key, record.value or b""), JSONFormat())
    assert (event.get_id(), event.get_source(), event.get_type()) == (written, "/shop/order", "OrderPlaced")
    assert (event.get_subject(), event.get_data()) == ("1", {"total": 99})
    assert event.get_extension("traceparent") == "00-aa-bb-01"
    assert int(event.get_time().timestamp() * 1000) == record.timestamp


def test_the_sequence_of_cloudevents_is_the_order_of_commits_from_the_table_and_from_the_stream(outbox: Outbox) -> None:
    options = ("--format", "cloudevents", "--ce-source", "/shop", "--table", "outbox", "--table", "other")
    outbox.create("outbox", "other")
    written = [outbox.add(aggregateid="a"), outbox.add("other", aggregateid="b")]
    outbox.drain(*options)
    with outbox.database.connect(autocommit=False) as early, outbox.database.connect(autocommit=False) as late:
        inserted_first = insert(early, "outbox", {"aggregateid": "c"})
        written += [insert(late, "outbox", {"aggregateid": "d"}), insert(late, "other", {"aggregateid": "e"})]
        late.commit()
        early.commit()
    written.append(inserted_first)
    written += outbox.add_all([{"aggregateid": "a"}, {"aggregateid": "b"}])
    outbox.drain(*options)
    by_sequence = sorted(outbox.records(), key=lambda record: record.header("ce_sequence") or b"")
    assert [(record.header("ce_id") or b"").decode() for record in by_sequence] == written
    assert len({record.header("ce_sequence") for record in by_sequence}) == len(written) == 7


@pytest.mark.parametrize("mode", ["cloudevents", "cloudevents-structured"])
def test_an_event_that_comes_again_has_the_sequence_that_it_had(outbox: Outbox, mode: str) -> None:
    options = ("--format", mode, "--ce-source", "/shop")
    bookmark = f"bookmark_{secrets.token_hex(4)}"
    outbox.create()
    outbox.create_slot()
    outbox.database.execute(f"SELECT pg_copy_logical_replication_slot('cdc_outbox', '{bookmark}')")
    written = outbox.add_all([{}, {}, {}]) + outbox.add_all([{}, {}])
    outbox.drain(*options)
    # as if all had been delivered, and nothing confirmed: the worst of all crashes
    outbox.database.execute("SELECT pg_drop_replication_slot('cdc_outbox')")
    outbox.database.execute(f"SELECT pg_copy_logical_replication_slot('{bookmark}', 'cdc_outbox')")
    outbox.drain(*options)
    found = [
        from_kafka_event(KafkaMessage({k: v or b"" for k, v in r.headers}, r.key, r.value or b""), JSONFormat())
        for r in outbox.records()
    ]
    assert [event.get_id() for event in found] == written * 2
    sequences = [event.get_extension("sequence") for event in found]
    assert sequences == sorted(set(sequences)) * 2


def test_cloudevents_need_a_source(outbox: Outbox) -> None:
    relay = outbox.relay("--format", "cloudevents")
    assert relay.wait() == 2
    assert "--ce-source" in relay.stderr_text


def test_trace_columns_become_headers_by_themselves_and_a_member_of_the_same_name_wins(outbox: Outbox) -> None:
    add_columns(outbox, "ADD tracestate text, ADD traceparent text")
    both = outbox.add(traceparent="00-aa-bb-01", tracestate="vendor=1")
    none = outbox.add(traceparent=None, tracestate=None)
    member = outbox.add(traceparent="00-aa-bb-01", headers='{"traceparent": "00-cc-dd-01"}')
    outbox.drain()
    by_id = outbox.records_by_id()
    assert by_id[both].headers[2:] == [("traceparent", b"00-aa-bb-01"), ("tracestate", b"vendor=1")]
    assert by_id[none].headers[2:] == []
    assert by_id[member].headers[2:] == [("traceparent", b"00-cc-dd-01")]


@pytest.mark.parametrize(
    ("column_type", "written", "milliseconds"),
    [
        ("timestamptz", "2026-11-23 08:51:33.256999+01", 1_795_420_293_256),
        ("timestamp", "2026-11-23 07:51:33.256999", 1_795_420_293_256),
    ],
)
def test_a_column_can_give_the_timestamp(outbox: Outbox, column_type: str, written: str, milliseconds: int) -> None:
    add_columns(outbox, f"ADD at {column_type}")
    named = outbox.add(at=written)
    unnamed = outbox.add(at=None)
    outbox.drain("--timestamp-column", "at")
    by_id = outbox.records_by_id()
    assert by_id[named].timestamp == milliseconds
    assert by_id[unnamed].timestamp > 1_795_420_293_256, "NULL: the commit time"


def test_a_column_can_give_the_partition(outbox: Outbox) -> None:
    add_columns(outbox, "ADD part int")
    outbox.kafka.create_topic(f"{outbox.prefix}order", partitions=4)
    written = {outbox.add(part=part): part for part in (0, 1, 2, 3)}
    unnamed = {outbox.add(part=None, aggregateid="foobar")}
    outbox.drain("--partition-column", "part")
    partitions = {event_id(record): record.partition for record in outbox.records()}
    assert partitions == written | dict.fromkeys(unnamed, (-790332482 & 0x7FFFFFFF) % 4)


def test_a_partition_that_the_topic_does_not_have_stops_the_relay_and_nothing_behind_it_is_confirmed(
    outbox: Outbox,
) -> None:
    add_columns(outbox, "ADD part int")
    outbox.kafka.create_topic(f"{outbox.prefix}order", partitions=4)
    before = outbox.add(part=1)
    reached = outbox.current_lsn()
    outbox.add(part=4, aggregateid="the-rejected-one")
    ended(outbox.relay("--partition-column", "part"), 65, "partition", "the-rejected-one", f"{outbox.prefix}order")
    assert [event_id(record) for record in outbox.records()] == [before]
    assert not outbox.confirmed_past(outbox.current_lsn())
    assert outbox.confirmed_past(reached)


def test_the_snake_case_preset(outbox: Outbox) -> None:
    outbox.database.execute(
        "CREATE TABLE outbox (id uuid, aggregate_type text, aggregate_id text, event_type text, payload jsonb);"
        "INSERT INTO outbox VALUES (gen_random_uuid(), 'order', '7', 'OrderPlaced', '{}')"
    )
    outbox.publish("outbox")
    outbox.drain("--columns", "snake", "--topic", outbox.prefix + "{aggregate_type}")
    (record,) = outbox.records()
    assert (record.topic, record.key, record.value) == (f"{outbox.prefix}order", b"7", b"{}")
    assert record.header("type") == b"OrderPlaced"


def test_columns_of_any_name(outbox: Outbox) -> None:
    outbox.database.execute(
        'CREATE TABLE outbox (event uuid, kind text, "Entity, Key" text, "from" text, body text);'
        "INSERT INTO outbox VALUES (gen_random_uuid(), 'order', '7', 'OrderPlaced', 'x')"
    )
    outbox.publish("outbox")
    outbox.drain(
        *("--id-column", "event", "--key-column", '"Entity, Key"', "--type-column", "from", "--payload-column", "body"),
        *("--topic", outbox.prefix + "{kind}"),
    )
    (record,) = outbox.records()
    assert (record.topic, record.key, record.value) == (f"{outbox.prefix}order", b"7", b"x")
    assert record.header("type") == b"OrderPlaced"


def test_a_column_is_renamed_under_a_running_relay_whose_option_has_both_names(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.streaming("--payload-column", "body,payload")
    outbox.add(payload='"old"')
    outbox.database.execute("ALTER TABLE outbox RENAME payload TO body")
    outbox.database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, body) VALUES ('order', '1', 'OrderPlaced', '\"new\"')"
    )
    assert [record.value for record in outbox.records(until=2)] == [b'"old"', b'"new"']
    relay.terminate()
    assert relay.wait() == 0


DOMAINS = """
CREATE DOMAIN document AS jsonb; CREATE DOMAIN letter AS document CHECK (VALUE IS NOT NULL);
CREATE DOMAIN moment AS timestamptz; CREATE DOMAIN small AS smallint; CREATE DOMAIN label AS varchar(40);
CREATE DOMAIN digest AS bytea;
ALTER TABLE outbox ALTER headers TYPE document USING NULL, ALTER payload TYPE letter USING '{}', ALTER type TYPE label,
    ADD at moment, ADD shard small, ADD hash digest
"""


def test_a_domain_counts_as_its_base_type_from_the_table_and_from_the_stream(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute(DOMAINS)
    row = {
        "headers": '{"a": [1, 2]}',
        "payload": '{"b": 1}',
        "at": "2026-11-23 08:51:33.25+00",
        "shard": 0,
        "hash": b"\\x00ff",
    }
    for _ in range(2):
        outbox.add(**row)
        outbox.drain("--timestamp-column", "at", "--partition-column", "shard", "--header", "hash")
    for record in outbox.records():
        assert (record.value, record.header("a"), record.header("hash")) == (b'{"b": 1}', b"[1,2]", b"\\x00ff")
        assert record.timestamp == 1_795_423_893_250


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["mood", "feeling", "integer"])
def test_a_type_that_does_not_fit_is_named(outbox: Outbox, kind: str, streamed: bool) -> None:
    """An enumeration, a domain over it, and a built-in type: none of them as an OID."""
    outbox.create()
    outbox.database.execute("CREATE TYPE mood AS ENUM ('fine'); CREATE DOMAIN feeling AS mood")
    if streamed:
        outbox.create_slot()
    outbox.database.execute(f"ALTER TABLE outbox ALTER headers TYPE {kind} USING NULL")
    outbox.add()
    last = ended(outbox.relay(), 78, "headers", "its type ")
    assert "OID" not in last["error"]
    assert any(f"its type {name} is none of" in last["error"] for name in (kind, f"public.{kind}", "public.mood"))
