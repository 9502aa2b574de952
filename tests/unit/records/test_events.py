"""Columns are found by name once, and a row of the stream gives the same event as a row of a query."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config.settings import Columns
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.errors import ConfigurationError, ProtocolError
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres import builtin_types, pgoutput
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.records.events import OutboxEvent, OutboxPlan, compile_plan
from tests.plugins import wire_builder as build

Cells = dict[str, bytes | None]

DEBEZIUM = {"id": build.UUID, "aggregatetype": build.VARCHAR, "aggregateid": build.VARCHAR, "type": build.VARCHAR}
SHAPE = {**DEBEZIUM, "payload": build.JSONB}
ROW: Cells = {
    "id": b"0190f4c8-0000-7000-8000-000000000001",
    "aggregatetype": b"order",
    "aggregateid": b"customer-1",
    "type": b"OrderPlaced",
    "payload": b'{"total": 1.10}',
}


def relation_of(shape: dict[str, int], *, schema: str = "public", name: str = "outbox") -> Relation:
    return Relation(1, schema, name, "d", tuple(Column(column, type_oid) for column, type_oid in shape.items()))


def plan_of(
    shape: dict[str, int],
    columns: Columns = Columns(),  # noqa: B008  # frozen
    routing: tuple[str, ...] = ("aggregatetype",),
    headers: tuple[HeaderColumn, ...] = (),
) -> OutboxPlan:
    return compile_plan(relation_of(shape), columns, routing, headers)


def read(plan: OutboxPlan, shape: dict[str, int], row: Cells) -> OutboxEvent:
    """The event as both ways in give it, which must be one."""
    cells = [row[column] for column in shape]
    message = build.xlogdata(build.insert(1, cells))
    streamed = plan.read(message, 25 + pgoutput.INSERT_TUPLE_OFFSET)
    assert streamed == plan.pick(cells)
    assert type(streamed) is type(plan.pick(cells)) is OutboxEvent
    return streamed


def event_of(shape: dict[str, int], row: Cells, columns: Columns = Columns()) -> OutboxEvent:  # noqa: B008
    return read(plan_of(shape, columns), shape, row)


def test_a_row_becomes_an_event() -> None:
    assert event_of(SHAPE, ROW) == OutboxEvent(
        id=b"0190f4c8-0000-7000-8000-000000000001",
        key=b"customer-1",
        type=b"OrderPlaced",
        payload=b'{"total": 1.10}',
        headers=None,
        timestamp=None,
        partition=None,
        routing=(b"order",),
        extra=(),
    )


@given(st.permutations([*SHAPE, "seq", "created_at", "tenant"]))
def test_columns_are_found_by_name_in_any_order_and_others_are_ignored(order: list[str]) -> None:
    types = {**SHAPE, "seq": build.INT8, "created_at": build.TIMESTAMPTZ, "tenant": 99_999}
    row: Cells = {**ROW, "seq": b"1", "created_at": None, "tenant": b"(composite,value)"}
    assert event_of({column: types[column] for column in order}, row) == event_of(SHAPE, ROW)


cells_of_any_kind = st.none() | st.just(b"") | st.binary(max_size=30)


@given(st.lists(cells_of_any_kind, min_size=8, max_size=8), st.permutations(range(8)))
def test_a_row_of_the_stream_and_a_row_of_a_query_are_the_same_event(
    cells: list[bytes | None], order: list[int]
) -> None:
    columns = [*SHAPE, "headers", "created_at", "shard"]
    types = [*SHAPE.values(), build.JSON, build.TIMESTAMP, build.INT4]
    shape = {columns[position]: types[position] for position in order}
    plan = plan_of(
        shape,
        Columns(timestamp="created_at", partition="shard"),
        routing=("type", "aggregatetype", "type"),
        headers=(HeaderColumn("shard", "shard-number"), HeaderColumn("aggregatetype", "kind")),
    )
    row = dict(zip(columns, cells, strict=True))
    event = read(plan, shape, row)
    assert event == OutboxEvent(
        row["id"],
        row["aggregateid"],
        row["type"],
        row["payload"],
        row["headers"],
        row["created_at"],
        row["shard"],
        (row["type"], row["aggregatetype"], row["type"]),
        (row["shard"], row["aggregatetype"]),
    )
    assert plan.extra_names == ("shard-number", "kind")


def test_null_and_the_empty_text_stay_different() -> None:
    event = event_of(SHAPE, {**ROW, "payload": None, "type": b"", "aggregateid": None})
    assert (event.payload, event.type, event.key) == (None, b"", None)


def test_a_row_where_everything_is_null_is_an_event_too() -> None:
    """Whether it may go out is decided where records are made."""
    assert event_of(SHAPE, dict.fromkeys(SHAPE)) == OutboxEvent(None, None, None, None, None, None, None, (None,), ())


def test_a_payload_of_a_megabyte_is_whole() -> None:
    payload = b'"' + b"x" * 1024 * 1024 + b'"'
    assert event_of(SHAPE, {**ROW, "payload": payload}).payload == payload


def test_a_table_of_hundreds_of_columns() -> None:
    shape = {**{f"before_{number}": build.TEXT for number in range(200)}, **SHAPE}
    shape |= {f"after_{number}": build.TEXT for number in range(200)}
    row: Cells = {column: column.encode() for column in shape}
    assert event_of(shape, {**row, **ROW}) == event_of(SHAPE, ROW)


# bytea


BINARY = {**SHAPE, "payload": build.BYTEA}


@given(st.binary(max_size=40))
def test_a_bytea_goes_out_as_its_bytes(payload: bytes) -> None:
    assert event_of(BINARY, {**ROW, "payload": b"\\x" + payload.hex().encode()}).payload == payload


def test_a_bytea_may_be_null_and_may_be_empty() -> None:
    assert event_of(BINARY, {**ROW, "payload": None}).payload is None
    assert event_of(BINARY, {**ROW, "payload": b"\\x"}).payload == b""


def test_a_bytea_of_a_megabyte_is_whole() -> None:
    payload = bytes(range(256)) * 4096
    assert event_of(BINARY, {**ROW, "payload": b"\\x" + payload.hex().encode()}).payload == payload


def test_a_text_that_looks_like_bytea_stays_as_it_is() -> None:
    shape = {**SHAPE, "payload": build.TEXT}
    assert event_of(shape, {**ROW, "payload": b"\\x6869"}).payload == b"\\x6869"


def test_a_bytea_may_be_id_key_or_header() -> None:
    shape = {**SHAPE, "id": build.BYTEA, "aggregateid": build.BYTEA, "tag": build.BYTEA}
    plan = plan_of(shape, headers=(HeaderColumn("tag", "tag"),))
    event = read(plan, shape, {**ROW, "id": b"\\x01", "aggregateid": b"\\xff00", "tag": b"\\x6869"})
    assert (event.id, event.key, event.extra) == (b"\x01", b"\xff\0", (b"hi",))


@pytest.mark.parametrize("cell", [b"\\000\\001", b"", b"\\", b"\\X00", b"\\x0", b"\\xzz", b"\\x\xff\xff", b"00"])
def test_a_bytea_in_another_format_is_refused(cell: bytes) -> None:
    """The session pins hex; escape format would mean that the pin was lost."""
    plan = plan_of(BINARY)
    cells = [{**ROW, "payload": cell}[column] for column in BINARY]
    with pytest.raises(ProtocolError, match="not in hex format"):
        plan.pick(cells)
    with pytest.raises(ProtocolError, match="not in hex format"):
        plan.read(build.insert(1, cells), pgoutput.INSERT_TUPLE_OFFSET)


# Which columns


def test_the_first_name_that_the_table_has_counts() -> None:
    columns = Columns(key=("aggregate_id", "aggregateid"), type=("type", "event_type"))
    renamed = {"aggregate_id" if column == "aggregateid" else column: oid for column, oid in SHAPE.items()}
    after: Cells = {**ROW, "aggregate_id": b"after"}
    assert event_of(SHAPE, {**ROW, "aggregateid": b"before"}, columns).key == b"before"
    assert event_of(renamed, after, columns).key == b"after"
    assert event_of({**SHAPE, "aggregate_id": build.TEXT}, after, columns).key == b"after"


def test_one_column_may_be_several_parts() -> None:
    columns = Columns(id=("event",), key=("event",), type=("event",), payload=("event",))
    plan = compile_plan(relation_of({"event": build.TEXT}), columns, ("event",), (HeaderColumn("event", "copy"),))
    event = read(plan, {"event": build.TEXT}, {"event": b"x"})
    assert event == OutboxEvent(b"x", b"x", b"x", b"x", None, None, None, (b"x",), (b"x",))


def test_trace_columns_become_headers_without_being_asked_for() -> None:
    shape = {**SHAPE, "tracestate": build.TEXT, "traceparent": build.TEXT, "tenant": build.TEXT}
    plan = plan_of(shape, headers=(HeaderColumn("tenant", "tenant-id"),))
    assert plan.extra_names == ("tenant-id", "traceparent", "tracestate")
    event = read(plan, shape, {**ROW, "traceparent": b"00-1-2-01", "tracestate": None, "tenant": b"t"})
    assert event.extra == (b"t", b"00-1-2-01", None)


def test_a_template_without_columns_routes_by_nothing() -> None:
    assert read(plan_of(SHAPE, routing=()), SHAPE, ROW).routing == ()


def test_a_relation_without_a_schema_is_of_pg_catalog() -> None:
    plan = compile_plan(relation_of(SHAPE, schema=""), Columns(), (), ())
    assert plan.table == TableName("pg_catalog", "outbox")


@pytest.mark.parametrize(
    ("missing", "part", "option"),
    [
        ("id", "id", "--id-column"),
        ("aggregateid", "key", "--key-column"),
        ("type", "type", "--type-column"),
        ("payload", "payload", "--payload-column"),
        ("aggregatetype", "topic", "--topic"),
    ],
)
def test_a_missing_column_is_named_with_the_option_that_names_it(missing: str, part: str, option: str) -> None:
    shape = {column: oid for column, oid in SHAPE.items() if column != missing}
    with pytest.raises(ConfigurationError, match=f"no column {missing}") as raised:
        plan_of(shape)
    assert raised.value.message == f"table public.outbox has no column {missing}, needed as the event's {part}"
    assert f"{option};" in raised.value.cure
    assert f"the table has {', '.join(shape)}." in raised.value.cure


@pytest.mark.parametrize(
    ("columns", "headers", "message", "option"),
    [
        (
            Columns(timestamp="created_at"),
            (),
            "no column created_at, needed as the event's timestamp",
            "--timestamp-column",
        ),
        (Columns(partition="shard"), (), "no column shard, needed as the event's partition", "--partition-column"),
        (Columns(key=("a", "b")), (), "no column a or b, needed as the event's key", "--key-column"),
        (Columns(), (HeaderColumn("tenant", "t"),), "no column tenant, needed as the event's header", "--header"),
    ],
)
def test_what_an_option_names_has_to_be_there(
    columns: Columns, headers: tuple[HeaderColumn, ...], message: str, option: str
) -> None:
    with pytest.raises(ConfigurationError, match=message) as raised:
        plan_of(SHAPE, columns, headers=headers)
    assert option in raised.value.cure


def test_names_are_as_the_catalog_spells_them() -> None:
    shape = {**SHAPE, "AggregateId": build.TEXT}
    assert event_of(shape, {**ROW, "AggregateId": b"other"}).key == b"customer-1"
    assert event_of(shape, {**ROW, "AggregateId": b"other"}, Columns(key=("AggregateId",))).key == b"other"


ACCEPTED = {
    "payload": {114: "json", 3802: "jsonb", 25: "text", 1043: "varchar", 1042: "char", 17: "bytea"},
    "headers": {114: "json", 3802: "jsonb", 25: "text", 1043: "varchar", 1042: "char"},
    "timestamp": {1184: "timestamptz", 1114: "timestamp"},
    "partition": {21: "smallint", 23: "integer", 20: "bigint"},
}


@pytest.mark.parametrize("part", ACCEPTED)
def test_a_column_of_a_type_that_fits_is_taken_and_any_other_is_refused(part: str) -> None:
    columns = Columns(payload=("payload",), timestamp="timestamp", partition="partition")
    fits = {**SHAPE, "headers": build.JSONB, "timestamp": build.TIMESTAMPTZ, "partition": build.INT4}
    for type_oid in (*range(3000), 3802, 16_385):
        shape = {**fits, part: type_oid}
        if type_oid in ACCEPTED[part]:
            plan_of(shape, columns)
        else:
            with pytest.raises(ConfigurationError) as raised:
                plan_of(shape, columns)
            named = builtin_types.name_of(type_oid) or f"OID {type_oid}"
            begins = f"column {part} of public.outbox cannot be the event's {part}: its type {named} is none of "
            assert raised.value.message == begins + ", ".join(ACCEPTED[part].values())


@pytest.mark.parametrize(
    ("shape", "columns", "cure"),
    [
        ({**SHAPE, "payload": build.UUID}, Columns(), "--payload-column"),
        ({**SHAPE, "headers": build.UUID}, Columns(), "rename the column"),
        ({**SHAPE, "at": build.UUID}, Columns(timestamp="at"), "--timestamp-column"),
        ({**SHAPE, "at": build.UUID}, Columns(partition="at"), "--partition-column"),
    ],
)
def test_a_column_of_a_wrong_type_is_refused_with_a_cure(shape: dict[str, int], columns: Columns, cure: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        plan_of(shape, columns)
    assert cure in raised.value.cure


@pytest.mark.parametrize("part", ["id", "aggregateid", "type", "aggregatetype"])
@pytest.mark.parametrize("type_oid", [build.UUID, build.INT8, build.TEXT, 16_385])
def test_id_key_type_and_topic_may_be_of_any_type(part: str, type_oid: int) -> None:
    assert event_of({**SHAPE, part: type_oid}, ROW) == event_of(SHAPE, ROW)


# What is broken


@given(st.lists(cells_of_any_kind, min_size=6, max_size=6), st.data())
def test_a_row_with_any_byte_changed_is_an_event_or_refused(cells: list[bytes | None], data: st.DataObject) -> None:
    shape = {**SHAPE, "blob": build.BYTEA}
    message = build.insert(1, cells)
    at = data.draw(st.integers(pgoutput.INSERT_TUPLE_OFFSET, len(message) - 1))
    message = message[:at] + bytes([data.draw(st.integers(0, 255))]) + message[at + 1 :]
    plan = plan_of(shape, headers=(HeaderColumn("blob", "blob"),))
    try:
        event = plan.read(message, pgoutput.INSERT_TUPLE_OFFSET)
    except ProtocolError:
        return
    assert all(part is None or isinstance(part, bytes) for part in (*event[:7], *event.routing, *event.extra))


@given(st.data())
def test_a_row_with_missing_or_surplus_bytes_is_refused(data: st.DataObject) -> None:
    message = build.insert(1, [*ROW.values()])
    cut = message[: data.draw(st.integers(pgoutput.INSERT_TUPLE_OFFSET, len(message) - 1))]
    for broken in (cut, message + data.draw(st.binary(min_size=1, max_size=5))):
        with pytest.raises(ProtocolError, match=re.escape("tuple of public.outbox with 5 columns")):
            plan_of(SHAPE).read(broken, pgoutput.INSERT_TUPLE_OFFSET)


def test_a_row_of_another_shape_than_its_relation_is_refused() -> None:
    with pytest.raises(ProtocolError):
        plan_of(SHAPE).read(build.insert(1, [*ROW.values(), b"one more"]), pgoutput.INSERT_TUPLE_OFFSET)


@pytest.mark.parametrize("broken", [build.insert(1, [*ROW.values()])[:-1], build.insert(1, [*ROW.values()]) + b"x"])
def test_no_error_holds_a_payload(broken: bytes) -> None:
    with pytest.raises(ProtocolError) as raised:
        plan_of(SHAPE).read(broken, pgoutput.INSERT_TUPLE_OFFSET)
    assert "total" not in repr((str(raised.value), raised.value.cure, raised.value.where, raised.value.__cause__))
