"""An outbox without a table: logical messages become the records that rows would, in the same order, with the same policy."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, render_install, render_roles
from tests.plugins.command import run_command
from tests.plugins.metrics import metrics
from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import ended, event_id, ids, insert

if TYPE_CHECKING:
    from tests.plugins.kafka import Record
    from tests.plugins.outbox import Outbox

MESSAGE: Final = ("--source", "message")
BOTH: Final = ("--source", "both")

EMIT: Final = "SELECT public.outbox_emit(%s, %s, %s, %s, %s, %s)"


def install(outbox: Outbox, payload_type: Any = "json") -> None:
    """As `sql install --source message` does, and a slot."""
    outbox.database.execute(render_install(InstallOptions(source="message", payload_type=payload_type)))
    outbox.create_slot()


def write(connection: Any, content: bytes, prefix: str = "outbox", *, transactional: bool = True) -> None:
    """A message as an application may write it."""
    connection.execute("SELECT pg_logical_emit_message(%s, %s, %s::bytea)", [transactional, prefix, content])


def message(payload: bytes | None = b"{}", /, **members: Any) -> tuple[str, bytes]:
    """An order's, unless said otherwise: its id, and its content."""
    event = str(uuid.uuid4())
    head = {"id": event, "aggregatetype": "order", "aggregateid": "1", "type": "OrderPlaced", **members}
    return event, json.dumps(head).encode() + (b"" if payload is None else b"\n" + payload)


ROWS: Final[list[tuple[str, dict[str, Any]]]] = [
    ("json", {}),
    ("json", {"payload": '{ "b": 1,\n\n"a" : 1.10 }'}),
    ("json", {"payload": None}),
    ("json", {"payload": "null"}),
    ("json", {"aggregateid": None, "type": None}),
    ("json", {"aggregateid": 'Grüße "世界" 🎉\\\n', "type": ""}),
    ("json", {"headers": '{"a": "x", "n": 1.10, "o": {"k": [1, 2]}, "z": null, "traceparent": "00-ab-cd-01"}'}),
    ("jsonb", {"payload": '{"bb":1,"a":[1,2.50]}'}),
    ("text", {"payload": "\n\n"}),
    ("text", {"payload": ""}),
    ("text", {"payload": "größe"}),
    ("bytea", {"payload": bytes(range(256))}),
    ("bytea", {"payload": b""}),
]


def test_the_function_that_writes_messages_makes_the_records_that_the_one_of_the_table_makes(outbox: Outbox) -> None:
    by_source: dict[str, list[Any]] = {}
    outbox.database.execute(
        "CREATE PUBLICATION cdc_outbox WITH (publish = 'insert', publish_via_partition_root = true)"
    )
    outbox.create_slot()
    for source in ("message", "table"):
        for payload_type in ("json", "jsonb", "text", "bytea"):
            options = InstallOptions(source=source, payload_type=payload_type)
            outbox.database.execute(render_install(options))
            for kind, row in ROWS:
                if kind == payload_type:
                    given = {"aggregateid": "1", "type": "Placed", "payload": "{}", "headers": None, **row}
                    arguments = [
                        f"order-{source}",
                        *(given[name] for name in ("aggregateid", "type", "payload", "headers")),
                    ]
                    outbox.database.execute(EMIT, [*arguments, None])
            if source == "table":
                outbox.drain(*BOTH)
                outbox.database.execute("ALTER PUBLICATION cdc_outbox DROP TABLE outbox; DROP TABLE outbox")
    records = outbox.records()
    for source in ("message", "table"):
        chosen = [record for record in records if record.topic.endswith(source)]
        assert len({event_id(record) for record in chosen}) == len(ROWS)
        by_source[source] = sorted(
            [repr((record.key, record.value, record.headers[1:], record.key and record.partition)) for record in chosen]
        )
    assert by_source["message"] == by_source["table"]


def test_rows_and_messages_of_one_transaction_keep_their_order_and_a_rollback_or_savepoint_takes_both_back(
    outbox: Outbox,
) -> None:
    outbox.create()
    outbox.create_slot()
    first, second, third, fourth, ghost = (message(n=number) for number in range(5))
    with outbox.database.connect(autocommit=False) as writer:
        write(writer, first[1])
        row = insert(writer, "outbox", {})
        write(writer, second[1])
        writer.execute("SAVEPOINT a")
        write(writer, ghost[1])
        insert(writer, "outbox", {})
        writer.execute("ROLLBACK TO a")
        write(writer, third[1])
        last = insert(writer, "outbox", {})
        writer.commit()
        write(writer, ghost[1])
        insert(writer, "outbox", {})
        writer.rollback()
        write(writer, fourth[1])
        writer.commit()
    outbox.drain(*BOTH)
    assert ids(outbox.records()) == [first[0], row, second[0], third[0], last, fourth[0]]


def test_what_is_not_transactional_or_has_another_prefix_is_left_and_counted(outbox: Outbox) -> None:
    install(outbox)
    writer = outbox.database.connect()
    written = message()
    write(writer, message()[1], transactional=False)
    write(writer, message()[1], prefix="Outbox")
    for _ in range(2):
        write(writer, b"42", prefix="heartbeat")
    write(writer, written[1])
    relay = outbox.streaming(*MESSAGE, http=True)
    assert ids(outbox.records(until=1)) == [written[0]]
    counted = metrics(relay)
    assert counted['events_received_total{table="message:outbox"}'] == 1
    assert counted['events_skipped_total{reason="not-transactional"}'] == 1
    assert counted['events_skipped_total{reason="other-message"}'] == 3
    left = [(line["prefix"], line["reason"]) for line in relay.logs if line["event"] == "message.ignored"]
    assert left == [("outbox", "not-transactional"), ("Outbox", "other-message"), ("heartbeat", "other-message")]


def test_members_name_topic_headers_timestamp_and_partition_as_columns_do(outbox: Outbox) -> None:
    install(outbox)
    outbox.kafka.create_topic(f"{outbox.prefix}acme.7", partitions=4)
    event, content = message(
        b"x", tenant="acme", shard=7, part=2, at="2026-11-23T07:51:33.256Z", traceparent="00-ab-cd-01", extra={"a": [1]}
    )
    write(outbox.database.connect(), content, prefix="orders")
    outbox.drain(
        *MESSAGE,
        *("--message-prefix", "orders", "--topic", outbox.prefix + "{tenant}.{shard}"),
        *("--timestamp-column", "at", "--partition-column", "part"),
        *("--header", "id:event-id", "--header", "shard:x-shard", "--header", "extra"),
    )
    (record,) = outbox.records()
    assert (record.topic, record.partition, record.timestamp) == (f"{outbox.prefix}acme.7", 2, 1_795_420_293_256)
    assert record.headers == [
        ("event-id", event.encode()),
        ("type", b"OrderPlaced"),
        ("x-shard", b"7"),
        ("extra", b'{"a": [1]}'),
        ("traceparent", b"00-ab-cd-01"),
    ]


POISON: Final[list[tuple[str, bytes, str]]] = [
    ("no JSON", b"hush-hush", "bad-message"),
    ("an array", b"[1]", "bad-message"),
    (
        "no id",
        b'{"aggregatetype":"order","aggregateid":"the-rejected-one","type":"T","payload":"hush-hush"}',
        "missing-member",
    ),
    ("id null", message(id=None, aggregateid="the-rejected-one")[1], "no-id"),
    ("no payload", message(None, aggregateid="the-rejected-one")[1], "missing-member"),
    ("topic", message(aggregatetype="my order", aggregateid="the-rejected-one")[1], "bad-topic"),
    ("headers", message(headers=[1], aggregateid="the-rejected-one")[1], "bad-headers"),
]


@pytest.mark.parametrize(("content", "reason"), [row[1:] for row in POISON[:3]], ids=[row[0] for row in POISON[:3]])
def test_a_message_that_is_no_event_stops_the_relay_where_it_is(outbox: Outbox, content: bytes, reason: str) -> None:
    install(outbox)
    writer = outbox.database.connect()
    before = message()
    write(writer, before[1])
    reached = outbox.current_lsn()
    write(writer, content)
    behind = outbox.current_lsn()
    write(writer, message()[1])
    relay = outbox.relay(*MESSAGE)
    last = ended(relay, 65, "message:outbox", "--on-poison", '"lsn"')
    assert last["reason"] == reason
    assert "hush-hush" not in relay.stderr_text
    assert ids(outbox.records()) == [before[0]]
    assert outbox.confirmed_past(reached)
    assert not outbox.confirmed_past(behind)


def test_every_kind_of_rejected_message_becomes_a_dead_letter_and_the_others_arrive(outbox: Outbox) -> None:
    install(outbox)
    writer = outbox.database.connect()
    neighbours = []
    for _, content, _ in POISON:
        neighbours.append(message())
        write(writer, content)
        write(writer, neighbours[-1][1])
    letters = f"{outbox.prefix}dead-letters"
    outbox.drain(*MESSAGE, "--on-poison", "dead-letter", "--dead-letter-topic", letters)
    records = outbox.records()
    dead = [record for record in records if record.topic == letters]
    assert sorted(_text(letter, "outbox.error.reason") for letter in dead) == sorted(reason for _, _, reason in POISON)
    assert {_text(letter, "outbox.source.table") for letter in dead} == {"message:outbox"}
    assert b"hush-hush" in [letter.value for letter in dead], "what could not be read is there as it was"
    assert ids([record for record in records if record.topic != letters]) == [event for event, _ in neighbours]


def test_a_first_start_and_a_recovery_send_no_message_and_report_it(outbox: Outbox) -> None:
    outbox.database.execute(render_install(InstallOptions(source="message")))
    writer = outbox.database.connect()
    write(writer, message()[1])
    first = outbox.drain(*MESSAGE)
    said = [line for line in first.logs if line["event"] == "messages.skipped"]
    assert len(said) == 1
    assert "since" not in said[0]
    write(writer, message()[1])
    command = ["slot", "recover", "--brokers", outbox.kafka.brokers, *MESSAGE]
    recovered = run_command(*command, "--yes", dsn=outbox.database.dsn)
    assert recovered.returncode == 0, recovered.stderr
    assert "messages" in recovered.stderr.splitlines()[0]
    (line,) = [json.loads(text) for text in recovered.stderr.splitlines() if '"messages.skipped"' in text]
    assert line["since"] < line["lsn"]
    written = message()
    write(writer, written[1])
    outbox.drain(*MESSAGE)
    assert ids(outbox.records()) == [written[0]]


def test_the_error_of_a_lost_slot_names_the_messages_that_no_table_has(outbox: Outbox) -> None:
    install(outbox)
    relay = outbox.streaming(*MESSAGE)
    outbox.database.execute(
        "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE slot_name = 'cdc_outbox';"
        " SELECT pg_drop_replication_slot('cdc_outbox')"
    )
    ended(relay, 78, "slot recover", "in no table")


def test_a_publication_without_tables_is_needed_and_enough(outbox: Outbox) -> None:
    outbox.create_slot()
    ended(outbox.relay(*MESSAGE), 78, "publication cdc_outbox does not exist", "sql install --source message")
    outbox.database.execute("CREATE PUBLICATION cdc_outbox; CREATE TABLE business (n int)")
    written = message()
    with outbox.database.connect() as writer:
        writer.execute("INSERT INTO business VALUES (1)")
        write(writer, written[1])
        writer.execute("INSERT INTO business VALUES (2)")
    outbox.drain(*MESSAGE)
    assert ids(outbox.records()) == [written[0]]


def test_a_publication_that_was_missing_for_a_while_costs_nothing_since_18_and_the_slot_before(outbox: Outbox) -> None:
    install(outbox)
    outbox.database.execute("DROP PUBLICATION cdc_outbox; CREATE TABLE business (n int)")
    written = message()
    with outbox.database.connect() as writer:
        write(writer, written[1])
        writer.execute("INSERT INTO business VALUES (1)")
        version = writer.info.server_version
    outbox.database.execute("CREATE PUBLICATION cdc_outbox")
    if version >= 180_000:
        outbox.drain(*MESSAGE)
    else:
        ended(outbox.relay(*MESSAGE), 78, "publication", "slot recover", "in no table")
    assert ids(outbox.records()) == [written[0]]


def test_killed_in_full_flow_it_loses_no_message_and_repeats_with_the_same_ids(outbox: Outbox) -> None:
    install(outbox)
    written = [message(aggregateid=str(number % 7)) for number in range(2000)]
    with outbox.database.connect() as writer:
        for _, content in written[:1000]:
            write(writer, content)
        relay = outbox.streaming(*MESSAGE)
        outbox.records(until=100)
        relay.kill()
        for _, content in written[1000:]:
            write(writer, content)
    outbox.drain(*MESSAGE)
    judge([Event(event, str(number % 7)) for number, (event, _) in enumerate(written)], outbox.records())


def test_the_writer_may_emit_and_nothing_else(outbox: Outbox) -> None:
    install(outbox)
    outbox.database.execute(render_roles(InstallOptions(source="message")))
    outbox.database.execute("CREATE ROLE shop LOGIN PASSWORD 'shop-password'; GRANT cdc_outbox_writer TO shop")
    with outbox.database.connect(outbox.database.dsn_for("shop", "shop-password")) as application:
        (event,) = application.execute(EMIT, ["order", "1", "Placed", "{}", None, None]).fetchone() or ()
    outbox.drain(*MESSAGE)
    assert ids(outbox.records()) == [str(event)]


def _text(record: Record, header: str) -> str:
    value = record.header(header)
    assert value is not None
    return value.decode()
