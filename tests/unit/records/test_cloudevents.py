"""What --format cloudevents makes, read back by the CloudEvents SDK: it is the judge of what a CloudEvent is."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event
from cloudevents.core.formats.json import JSONFormat
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config.settings import Columns, Settings
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, PoisonEvent
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.records.templates import SourceTemplate
from tests.plugins import wire_builder as build

COMMITTED = 1_794_000_000_007

BINARY, STRUCTURED = "cloudevents", "cloudevents-structured"

SHAPE = (*build.OUTBOX, ("at", build.TIMESTAMPTZ), ("traceparent", build.TEXT), ("tenant", build.TEXT))

ROW: dict[str, bytes | None] = {
    "seq": b"1",
    "id": b"0190f4c8-0000-7000-8000-000000000001",
    "aggregatetype": b"order",
    "aggregateid": b"42",
    "type": b"OrderPlaced",
    "payload": b'{"total":  1.10, "id": 12345678901234567890123}',
    "headers": None,
    "at": None,
    "traceparent": None,
    "tenant": None,
}


def mappings(mode: str = BINARY, source: str = "/shop/{aggregatetype}", **settings: object) -> Mappings:
    return Mappings(Settings(brokers="b", format=mode, ce_source=source, **settings))  # type: ignore[arg-type]


def record(mode: str, /, settings: dict[str, object] | None = None, **cells: bytes | None) -> KafkaRecord:
    relation = Relation(1, "public", "outbox", "d", tuple(Column(*column) for column in SHAPE))
    ways = mappings(mode, **(settings or {}))
    row = [*{**ROW, **cells}.values()]
    record = ways.snapshot(relation).record(row, Transaction(COMMITTED))
    assert ways.rows(relation).record(build.xlogdata(build.insert(1, row)), Transaction(COMMITTED)) == record
    return record


def event_of(found: KafkaRecord) -> BaseCloudEvent:
    headers = dict(found.headers)
    assert len(headers) == len(found.headers), "a header is there twice"
    message = KafkaMessage({name: value or b"" for name, value in headers.items()}, found.key, found.value or b"")
    return from_kafka_event(message, JSONFormat())


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_the_sdk_finds_every_attribute_and_the_data(mode: str) -> None:
    event = event_of(record(mode))
    assert event.get_attributes() == {
        "specversion": "1.0",
        "id": "0190f4c8-0000-7000-8000-000000000001",
        "source": "/shop/order",
        "type": "OrderPlaced",
        "subject": "42",
        "partitionkey": "42",
        "time": datetime.fromtimestamp(1_794_000_000, UTC).replace(microsecond=7000),
        "datacontenttype": "application/json",
    }
    assert event.get_data() == {"total": 1.10, "id": 12345678901234567890123}


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_the_sequence_sorts_as_events_were_committed_over_all_tables_and_is_the_same_when_they_come_again(
    mode: str,
) -> None:
    columns = tuple(Column(*column) for column in SHAPE)
    here = mappings(mode)
    one, other = (here.snapshot(Relation(oid, "public", "outbox", "d", columns)) for oid in (1, 2))

    def sequences(lsn: int) -> list[str]:
        transaction = Transaction(COMMITTED, Lsn(lsn))
        events = [event_of(mapping.record([*ROW.values()], transaction)) for mapping in (one, other, one)]
        return [event.get_extension("sequence") for event in events]

    found = [text for lsn in (0x9, 0x16FABD0, 0xA_0000_0000, 2**64 - 1) for text in sequences(lsn)]
    assert found == sorted(found)
    assert len(set(found)) == 12
    assert found[3:5] == ["00000000016fabd0-00000001", "00000000016fabd0-00000002"]
    assert sequences(0x9) == found[:3]


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_an_event_that_is_poison_has_its_number_too_and_a_member_cannot_replace_it(mode: str) -> None:
    here = mappings(mode)
    mapping = here.snapshot(Relation(1, "public", "outbox", "d", tuple(Column(*column) for column in SHAPE)))
    transaction = Transaction(COMMITTED, Lsn(1))
    with pytest.raises(PoisonEvent):
        mapping.record([*{**ROW, "type": None}.values()], transaction)
    found = mapping.record([*{**ROW, "headers": b'{"ce_sequence": "wrong"}'}.values()], transaction)
    assert event_of(found).get_extension("sequence") == "0000000000000001-00000002"


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_topic_key_partition_and_timestamp_are_the_default_formats(mode: str) -> None:
    settings: dict[str, object] = {"topic": "t.{tenant}", "columns": Columns(timestamp="at")}
    found, plain = (
        record(each, settings, tenant=b"acme", at=b"2026-11-23 08:51:33.25+00") for each in (mode, "debezium")
    )
    assert (found.topic, found.timestamp) == ("t.acme", 1_795_423_893_250)
    assert (found.topic, found.key, found.partition, found.timestamp) == (
        plain.topic,
        plain.key,
        plain.partition,
        plain.timestamp,
    )


def test_in_binary_mode_the_payload_is_verbatim_and_attributes_are_headers() -> None:
    found = record(BINARY)
    assert found.value == ROW["payload"]
    assert found.headers == [
        ("ce_id", ROW["id"]),
        ("ce_type", b"OrderPlaced"),
        ("ce_specversion", b"1.0"),
        ("ce_source", b"/shop/order"),
        ("ce_time", b"2026-11-06T21:20:00.007Z"),
        ("ce_subject", b"42"),
        ("ce_partitionkey", b"42"),
        ("content-type", b"application/json"),
    ]


def test_in_structured_mode_the_payload_is_embedded_verbatim_and_the_id_is_a_header_too() -> None:
    found = record(STRUCTURED)
    assert found.value is not None
    assert b'"data":' + (ROW["payload"] or b"") in found.value
    assert found.headers == [
        ("id", ROW["id"]),
        ("type", b"OrderPlaced"),
        ("content-type", b"application/cloudevents+json; charset=UTF-8"),
    ]


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_the_trace_context_is_an_extension_and_stays_the_header_that_tracers_read(mode: str) -> None:
    trace = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for found in (
        record(mode, traceparent=trace, headers=b'{"tracestate": "v=1", "other": "x"}'),
        record(mode, headers=b'{"traceparent": "' + trace + b'", "tracestate": "v=1", "other": "x"}'),
    ):
        event = event_of(found)
        assert event.get_extension("traceparent") == trace.decode()
        assert event.get_extension("tracestate") == "v=1"
        headers = dict(found.headers)
        assert (headers["traceparent"], headers["tracestate"], headers["other"]) == (trace, b"v=1", b"x")


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_what_is_not_there_is_no_attribute(mode: str) -> None:
    for key in (None, b""):
        event = event_of(record(mode, aggregateid=key, payload=b"1"))
        assert event.get_subject() is None
        assert event.get_extension("partitionkey") in {None, ""}, "the SDK takes it from an empty key"


def test_a_null_payload_is_a_tombstone_in_binary_mode_and_an_event_without_data_in_structured() -> None:
    binary, structured = record(BINARY, payload=None), record(STRUCTURED, payload=None)
    assert binary.value is None
    assert "content-type" not in dict(binary.headers)
    assert json.loads(structured.value or b"").keys().isdisjoint({"data", "data_base64", "datacontenttype"})


@pytest.mark.parametrize(
    ("content_type", "payload", "member", "data"),
    [
        ("text/plain", "größe\n".encode(), "data", "größe\n"),
        ("application/octet-stream", b"\x00\xff", "data_base64", "AP8="),
        ("application/vnd.shop+json; charset=utf-8", b"[1]", "data", [1]),
        ("application/jsonl", b"{}", "data", "{}"),
    ],
)
def test_data_that_is_no_json_is_text_or_base64(content_type: str, payload: bytes, member: str, data: object) -> None:
    settings: dict[str, object] = {"content_type": content_type}
    envelope = json.loads(record(STRUCTURED, settings, payload=payload).value or b"")
    assert (envelope["datacontenttype"], envelope[member]) == (content_type, data)
    assert dict(record(BINARY, settings, payload=payload).headers)["content-type"] == content_type.encode()


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
def test_the_content_type_can_come_from_a_column_and_each_event_has_its_own(mode: str) -> None:
    settings: dict[str, object] = {"content_type": "{tenant}", "topic": "t.{aggregatetype}"}
    for tenant, payload, data in [
        (b"application/json", b'{"a": 1}', {"a": 1}),
        (b"text/plain", b"hello", "hello"),
        (b"application/avro", b"\x00\xff", b"\x00\xff"),
    ]:
        event = event_of(record(mode, settings, tenant=tenant, payload=payload))
        assert (event.get_datacontenttype(), event.get_source()) == (tenant.decode(), "/shop/order")
        assert event.get_data() == data
    assert record(mode, settings, tenant=None, payload=None), "a tombstone needs none"
    assert record(mode, {"content_type": "application/{tenant}"}, tenant=b"json")


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
@pytest.mark.parametrize(
    "value", [None, b"", b"json", b"a b/c", b"text/plain\n", b"application/cloudevents+json", b"\xff/x"]
)
def test_a_column_that_has_no_content_type_is_poison(mode: str, value: bytes | None) -> None:
    with pytest.raises(PoisonEvent) as raised:
        record(mode, {"content_type": "{tenant}"}, tenant=value)
    assert raised.value.where["reason"] == "bad-content-type"


@pytest.mark.parametrize("text", ["", "json", "{}", "{a", "a/b\n", "application/cloudevents+json", "text/plain; ü"])
def test_a_content_type_that_is_none_is_refused_at_the_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--content-type"):
        mappings(content_type=text)


@pytest.mark.parametrize("mode", [BINARY, STRUCTURED])
@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"id": None}, "no-id"),
        ({"id": b""}, "no-id"),
        ({"type": None}, "no-type"),
        ({"type": b""}, "no-type"),
        ({"type": b"a\nb"}, "bad-attribute"),
        ({"aggregateid": b"\xff"}, "bad-attribute"),
        ({"tenant": None}, "bad-source"),
        ({"aggregatetype": None}, "bad-topic"),
    ],
)
def test_what_cannot_be_a_cloudevent_is_poison(mode: str, cells: dict[str, bytes | None], reason: str) -> None:
    with pytest.raises(PoisonEvent) as raised:
        record(mode, {"source": "/{tenant}"}, **{"tenant": b"acme", **cells})
    assert raised.value.where["reason"] == reason


@pytest.mark.parametrize("payload", [b"", b"{", b"{} {}", b"\xff", b"NaN", b"[" * 100_000])
def test_a_payload_that_is_no_json_is_poison_where_it_would_have_to_be_embedded(payload: bytes) -> None:
    assert record(BINARY, payload=payload).value == payload
    with pytest.raises(PoisonEvent) as raised:
        record(STRUCTURED, payload=payload)
    assert raised.value.where["reason"] == "bad-payload"


@pytest.mark.parametrize("source", ["", " ", "a b", "{}", "{a", "a}", "\n"])
def test_a_source_that_is_no_uri_reference_is_refused_at_the_start(source: str) -> None:
    with pytest.raises(ConfigurationError, match="--ce-source"):
        SourceTemplate(source)


@given(st.text(max_size=5))
def test_any_value_in_the_source_is_escaped(value: str) -> None:
    encoded = value.encode("utf-8", "replace")
    source = SourceTemplate("/shop/{tenant}").fill((encoded,)).decode()
    assert source.isascii()
    assert not set(source) & set(' <>"\\^`{|}')


@pytest.mark.parametrize(
    ("mode", "header"),
    [
        (BINARY, HeaderColumn("id", "event-id")),
        (BINARY, HeaderColumn("tenant", "ce_id")),
        (STRUCTURED, HeaderColumn("tenant", "Content-Type")),
        (STRUCTURED, HeaderColumn("tenant", "CE_tenant")),
    ],
)
def test_a_header_that_would_hide_an_attribute_is_refused_at_the_start(mode: str, header: HeaderColumn) -> None:
    with pytest.raises(ConfigurationError, match="header"):
        mappings(mode, headers=(header,))


def test_in_structured_mode_the_headers_id_and_type_can_be_called_otherwise() -> None:
    found = record(STRUCTURED, {"headers": (HeaderColumn("id", "event-id"),)}, headers=b'{"ce_region": "eu", "a": "1"}')
    assert [name for name, _ in found.headers] == ["event-id", "type", "content-type", "a"]
    assert event_of(found).get_id() == "0190f4c8-0000-7000-8000-000000000001"


def test_a_member_called_like_an_attribute_is_left_out_and_another_ce_member_is_an_extension() -> None:
    found = record(BINARY, headers=b'{"ce_id": "wrong", "content-type": "text/plain", "ce_region": "eu"}')
    event = event_of(found)
    assert event.get_id() == "0190f4c8-0000-7000-8000-000000000001"
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("region") == "eu"
