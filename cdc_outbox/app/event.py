"""An event as it is written: checked, its payload as text or bytes.

In: what the application says. Out: `Event`, or OutboxUsageError that says what would not have worked.
Never: a payload that is changed. Text and bytes go out as they are; of a dict or a list the JSON text is made here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, cast, get_args
from uuid import UUID

from .errors import OutboxUsageError
from .identity import uuid7
from .trace import trace_headers

PayloadType: TypeAlias = Literal["json", "jsonb", "text", "bytea"]
"""What the payload column can be (`cdc-outbox sql install --payload-type`)."""

Payload: TypeAlias = Mapping[str, Any] | list[Any] | str | bytes | None

SEPARATORS: Final = (",", ":")
"""Of JSON: no spaces, which would travel with every record."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event, as `emit` writes it and `capture` shows it."""

    id: UUID
    aggregate_type: str
    aggregate_id: str | None
    type: str
    payload: str | bytes | None
    """The record's value: bytes for a bytea column, else text. None is a tombstone."""
    headers: Mapping[str, str | None]
    """With those of the trace."""
    table: str

    def json(self) -> Any:
        """The payload, read as JSON: what a consumer gets. Raises ValueError when it is none, TypeError for a tombstone."""
        if self.payload is None:
            raise TypeError("a tombstone has no payload")
        return json.loads(self.payload)


def make_event(
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,  # noqa: A002 - the outbox's word for it
    payload: Payload,
    headers: Mapping[str, str | None] | None,
    table: str,
    payload_type: PayloadType,
) -> Event:
    """Check and encode. Raises OutboxUsageError."""
    _check(aggregate_type, aggregate_id, type)
    return Event(
        id=uuid7(),
        aggregate_type=aggregate_type,
        aggregate_id=None if aggregate_id is None else str(aggregate_id),
        type=type,
        payload=_encode(payload, payload_type),
        headers=_with_trace(headers or {}),
        table=table,
    )


def _check(aggregate_type: object, aggregate_id: object, type_: object) -> None:
    """Not everybody has a type checker."""
    for name, value in (("aggregate_type", aggregate_type), ("type", type_)):
        if not isinstance(value, str) or not value:
            raise OutboxUsageError(f"{name} must be a text that is not empty, not {value!r}")
    if not isinstance(aggregate_id, str | int | UUID | None) or isinstance(aggregate_id, bool):
        raise OutboxUsageError(f"aggregate_id must be a str, an int, a UUID or None, not {_kind(aggregate_id)}")


def _with_trace(headers: Mapping[str, str | None]) -> dict[str, str | None]:
    """Those given, and the current span's. A `traceparent` that was given stays, and then neither is added."""
    for name, value in cast("Mapping[object, object]", headers).items():
        if not isinstance(name, str) or not isinstance(value, str | None):
            raise OutboxUsageError(
                f"a header is a text with a text, or with None for a null header: {name!r} has {_kind(value)}"
            )
    if any(name.lower() == "traceparent" for name in headers):
        return dict(headers)
    return {**trace_headers(), **headers}


def _encode(payload: Payload, payload_type: PayloadType) -> str | bytes | None:
    """As the column takes it."""
    if payload_type not in get_args(PayloadType):
        raise OutboxUsageError(f"payload_type is one of {', '.join(get_args(PayloadType))}, not {payload_type!r}")
    if payload is None:
        return None
    if not isinstance(payload, str | bytes):
        payload = _json(payload)
    if payload_type == "bytea":
        return payload.encode() if isinstance(payload, str) else payload
    if isinstance(payload, str):
        return payload
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise OutboxUsageError(
            f"the payload is not UTF-8 text ({error.reason} at byte {error.start}), and payload_type is {payload_type!r}: "
            "a table for other bytes has a payload of type bytea"
        ) from None


def _json(payload: object) -> str:
    """JSON text of a dict or list. Raises OutboxUsageError for what JSON cannot say, NaN included."""
    if not isinstance(payload, Mapping | list):
        raise OutboxUsageError(
            f"the payload must be a dict, a list, a str, bytes or None, not {_kind(payload)}: turn it into JSON text first"
        )
    try:
        payload = dict(payload) if isinstance(payload, Mapping) else payload
        return json.dumps(payload, separators=SEPARATORS, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OutboxUsageError(f"the payload cannot be made JSON: {error}. Turn it into JSON text first") from None


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
