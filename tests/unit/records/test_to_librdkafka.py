"""The whole way from bytes to librdkafka: whatever an application writes becomes a record that it takes, or a poison event.

The producer is the real one, with no broker to reach: what it takes is dropped. Its binding does not check what it is given:
half a surrogate in the name of a header ends the process, so a failure here may be a crash of the test process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc_outbox.config.settings import Columns, Settings
from cdc_outbox.config.value_types import HeaderColumn
from cdc_outbox.counters import Counters
from cdc_outbox.errors import PoisonEvent
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.properties import effective
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres.pgoutput import Column, Relation
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.relay.ledger import Transaction
from tests.plugins import wire_builder as build

LIMIT: Final = 2000
"""message.max.bytes, so small that sizes around it are drawn."""

SHAPE: Final = (
    *build.OUTBOX,
    ("at", build.TIMESTAMPTZ),
    ("shard", build.INT4),
    ("tenant", build.TEXT),
    ("traceparent", build.TEXT),
    ("span", build.TEXT),
)
RELATION: Final = Relation(1, "public", "outbox", "d", tuple(Column(*column) for column in SHAPE))


@pytest.fixture(scope="module")
def publisher() -> Iterator[Publisher]:
    chosen = Settings(brokers="127.0.0.1:1")
    publisher = Publisher(effective({"message.max.bytes": str(LIMIT)}, chosen), Counters())
    yield publisher
    publisher.abandon()


def _object(items: list[tuple[str, str]]) -> str:
    return "{" + ",".join(f"{name}:{value}" for name, value in items) + "}"


escaped = st.sampled_from(
    ["a", "b", "\\ud800", "\\udc00", "\\ud83d\\ude00", "\\u0000", "\\n", "ü", "😀", "\\\\", '\\"']
)
names = st.lists(escaped, max_size=3).map(lambda pieces: '"' + "".join(pieces) + '"')
numbers = st.sampled_from(["0", "-1.5", "1e400", "-1E400", "9" * 400, "9" * 5000, "0." + "1" * 400])
scalars = (
    names | numbers | st.sampled_from(["true", "null", "NaN", "[]", "{}", '"' + "x" * 3000 + '"', "[" * 50 + "]" * 50])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]")
        | st.lists(st.tuples(names, inner), max_size=3).map(_object)
    ),
    max_leaves=5,
)


objects = st.lists(st.tuples(names, values), max_size=4).map(_object)
properties = st.lists(
    st.lists(st.sampled_from(["a", "\\ud800", "\\u0000", "\\", "=", ":", "\n", "ü", "x" * 1500]), max_size=5),
    max_size=3,
).map(lambda lines: "\n".join("".join(line) for line in lines))
texts = st.text(max_size=5) | st.sampled_from(
    ["order", "", "..", "x" * 250, "x" * LIMIT, "x" * 10 * LIMIT, "a\0b", "a/b"]
)
anything = st.binary(max_size=8) | texts.map(str.encode)
times = st.sampled_from(
    [
        b"2026-11-23 08:51:33.25+00",
        b"infinity",
        b"9999-12-31 23:59:59-15",
        b"0001-01-01 00:00:00+15",
        b"1969-12-31",
        b"x",
    ]
)
partitions = st.sampled_from([b"0", b"2147483647", b"2147483648", b"-1", b"9" * 5000, b"x", b""])


def cell(usual: bytes, *others: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes | None]:
    return st.just(usual) | st.none() | st.one_of(*others)


rows = st.fixed_dictionaries(
    {
        "seq": st.just(b"1"),
        "id": cell(b"0190f4c8-0000-7000-8000-000000000001", anything),
        "aggregatetype": cell(b"order", anything),
        "aggregateid": cell(b"42", anything),
        "type": cell(b"Placed", anything),
        "payload": cell(b"{}", anything, values.map(str.encode)),
        "headers": st.none() | anything | objects.map(str.encode),
        "at": cell(b"2026-11-23 08:51:33.25+00", times, anything),
        "shard": cell(b"1", partitions, anything),
        "tenant": cell(b"acme", anything),
        "traceparent": st.none() | anything,
        "span": st.none() | anything | properties.map(lambda text: text.encode("utf-8", "replace")),
    }
)

chosen_columns = st.builds(
    Columns,
    span_context=st.sampled_from([None, "span"]),
    timestamp=st.sampled_from([None, "at"]),
    partition=st.sampled_from([None, "shard"]),
)
options = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["debezium", "cloudevents", "cloudevents-structured"]),
        "topic": st.sampled_from(["outbox.event.{aggregatetype}", "all", "{tenant}.{type}"]),
        "ce_source": st.sampled_from(["/shop", "/{tenant}/{aggregatetype}"]),
        "content_type": st.sampled_from(["application/json", "text/plain", "{tenant}", "application/{tenant}"]),
        "headers": st.sampled_from([(), (HeaderColumn("tenant", "tenant"),)]),
        "columns": chosen_columns,
    }
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(chosen=options, row=rows, way=st.sampled_from(["stream", "snapshot", "message", "payload"]))
@example(chosen={}, row={"headers": b'{"a":1e400,"\\ud800":1}'}, way="stream")
@example(chosen={}, row={"headers": b'{"a":1e400,"\\ud800":1}'}, way="message")
@example(chosen={"columns": Columns(span_context="span")}, row={"span": b"a\\ud800=x"}, way="snapshot")
@example(
    chosen={"columns": Columns(span_context="span"), "format": "cloudevents", "ce_source": "/s"},
    row={"span": b"a\\ud800=x"},
    way="stream",
)
@example(
    chosen={"columns": Columns(timestamp="at"), "format": "cloudevents", "ce_source": "/s"},
    row={"at": b"9999-12-31 23:59:59-15"},
    way="message",
)
@example(
    chosen={"format": "cloudevents-structured", "ce_source": "/s"},
    row={"payload": b"[" * 1500 + b"]" * 400},
    way="stream",
)
def test_any_row_and_message_becomes_a_record_that_librdkafka_takes_or_poison(
    publisher: Publisher, chosen: dict[str, Any], row: dict[str, bytes | None], way: str
) -> None:
    cells = {**dict.fromkeys(name for name, *_ in SHAPE), **USUAL, **row}
    mappings = Mappings(Settings(brokers="b", source="both", **chosen), LIMIT)
    transaction = Transaction(1_794_000_000_000, Lsn(1))
    reason: object = None
    try:
        record = _record(mappings, cells, way, transaction)
        publisher._open_topics.add(record.topic)  # no broker to ask for it
        assert publisher.produce(record, transaction)
    except PoisonEvent as error:
        reason = error.where["reason"]
    assert reason is None or reason in REASONS
    publisher._producer.purge()
    publisher.serve()


USUAL: Final[dict[str, bytes | None]] = {
    "seq": b"1",
    "id": b"i",
    "aggregatetype": b"order",
    "aggregateid": b"42",
    "type": b"Placed",
    "payload": b"{}",
}
REASONS: Final = {
    *(
        "no-id",
        "no-type",
        "bad-topic",
        "bad-headers",
        "bad-span-context",
        "bad-timestamp",
        "bad-partition",
        "bad-source",
    ),
    *("bad-content-type", "bad-attribute", "bad-payload", "bad-message", "missing-member", "msg-size-too-large"),
}


def _record(mappings: Mappings, cells: dict[str, bytes | None], way: str, transaction: Transaction) -> KafkaRecord:
    if way == "stream":
        return mappings.rows(RELATION).record(build.xlogdata(build.insert(1, [*cells.values()])), transaction)
    if way == "snapshot":
        return mappings.snapshot(RELATION).record([*cells.values()], transaction)
    messages = mappings.messages(Counters())
    assert messages is not None
    behind = cells["payload"] if way == "payload" else None
    members = [
        f"{json.dumps(name)}:{_member(name, value)}"
        for name, value in cells.items()
        if name != "payload" or behind is None
    ]
    content = ("{" + ",".join(members) + "}").encode("utf-8", "surrogateescape")
    return messages.record(content if behind is None else content + b"\n" + behind, transaction)


def _member(name: str, value: bytes | None) -> str:
    """A column of a row as the member of a message: JSON as it is, other text as a string, escaped or not."""
    if value is None:
        return "null"
    text = value.decode("utf-8", "surrogateescape")
    return text if name in {"headers", "payload"} else json.dumps(text, ensure_ascii=name == "type")
