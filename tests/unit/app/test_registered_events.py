"""Events that are registered once: written by their instances, checked, exported, compared. No database."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest

from cdc_outbox.app import Outbox, OutboxUsageError, capture, emit
from cdc_outbox.app.__main__ import main
from cdc_outbox.app.contract import assert_compatible, asyncapi, breaking_changes, json_schemas

outbox = Outbox()


class Currency(Enum):
    EUR = "eur"


@dataclasses.dataclass
class Item:
    sku: str
    price: Decimal


@outbox.event("order", type="OrderPaid", version=2)
@dataclasses.dataclass
class OrderPaid:
    order_id: int
    items: list[Item]
    currency: Currency
    paid_at: dt.datetime
    coupon: str | None = None


PAID = OrderPaid(42, [Item("a", Decimal("9.90"))], Currency.EUR, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def test_an_instance_is_all_that_emit_needs() -> None:
    with capture(write=False) as events:
        event_id = emit(None, PAID)

    (event,) = events
    assert (event.id, event.aggregate_type, event.aggregate_id, event.type) == (event_id, "order", "42", "OrderPaid")
    assert event.headers == {"event-version": "2"}
    assert event.json()["items"] == [{"sku": "a", "price": 9.9}]


def test_headers_are_added_to_the_version() -> None:
    with capture(write=False) as events:
        outbox.emit(None, PAID, headers={"tenant": "acme"})

    assert events[0].headers == {"event-version": "2", "tenant": "acme"}


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"order_id": "42"}, "order_id"),
        ({"order_id": True}, "order_id"),
        ({"items": [Item("a", "9.90")]}, r"items\[0\].price"),  # type: ignore[arg-type]
        ({"items": "a"}, "items"),
        ({"currency": "eur"}, "currency"),
        ({"paid_at": dt.date(2026, 1, 1)}, "paid_at"),
        ({"coupon": 5}, "coupon"),
    ],
)
def test_a_value_of_another_type_is_refused_before_it_is_written(changes: dict[str, Any], place: str) -> None:
    with capture(write=False) as events, pytest.raises(OutboxUsageError, match=place):
        emit(None, dataclasses.replace(PAID, **changes))

    assert events == []


def test_a_class_that_is_not_registered_is_refused() -> None:
    with capture(write=False), pytest.raises(OutboxUsageError, match="not a registered event"):
        emit(None, Item("a", Decimal(1)))


def test_what_cannot_be_registered_is_refused() -> None:
    own = Outbox()
    with pytest.raises(OutboxUsageError, match="key="):
        own.event("order")(dataclasses.make_dataclass("NoKey", [("total", int)]))
    with pytest.raises(OutboxUsageError, match="neither a dataclass nor a pydantic model"):
        own.event("order")(type("Plain", (), {}))
    first = dataclasses.make_dataclass("First", [("id", int)])
    own.event("order", type="A")(first)
    with pytest.raises(OutboxUsageError, match="registered already"):
        own.event("order", type="A")(dataclasses.make_dataclass("Second", [("id", int)]))


def test_the_schema_describes_what_is_written() -> None:
    schema = json_schemas(outbox)["order.OrderPaid.v2"]

    assert schema["properties"]["order_id"] == {"type": "integer"}
    assert schema["properties"]["items"] == {"type": "array", "items": {"$ref": "#/$defs/Item"}}
    assert schema["properties"]["currency"] == {"enum": ["eur"]}
    assert schema["properties"]["coupon"] == {"anyOf": [{"type": "string"}, {"type": "null"}]}
    assert schema["$defs"]["Item"]["required"] == ["sku", "price"]
    with capture(write=False) as events:
        emit(None, PAID)
    assert set(events[0].json()) == set(schema["properties"]) == set(schema["required"])


def test_the_asyncapi_document_has_a_channel_for_each_topic() -> None:
    document = asyncapi(outbox, title="Shop", version="1.0.0")

    assert document["asyncapi"] == "3.0.0"
    assert document["channels"]["order"]["address"] == "outbox.event.order"
    assert list(document["channels"]["order"]["messages"]) == ["order.OrderPaid.v2"]
    assert document["operations"]["send.order"]["channel"] == {"$ref": "#/channels/order"}


def changed(**properties: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    old = {"e": {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}, "required": ["a"]}}
    new = json.loads(json.dumps(old))
    new["e"].update(properties)
    return old, new


@pytest.mark.parametrize(
    ("properties", "found"),
    [
        ({"properties": {"a": {"type": "string"}}}, "b is gone"),
        ({"properties": {"a": {"type": "string"}, "b": {"type": "integer"}}}, "b was number and is integer"),
        (
            {"properties": {"a": {"type": "string", "format": "uuid"}, "b": {"type": "number"}}},
            "a was string and is uuid",
        ),
        ({"required": []}, "a may be missing now"),
    ],
)
def test_a_change_that_breaks_consumers_is_named(properties: dict[str, Any], found: str) -> None:
    assert breaking_changes(*changed(**properties)) == [f"e: {found}"]


def test_an_addition_is_compatible_and_a_removal_is_not() -> None:
    old, new = changed(properties={"a": {"type": "string"}, "b": {"type": "number"}, "c": {}})
    assert breaking_changes(old, {**new, "f": {}}) == []
    assert breaking_changes(old, {}) == ["e: the event is gone; register the old version beside the new one"]


def test_the_contract_in_the_repository_is_made_once_and_then_held(tmp_path: Any) -> None:
    file = tmp_path / "events.json"
    assert_compatible(outbox, file)
    assert_compatible(outbox, file)
    contract = json.loads(file.read_text())
    contract["order.OrderPaid.v2"]["properties"]["total"] = {"type": "number"}
    file.write_text(json.dumps(contract))

    with pytest.raises(AssertionError, match="total is gone"):
        assert_compatible(outbox, file)


@pytest.mark.parametrize("kind", ["json-schema", "asyncapi"])
def test_the_command_prints_the_documents(
    kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: Any, tmp_path: Any
) -> None:
    (tmp_path / "shop_events.py").write_text(
        "import dataclasses\nfrom cdc_outbox.app import Outbox\noutbox = Outbox()\n"
        "@outbox.event('order')\n@dataclasses.dataclass\nclass Placed:\n    order_id: int\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["schema", "export", "shop_events:outbox", "--format", kind]) == 0
    assert "order.Placed.v1" in capsys.readouterr().out
    assert main(["schema", "export", "shop_events:nothing"]) == 2


def test_a_pydantic_model_is_validated_again_when_it_is_emitted() -> None:
    pydantic = pytest.importorskip("pydantic")
    own = Outbox()

    @own.event("invoice", version=1)
    class InvoiceSent(pydantic.BaseModel):  # type: ignore[misc,name-defined]
        invoice_id: UUID
        total: Decimal

    invoice = InvoiceSent(invoice_id=UUID(int=1), total=Decimal("9.90"))
    with capture(write=False) as events:
        own.emit(None, invoice)
    assert events[0].payload == '{"invoice_id":"00000000-0000-0000-0000-000000000001","total":"9.90"}'
    invoice.total = "much"
    with capture(write=False), pytest.raises(OutboxUsageError, match="not valid"):
        own.emit(None, invoice)
