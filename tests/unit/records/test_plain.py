"""The native plane's record is Python's, byte for byte, or it takes the row for not plain: for any bytes and any plan."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cdc_outbox.config.settings import Columns, Settings
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import PoisonEvent, ProtocolError
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.records.mapping import Mappings, RowMapping
from tests.plugins import wire_builder as build
from tests.plugins.absence import absent

if find_spec("cdc_outbox_native") is None:
    absent("cdc_outbox_native is not installed: make native")
import cdc_outbox_native

OID = 16_400
COMMIT = Transaction(1_794_000_000_123)
TABLE = (
    ("seq", build.INT8),
    ("id", build.UUID),
    ("aggregatetype", build.TEXT),
    ("aggregateid", build.TEXT),
    ("type", build.TEXT),
    ("payload", build.JSON),
    ("headers", build.JSONB),
    ("tenant", build.TEXT),
    ("traceparent", build.TEXT),
)

texts = st.one_of(
    st.sampled_from(
        [b"order", b"a.b-c_D9", b".", b"..", b"", b"no topic", b"x" * 249, b"y" * 300, b"\xc3\xa9", b"\0", b"1"]
    ),
    st.binary(max_size=30),
)
cells = st.lists(st.one_of(st.none(), texts), min_size=len(TABLE), max_size=len(TABLE))

templates = st.sampled_from(
    [
        "outbox.event.{aggregatetype}",
        "{aggregatetype}",
        "fixed",
        "{aggregatetype}.{type}",
        "a{aggregatetype}b{tenant}c{id}",
    ]
)
configurations = st.builds(
    lambda topic, columns, headers: Settings(brokers="b", topic=topic, columns=columns, headers=headers),
    templates,
    st.sampled_from([Columns(), Columns(key=("tenant",)), Columns(partition="seq"), Columns(payload=("headers",))]),
    st.sampled_from([(), (HeaderColumn("tenant", "tenant"),), (HeaderColumn("id", "eventId"),)]),
)


def mapping_of(chosen: Settings, columns: tuple[tuple[str, int], ...] = TABLE) -> RowMapping:
    return Mappings(chosen).rows(Relation(OID, "public", "outbox", "d", tuple(Column(*each) for each in columns)))


def compare(mapping: RowMapping, message: bytes) -> bool:
    """Whether the row is plain. Then both records are one."""
    assert mapping.plain is not None
    found = cdc_outbox_native.peek(message, mapping.plain)
    if found is None:
        return False
    topic, key, value, event_id, event_type = found
    headers = [(mapping.plain.id_name, event_id), (mapping.plain.type_name, event_type)]
    assert mapping.record(message, COMMIT)[:6] == (topic, key, value, headers, COMMIT.commit_time, -1)
    return True


@settings(deadline=None)  # a mapping is compiled for each
@given(configurations, cells)
def test_any_row_of_any_configuration(chosen: Settings, row: list[bytes | None]) -> None:
    mapping = mapping_of(chosen)
    message = build.xlogdata(build.insert(OID, row))
    taken = compare(mapping, message)
    try:
        record = mapping.record(message, COMMIT)
    except PoisonEvent:
        assert not taken
        return
    assert mapping.plain is not None
    nulls = all(row[position] is None for position in mapping.plain.null)
    assert taken == (nulls and row[mapping.plain.type] is not None), record


@settings(deadline=None)
@given(configurations, cells, st.data())
def test_any_bytes(chosen: Settings, row: list[bytes | None], data: st.DataObject) -> None:
    mapping = mapping_of(chosen)
    message = bytearray(build.xlogdata(build.insert(OID, row)))
    for _ in range(data.draw(st.integers(0, 3))):
        position = data.draw(st.integers(0, len(message) - 1))
        message[position] = data.draw(st.sampled_from([*b"tnubIN\0\xff\x01\x09"]))
    cut = data.draw(st.integers(0, len(message)))
    for mutated in (bytes(message), bytes(message[:cut]), bytes(message[:cut]) + bytes(message)):
        if mutated[:1] != b"w" or mutated[25:26] != b"I" or mutated[26:30] != OID.to_bytes(4, "big"):
            continue  # the loop gives a mapping the Inserts of its relation only
        try:
            mapping.event(mutated)
        except ProtocolError:
            assert mapping.plain is not None
            assert cdc_outbox_native.peek(mutated, mapping.plain) is None
        else:
            compare(mapping, mutated)


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"w" + bytes(24) + b"I")
def test_any_bytes_at_all(message: bytes) -> None:
    mapping = mapping_of(Settings(brokers="b"))
    assert mapping.plain is not None
    if cdc_outbox_native.peek(message, mapping.plain) is not None:
        compare(mapping, message)


def test_the_row_of_the_tutorial_is_plain() -> None:
    row = [
        b"1",
        b"0190f4c8-0000-7000-8000-000000000001",
        b"order",
        b"42",
        b"OrderPlaced",
        b'{"n": 1}',
        None,
        None,
        None,
    ]
    assert compare(mapping_of(Settings(brokers="b")), build.xlogdata(build.insert(OID, row)))


def test_a_payload_of_bytea_goes_the_way_of_python() -> None:
    columns = tuple((name, build.BYTEA if name == "payload" else oid) for name, oid in TABLE)
    assert mapping_of(Settings(brokers="b"), columns).plain is None


def test_cloudevents_go_the_way_of_python() -> None:
    assert mapping_of(Settings(brokers="b", format="cloudevents", ce_source="/shop")).plain is None


@pytest.mark.parametrize(
    "broken", [{"id": 9}, {"routing": (-1,)}, {"null": (200,)}, {"columns": 2}, {"literals": ("a",)}]
)
def test_a_layout_beyond_its_relation_is_refused(broken: dict[str, object]) -> None:
    plain = mapping_of(Settings(brokers="b")).plain
    assert plain is not None
    with pytest.raises(ValueError, match="column"):
        cdc_outbox_native.peek(b"", plain._replace(**broken))  # type: ignore[arg-type]
