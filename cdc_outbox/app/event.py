"""An event as it is written: checked, its payload as text or bytes.

In: the arguments of `emit`. Out: `Event`, or OutboxUsageError with the reason, before anything is written.
Never: a payload that is changed. Text and bytes go out as they are; everything else becomes JSON text (`encoding`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias
from uuid import UUID

from .encoding import Default, Encoder, PayloadType, encode_payload, header_text, kind_of, require_text
from .errors import OutboxUsageError
from .identity import uuid7
from .trace import trace_headers

Payload: TypeAlias = object
"""A str or bytes as they are; a mapping, list, tuple, dataclass, attrs or pydantic object as JSON; None: a tombstone."""

HeaderValue: TypeAlias = object
"""A str, or a value with a plain text: int, float, bool, Decimal, UUID, Enum, date, datetime; None: a null header."""


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
    """Headers, including those of the trace."""
    table: str

    def json(self) -> Any:
        """The payload, read as JSON, as a consumer gets it. Raises ValueError when it is none, TypeError for a tombstone."""
        if self.payload is None:
            raise TypeError("a tombstone has no payload")
        return json.loads(self.payload)


def make_event(
    *,
    aggregate_type: str,
    aggregate_id: str | int | UUID | None,
    type: str,  # noqa: A002 - the outbox's term
    payload: Payload,
    headers: Mapping[str, HeaderValue] | None,
    table: str,
    payload_type: PayloadType,
    id: UUID | str | None = None,  # noqa: A002 - likewise
    default: Default | None = None,
    encoder: Encoder | None = None,
) -> Event:
    """Check and encode. `id`: None for a new one. Raises OutboxUsageError."""
    return Event(
        id=uuid7() if id is None else _event_id(id),
        aggregate_type=_name("aggregate_type", aggregate_type),
        aggregate_id=_aggregate_id(aggregate_id),
        type=_name("type", type),
        payload=encode_payload(payload, payload_type, default=default, encoder=encoder),
        headers=_with_trace({} if headers is None else headers),
        table=table,
    )


def _event_id(value: object) -> UUID:
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value if isinstance(value, str) else "")
    except ValueError:
        raise OutboxUsageError(f"id must be a UUID or its text, not {value!r}") from None


def _name(what: str, value: object) -> str:
    """Check the type at run time: not every caller uses a type checker. A member of an Enum becomes its value."""
    if isinstance(value, Enum):
        value = value.value
    if not isinstance(value, str) or not value:
        raise OutboxUsageError(f"{what} must be a text that is not empty, not {value!r}")
    return require_text(what, value)


def _aggregate_id(value: object) -> str | None:
    """The id as text. An Enum member becomes its value, as elsewhere, and not its name, which `str` would give."""
    if isinstance(value, Enum) and not isinstance(value, str | int):
        value = value.value
    if value is None:
        return None
    if not isinstance(value, str | int | UUID) or isinstance(value, bool):
        raise OutboxUsageError(f"aggregate_id must be a str, an int, a UUID or None, not {kind_of(value)}")
    if isinstance(value, str):
        return require_text("aggregate_id", value)
    try:
        return int.__repr__(value) if isinstance(value, int) else str(value)
    except ValueError as error:
        raise OutboxUsageError(f"aggregate_id is too long an int: {error}") from None


def _with_trace(headers: object) -> dict[str, str | None]:
    """The given headers, and those of the current span. With a `traceparent` given, none is added."""
    if not isinstance(headers, Mapping):
        raise OutboxUsageError(f"headers must be a dict or None, not {kind_of(headers)}")
    given = dict(_header(name, value) for name, value in headers.items())
    if any(name.lower() == "traceparent" for name in given):
        return given
    return {**trace_headers(), **given}


def _header(name: object, value: object) -> tuple[str, str | None]:
    if not isinstance(name, str):
        raise OutboxUsageError(f"the name of a header is a str, not {kind_of(name)}")
    return require_text("the name of a header", name), header_text(name, value)
