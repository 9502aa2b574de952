"""What Debezium was given, and what the relay is given for the same: tables, settings, rows.

Aggregate types begin with `parity`, so that no other test's topics do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

RECORDING: Final = Path(__file__).with_name("debezium.json")
TOPICS: Final = r"^(outbox\.event\.|events\.)parity"


@dataclass(frozen=True, slots=True)
class Case:
    """One way to set it up."""

    name: str
    table: str
    """CREATE TABLE. It is called `outboxevent`, as in Debezium's documentation."""
    connector: Mapping[str, str]
    """Properties of the connector beyond those that every case has."""
    options: tuple[str, ...]
    """Options of `cdc-outbox run` for the same, beyond --table, --slot, --publication."""
    transactions: tuple[str, ...]
    """SQL, each committed alone. The last row of the last one is the fence."""


def _identity(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def _insert(number: int, kind: str, key: str | None, event: str | None, payload: str | None, **more: Any) -> str:
    row = {
        "id": _identity(number),
        "aggregatetype": kind,
        "aggregateid": key,
        "type": event,
        "payload": payload,
        **more,
    }
    values = ", ".join(
        "NULL" if value is None else f"'{str(value).replace(chr(39), chr(39) * 2)}'" for value in row.values()
    )
    return f"INSERT INTO outboxevent ({', '.join(row)}) VALUES ({values});"


_DOCUMENTED: Final = """
CREATE TABLE outboxevent (
    id uuid NOT NULL PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255),
    type varchar(255),
    payload jsonb
)
"""
"""As in Debezium's documentation, but for NOT NULL where a row below is to show what NULL does."""

_ORDER: Final = (
    '{"id": 1, "lines": [{"item": "Debezium in Action", "price": 39.98}, {"item": "ü \\" \\\\", "n": null}]}'
)

DEFAULTS: Final = Case(
    name="the router's defaults",
    table=_DOCUMENTED,
    connector={},
    options=(),
    transactions=(
        _insert(1, "parityOrder", "1", "OrderCreated", _ORDER),
        "".join(_insert(10 + each, "parityOrder", str(each), "OrderPaid", f'{{"order":{each}}}') for each in range(24)),
        _insert(40, "parityCustomer", 'key with ü, "quotes" and more', "CustomerCreated", "{}"),
        _insert(41, "parityCustomer", "", "KeyIsEmpty", "[]"),
        _insert(42, "parityCustomer", "7", "PayloadIsAString", '"text"'),
        _insert(43, "parityCustomer", "7", "PayloadIsANumber", "12345678901234567890.5"),
        _insert(44, "parityCustomer", "7", None, "true"),
        _insert(45, "parityCustomer", "7", "PayloadIsJsonNull", "null"),
        _insert(46, "parityCustomer", "7", "PayloadIsNull", None),
        _insert(47, "parityOrder", "1", "Deleted", '{"gone": true}') + "DELETE FROM outboxevent;",
        _insert(48, "parityOrder", "1", "Fence", "{}"),
    ),
)

PLACED: Final = Case(
    name="fields placed in headers, a partition column, a timestamp column",
    table="""
CREATE TABLE outboxevent (
    id uuid NOT NULL PRIMARY KEY,
    aggregatetype varchar(255) NOT NULL,
    aggregateid varchar(255) NOT NULL,
    type varchar(255),
    payload text,
    happened timestamp NOT NULL,
    part int NOT NULL,
    tenant text,
    version int,
    urgent boolean
)
""",
    connector={
        "transforms.outbox.table.fields.additional.placement": (
            "type:header:eventType,tenant:header,version:header,urgent:header:isUrgent,part:partition"
        ),
        "transforms.outbox.table.field.event.timestamp": "happened",
    },
    options=(
        *("--header", "type:eventType", "--header", "tenant", "--header", "version", "--header", "urgent:isUrgent"),
        *("--partition-column", "part", "--timestamp-column", "happened"),
    ),
    transactions=(
        *(
            _insert(
                100 + each, "parityPlaced", "one key", "Placed", f"plain text {each}",
                happened=f"2023-11-14T22:13:2{each}.123", part=each % 3, tenant=tenant, version=version, urgent=urgent,
            )
            for each, (tenant, version, urgent) in enumerate(
                [("acme", 1, True), ("ü", -2, False), ("", 0, None), (None, None, True), ("5", 2147483647, False)]
            )
        ),
        _insert(
            110, "parityPlaced", "2", None, '{ "spaces" :  1 }',
            happened="1970-01-01", part=0, tenant="x", version=1, urgent=True,
        ),
        _insert(
            111, "parityPlaced", "2", "Fence", "",
            happened="2023-11-15 01:00:00.5", part=1, tenant="x", version=1, urgent=True,
        ),
    ),
)  # fmt: skip

RENAMED: Final = Case(
    name="columns of other names, and topics of one's own",
    table="""
CREATE TABLE outboxevent (
    event_id uuid NOT NULL PRIMARY KEY,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    event_type text NOT NULL,
    body json,
    stream text NOT NULL
)
""",
    connector={
        "transforms.outbox.table.field.event.id": "event_id",
        "transforms.outbox.table.field.event.key": "aggregate_id",
        "transforms.outbox.table.field.event.type": "event_type",
        "transforms.outbox.table.field.event.payload": "body",
        "transforms.outbox.route.by.field": "stream",
        "transforms.outbox.route.topic.replacement": "events.${routedByValue}.v1",
        "transforms.outbox.table.fields.additional.placement": "event_type:header:type",
    },
    options=(
        *("--id-column", "event_id", "--key-column", "aggregate_id", "--type-column", "event_type"),
        *("--payload-column", "body", "--topic", "events.{stream}.v1"),
    ),
    transactions=tuple(
        f"INSERT INTO outboxevent VALUES ('{_identity(200 + each)}', 'order', '{each}', 'Renamed',"
        f" '{{\"b\" : {each},  \"a\": 1.10}}', 'parity.stream')"
        for each in range(12)
    ),
)

BYTES: Final = Case(
    name="a payload of bytes",
    table=_DOCUMENTED.replace("jsonb", "bytea"),
    connector={"binary.handling.mode": "bytes"},
    options=(),
    transactions=(
        _insert(300, "parityBytes", "1", "Bytes", r"\x00ff1080"),
        _insert(301, "parityBytes", "2", "Bytes", r"\x"),
        _insert(302, "parityBytes", "3", "Bytes", r"\x7b7d"),
    ),
)

CASES: Final = (DEFAULTS, PLACED, RENAMED, BYTES)


def recording() -> dict[str, Any]:
    """What Debezium made of it: `versions`, and `records` by case."""
    found: dict[str, Any] = json.loads(RECORDING.read_text(encoding="utf-8"))
    return found


def as_json(record: Any) -> dict[str, Any]:
    """A record as it stands in the recording. Bytes are text of Latin-1, so that each is one character."""
    return {
        "topic": record.topic,
        "partition": record.partition,
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [[name, _text(value)] for name, value in record.headers],
        "timestamp": record.timestamp,
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def table_of(records: list[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """By partition, in order."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault((record["topic"], record["partition"]), []).append(record)
    return found
