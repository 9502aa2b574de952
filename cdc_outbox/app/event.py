"""An event as it is written: checked, its payload as text or bytes.

In: what the application says. Out: `Event`, or OutboxUsageError that says what would not have worked.
Never: a payload that is changed. Text and bytes go out as they are; of a dict or a list the JSON text is made here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, get_args
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
    return Event(
        id=uuid7(),
        aggregate_type=_name("aggregate_type", aggregate_type),
        aggregate_id=_aggregate_id(aggregate_id),
        type=_name("type", type),
        payload=_encode(payload, payload_type),
        headers=_with_trace({} if headers is None else headers),
        table=table,
    )


def _name(what: str, value: object) -> str:
    """Not everybody has a type checker."""
    if not isinstance(value, str) or not value:
        raise OutboxUsageError(f"{what} must be a text that is not empty, not {value!r}")
    return _text(what, value)


def _aggregate_id(value: object) -> str | None:
    """As text. Of a member of an Enum its value, as in all the rest, and not its name, which is what `str` would give."""
    if value is None:
        return None
    if not isinstance(value, str | int | UUID) or isinstance(value, bool):
        raise OutboxUsageError(f"aggregate_id must be a str, an int, a UUID or None, not {_kind(value)}")
    if isinstance(value, str):
        return _text("aggregate_id", value)
    try:
        return int.__repr__(value) if isinstance(value, int) else str(value)
    except ValueError as error:
        raise OutboxUsageError(f"aggregate_id is too long an int: {error}") from None


def _text(what: str, text: str) -> str:
    """A plain str. Raises OutboxUsageError for what PostgreSQL has no text of: NUL, and a surrogate without the other."""
    _require_utf8(what, text)
    if "\0" in text:
        raise OutboxUsageError(
            f"{what} has a NUL (U+0000) at character {text.index(chr(0))}, which no text can have here"
        )
    return str.__str__(text)


def _require_utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise OutboxUsageError(
            f"{what} has half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}, which"
            " UTF-8 cannot say"
        ) from None


def _with_trace(headers: object) -> dict[str, str | None]:
    """Those given, and the current span's. A `traceparent` that was given stays, and then neither is added."""
    if not isinstance(headers, Mapping):
        raise OutboxUsageError(f"headers must be a dict or None, not {_kind(headers)}")
    given = dict(_header(name, value) for name, value in headers.items())
    if any(name.lower() == "traceparent" for name in given):
        return given
    return {**trace_headers(), **given}


def _header(name: object, value: object) -> tuple[str, str | None]:
    if not isinstance(name, str) or not isinstance(value, str | None):
        raise OutboxUsageError(
            f"a header is a text with a text, or with None for a null header: {name!r} has {_kind(value)}"
        )
    return _text("the name of a header", name), None if value is None else _text(f"header {name!r}", value)


def _encode(payload: Payload, payload_type: PayloadType) -> str | bytes | None:
    """As the column takes it."""
    if payload_type not in get_args(PayloadType):
        raise OutboxUsageError(f"payload_type is one of {', '.join(get_args(PayloadType))}, not {payload_type!r}")
    if payload is None:
        return None
    if not isinstance(payload, str | bytes):
        payload = _json(payload)
    if isinstance(payload, str):
        return _require_utf8("the payload", payload) if payload_type == "bytea" else _text("the payload", payload)
    if payload_type == "bytea":
        return payload
    try:
        return _text("the payload", payload.decode())
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
    except (TypeError, ValueError, RecursionError) as error:
        raise OutboxUsageError(f"the payload cannot be made JSON: {error}. Turn it into JSON text first") from None


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")
