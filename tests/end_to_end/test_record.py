"""The record, field by field: what every column becomes, by the stream and by a first start alike."""

from __future__ import annotations

import contextlib
import re
import struct
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.plugins.daemon import Relay
from tests.plugins.outbox import Outbox, insert

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.plugins.kafka import KafkaCluster, Record
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database, PostgresServer

PARTITIONS: Final = 6
"""What the broker of the tests gives a topic that is made on demand."""

LARGE: Final = 900_000
"""Bytes: just below Kafka's default limit of a million."""

UNICODE: Final = "Grüße an 世界 🎉 \u202e \u00a0"

PAYLOADS: Final[Mapping[str, tuple[str, Any, bytes | None]]] = {
    "json keeps white space, key order, doubles": (
        "json",
        '{ "b": 1,\n\t"a":2, "a" : 3 }',
        b'{ "b": 1,\n\t"a":2, "a" : 3 }',
    ),
    "json keeps digits": ("json", "[12345678901234567891, 1.10, 1E+2]", b"[12345678901234567891, 1.10, 1E+2]"),
    "json keeps escapes": ("json", r'"\u00e9 \/ \ud83c\udf89"', rb'"\u00e9 \/ \ud83c\udf89"'),
    "json unicode": ("json", f'"{UNICODE}"', f'"{UNICODE}"'.encode()),
    "json NULL is a null value": ("json", None, None),
    "json null is four letters": ("json", "null", b"null"),
    "json large": ("json", f'"{"x" * LARGE}"', b'"' + b"x" * LARGE + b'"'),
    "jsonb as PostgreSQL prints it": ("jsonb", '{"bb":1,"a":[1,2.50]}', b'{"a": [1, 2.50], "bb": 1}'),
    "jsonb keeps digits": ("jsonb", "12345678901234567891", b"12345678901234567891"),
    "jsonb unicode": ("jsonb", f'"{UNICODE}"', f'"{UNICODE}"'.encode()),
    "jsonb NULL is a null value": ("jsonb", None, None),
    "jsonb large": ("jsonb", f'"{"x" * LARGE}"', b'"' + b"x" * LARGE + b'"'),
    "text as it is": ("text", " <a>\r\n'it''s'\\x00\t</a> ", b" <a>\r\n'it''s'\\x00\t</a> "),
    "text unicode": ("text", UNICODE, UNICODE.encode()),
    "text empty is an empty value": ("text", "", b""),
    "text NULL is a null value": ("text", None, None),
    "text large": ("text", "ü" * (LARGE // 2), "ü".encode() * (LARGE // 2)),
    "bytea every byte": ("bytea", bytes(range(256)), bytes(range(256))),
    "bytea that looks like hex": ("bytea", b"\\xff", b"\\xff"),
    "bytea empty is an empty value": ("bytea", b"", b""),
    "bytea NULL is a null value": ("bytea", None, None),
    "bytea large": ("bytea", b"\x00\xff" * (LARGE // 2), b"\x00\xff" * (LARGE // 2)),
}
"""Payload type, what is written, the value that arrives."""

KEYS: Final[Mapping[str, tuple[str | None, bytes | None]]] = {
    "key as it is": ("order-4711", b"order-4711"),
    "key unicode": (UNICODE, UNICODE.encode()),
    "key empty": ("", b""),
    "key NULL is a null key": (None, None),
    "key long": ("k" * 5000, b"k" * 5000),
}

TYPES: Final[Mapping[str, tuple[str | None, list[tuple[str, bytes | None]]]]] = {
    "type as it is": ("OrderPlaced", [("type", b"OrderPlaced")]),
    "type unicode": (UNICODE, [("type", UNICODE.encode())]),
    "type empty": ("", [("type", b"")]),
    "type NULL is no such header": (None, []),
}

HEADERS: Final[Mapping[str, tuple[str | None, list[tuple[str, bytes | None]]]]] = {
    "headers NULL": (None, []),
    "headers none": ("{}", []),
    "a string is its text": (
        '{"a": "x", "e": "", "u": "ü\\n\\u00fc"}',
        [("a", b"x"), ("e", b""), ("u", "ü\nü".encode())],
    ),
    "a number is its text": ('{"n": 5, "m": -1.10, "e": 1E+2}', [("n", b"5"), ("m", b"-1.10"), ("e", b"1E+2")]),
    "true and false are words": ('{"t": true, "f": false}', [("t", b"true"), ("f", b"false")]),
    "an object is its text": ('{"o": {"a": 1, "b": [ ]}}', [("o", b'{"a":1,"b":[]}')]),
    "an array is its text": ('{"l": [1, "a b", null]}', [("l", b'[1,"a b",null]')]),
    "null is a null header": ('{"n": null}', [("n", None)]),
    "members keep their order": ('{"z": "1", "a": 2, "m": null}', [("z", b"1"), ("a", b"2"), ("m", None)]),
    "names are kept": ('{"Ä b.c-d": "1"}', [("Ä b.c-d", b"1")]),
    "trace headers are untouched": ('{"traceparent": "00-ab-cd-01"}', [("traceparent", b"00-ab-cd-01")]),
}

TOPICS: Final = ("order", "Order", "a.b_c-D9")


def identity(name: str) -> str:
    """The id of the row of that name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, (payload_type, written, _) in PAYLOADS.items():
        yield f"outbox_{payload_type}", {"id": identity(name), "payload": written}
    for name, (key, _) in KEYS.items():
        yield "outbox_json", {"id": identity(name), "aggregateid": key}
    for name, (event_type, _) in TYPES.items():
        yield "outbox_json", {"id": identity(name), "type": event_type}
    for name, (headers, _) in HEADERS.items():
        yield "outbox_json", {"id": identity(name), "headers": headers}
    for topic in TOPICS:
        yield "outbox_json", {"id": identity(topic), "aggregatetype": topic}


@pytest.fixture(scope="module", params=["stream", "snapshot"])
def delivered(
    request: pytest.FixtureRequest,
    postgres_server: PostgresServer,
    kafka_cluster: KafkaCluster,
    tmp_path_factory: pytest.TempPathFactory,
) -> Mapping[str, Record]:
    """All the rows above, delivered by one relay from four tables; by their ids."""
    folder = tmp_path_factory.mktemp("relay")
    relays = contextlib.ExitStack()

    def start(*arguments: str, database: Database, kafka: KafkaCluster) -> Relay:
        given = ["--dsn", database.dsn, "--brokers", kafka.brokers, *arguments]
        return relays.enter_context(contextlib.closing(Relay(given, env={}, cwd=folder, http=False)))

    database = postgres_server.create_database()
    outbox = Outbox(database, kafka_cluster, start)
    types = ("json", "jsonb", "text", "bytea")
    for payload_type in types:
        outbox.create_table(f"outbox_{payload_type}", payload=payload_type)
    outbox.publish(*(f"outbox_{payload_type}" for payload_type in types))
    if request.param == "stream":
        outbox.create_slot()
    with database.connect() as connection:
        for table, row in rows():
            insert(connection, table, row)
    try:
        outbox.drain(*(word for payload_type in types for word in ("--table", f"outbox_{payload_type}")))
        found = outbox.records_by_id()
    finally:  # before the tests: others of this module use a slot of the same name
        relays.close()
        database.drop()
        kafka_cluster.delete_topics(topic for topic in kafka_cluster.topics() if topic.startswith(outbox.prefix))
    return found


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_value_is_the_payload_verbatim(delivered: Mapping[str, Record], name: str) -> None:
    assert delivered[identity(name)].value == PAYLOADS[name][2]


@pytest.mark.parametrize("name", KEYS)
def test_the_key_is_the_aggregate_id_in_utf8(delivered: Mapping[str, Record], name: str) -> None:
    assert delivered[identity(name)].key == KEYS[name][1]


@pytest.mark.parametrize("name", TYPES)
def test_the_headers_begin_with_id_and_type(delivered: Mapping[str, Record], name: str) -> None:
    assert delivered[identity(name)].headers == [("id", identity(name).encode()), *TYPES[name][1]]


@pytest.mark.parametrize("name", HEADERS)
def test_members_of_headers_follow_in_their_order(delivered: Mapping[str, Record], name: str) -> None:
    always = [("id", identity(name).encode()), ("type", b"OrderPlaced")]
    assert delivered[identity(name)].headers == always + HEADERS[name][1]


@pytest.mark.parametrize("topic", TOPICS)
def test_the_topic_is_named_by_the_aggregate_type(delivered: Mapping[str, Record], topic: str) -> None:
    assert re.fullmatch(r"t[0-9a-f]{8}\." + re.escape(topic), delivered[identity(topic)].topic)


def test_every_partition_is_the_one_that_java_producers_choose(delivered: Mapping[str, Record]) -> None:
    chosen = {record.key: record.partition for record in delivered.values() if record.key is not None}
    assert chosen == {key: murmur2_partition(key) for key in chosen}


def test_a_hundred_keys_go_to_the_partitions_that_java_producers_choose(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.add_all([{"aggregateid": f"{'customer' * (number % 4)}{number}"} for number in range(100)])
    outbox.drain()
    records = outbox.records()
    assert [record.partition for record in records] == [murmur2_partition(record.key or b"") for record in records]
    assert {record.partition for record in records} == set(range(PARTITIONS))


def test_the_timestamp_is_the_time_of_the_commit_in_milliseconds(outbox: Outbox, witness: Witness) -> None:
    outbox.create()
    outbox.create_slot()
    writer = outbox.database.connect(autocommit=False)
    insert(writer, "outbox", {})
    writer.execute("SELECT pg_sleep(0.05)")
    insert(writer, "outbox", {})
    writer.commit()
    *_, commit_time = witness.commit_times()
    outbox.drain()
    assert [record.timestamp for record in outbox.records()] == [commit_time] * 2


# -- Kafka's hash, written down once more (org.apache.kafka.common.utils.Utils.murmur2 is 32-bit MurmurHash2)


def murmur2(data: bytes) -> int:
    """MurmurHash2 with Kafka's seed, as an unsigned number."""
    factor, mask = 0x5BD1E995, 0xFFFFFFFF
    value = 0x9747B28C ^ len(data)
    whole = len(data) // 4 * 4
    for (word,) in struct.iter_unpack("<I", data[:whole]):
        mixed = word * factor & mask
        value = (value * factor & mask) ^ ((mixed ^ mixed >> 24) * factor & mask)
    if rest := data[whole:]:
        value = (value ^ int.from_bytes(rest, "little")) * factor & mask
    value = (value ^ value >> 13) * factor & mask
    return value ^ value >> 15


def murmur2_partition(key: bytes, partitions: int = PARTITIONS) -> int:
    return (murmur2(key) & 0x7FFFFFFF) % partitions


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536), (b"abc", 479470107)],
)
def test_murmur2_gives_what_kafkas_own_tests_expect(data: bytes, value: int) -> None:
    assert murmur2(data) == value & 0xFFFFFFFF
