"""Values of an application as payload, header and key: JSON text, plain text, bytes.

In: values of applications: dictionaries, lists, tuples, dataclasses, attrs classes, pydantic models, and in them UUID,
datetime, date, time, Decimal and Enum. Out: text that PostgreSQL stores, or OutboxUsageError with the reason. Never: an
import of pydantic or attrs, a digit that is lost, NaN or Infinity, which JSON has no text for (RFC 8259, section 6).
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import secrets
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeAlias, get_args
from uuid import UUID

from .errors import OutboxUsageError

PayloadType: TypeAlias = Literal["json", "jsonb", "text", "bytea"]
"""Types of the payload column (`cdc-outbox sql install --payload-type`)."""

Default: TypeAlias = Callable[[Any], Any]
"""Converts a value without a JSON form here to one that has it; raises TypeError for others, as `json.dumps` expects."""

Encoder: TypeAlias = Callable[[Any], bytes | str]
"""Converts a payload to bytes or text of another format: Avro, Protobuf, JSON by another library."""

SEPARATORS: Final = (",", ":")
"""Separators of JSON: without spaces, which would enlarge every record."""

_MOMENTS: Final = (dt.datetime, dt.date, dt.time)

_SCALARS: Final = (str, int, float, bool, Decimal, UUID, Enum, *_MOMENTS, type(None))


def kind_of(value: object) -> str:
    """The name of a value's class, with its module unless that is `builtins`."""
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def require_text(name: str, text: str) -> str:
    """The text as a plain str. Raises OutboxUsageError for NUL and half a surrogate pair: PostgreSQL cannot store them."""
    require_utf8(name, text)
    if "\0" in text:
        raise OutboxUsageError(
            f"{name} has a NUL (U+0000) at character {text.index(chr(0))}, which PostgreSQL cannot store in text"
        )
    return str.__str__(text)


def require_utf8(name: str, text: str) -> bytes:
    """The text as UTF-8. Raises OutboxUsageError for half a surrogate pair."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise OutboxUsageError(
            f"{name} has half of a surrogate pair (U+{ord(text[error.start]):04X}) at character {error.start}, which"
            " UTF-8 cannot express"
        ) from None


def encode_payload(
    payload: object, payload_type: PayloadType, *, default: Default | None = None, encoder: Encoder | None = None
) -> str | bytes | None:
    """The payload as its column stores it: str, or bytes for bytea; None for None. Raises OutboxUsageError."""
    if payload_type not in get_args(PayloadType):
        raise OutboxUsageError(f"payload_type is one of {', '.join(get_args(PayloadType))}, not {payload_type!r}")
    if payload is None:
        return None
    if encoder is not None:
        payload = encoder(payload)
        if not isinstance(payload, str | bytes):
            raise OutboxUsageError(f"encoder= must return bytes or str, not {kind_of(payload)}")
    elif not isinstance(payload, str | bytes):
        payload = _document(payload, default)
    if isinstance(payload, str):
        return require_utf8("the payload", payload) if payload_type == "bytea" else require_text("the payload", payload)
    if payload_type == "bytea":
        return bytes(payload)
    try:
        return require_text("the payload", payload.decode())
    except UnicodeDecodeError as error:
        raise OutboxUsageError(
            f"the payload is not UTF-8 text ({error.reason} at byte {error.start}), and payload_type is {payload_type!r}: "
            "a table for other bytes has a payload of type bytea"
        ) from None


def header_text(name: str, value: object) -> str | None:
    """A header's value as text; None stays None, a null header. Raises OutboxUsageError for a value without a plain text."""
    if isinstance(value, Enum):
        value = value.value
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"  # as JSON, and so as the relay sends a boolean member
    if isinstance(value, str):
        return require_text(f"header {name!r}", value)
    if isinstance(value, _MOMENTS):
        return value.isoformat()
    if isinstance(value, int | float | Decimal | UUID):
        return str(value)
    raise OutboxUsageError(
        f"header {name!r} has {kind_of(value)}: a value is a str, or an int, float, bool, Decimal, UUID, Enum, date or "
        "datetime, which become text, or None for a null header"
    )


def _document(payload: object, default: Default | None) -> str:
    """JSON text of an object or array."""
    dump_json = getattr(payload, "model_dump_json", None)  # pydantic serializes its own fields
    if callable(dump_json):
        return str(dump_json())
    writer = _Writer(default)
    try:
        plain = writer.plain(payload, top=True)
        return writer.text(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutboxUsageError(
            f"the payload cannot be made JSON: {error}. Give default=, a function that turns such a value into one that JSON "
            "has, or turn the payload into JSON text first"
        ) from None


class _Writer:
    """One document. A Decimal keeps its digits: `json` has no way to write one, so a placeholder stands for it in the text."""

    def __init__(self, default: Default | None) -> None:
        self._default = default
        self._mark = ""
        self._numbers: list[str] = []

    def plain(self, value: Any, *, top: bool = False) -> Any:
        """The value in types that `json` writes. Raises TypeError, ValueError. `top`: a bare number or text is refused."""
        if isinstance(value, Mapping):
            return {self._key(key): self.plain(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.plain(each) for each in value]
        if not top and isinstance(value, _SCALARS):
            return self._scalar(value)
        fields = _fields_of(value)
        if fields is not None:
            return {name: self.plain(getattr(value, name)) for name in fields}
        dump = getattr(value, "model_dump", None)
        if callable(dump):
            return dump(mode="json")
        if self._default is not None:
            return self.plain(self._default(value), top=top)
        if top:
            raise TypeError(f"it is an object or an array in JSON, and not {kind_of(value)}")
        raise TypeError(f"{kind_of(value)} has no JSON form")

    def text(self, plain: Any) -> str:
        """The JSON text."""
        text = json.dumps(plain, separators=SEPARATORS, ensure_ascii=False, allow_nan=False)
        if not self._numbers:
            return text
        return re.sub(f'"{self._mark}([0-9]+)"', lambda found: self._numbers[int(found[1])], text)

    def _key(self, key: object) -> str:
        if isinstance(key, Enum):
            key = key.value
        if isinstance(key, str):
            return key
        if isinstance(key, bool | int | float | None):
            return json.dumps(key, allow_nan=False)
        if isinstance(key, UUID | Decimal):
            return str(key)
        if isinstance(key, _MOMENTS):
            return key.isoformat()
        raise TypeError(f"a member's name is a str, and not {kind_of(key)}")

    def _scalar(self, value: Any) -> Any:
        if isinstance(value, Enum):
            return self.plain(value.value)
        if isinstance(value, Decimal):
            if not value.is_finite():
                raise ValueError(f"{value} is not a JSON number")
            self._mark = self._mark or secrets.token_hex(16)  # no text of the payload can hold it
            self._numbers.append(str(value))
            return f"{self._mark}{len(self._numbers) - 1}"
        if isinstance(value, _MOMENTS):
            return value.isoformat()
        return str(value) if isinstance(value, UUID) else value


def _fields_of(value: Any) -> list[str] | None:
    """Names of the fields of a dataclass or attrs instance; None for anything else."""
    if isinstance(value, type):
        return None
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    attributes = getattr(type(value), "__attrs_attrs__", None)
    return None if attributes is None else [attribute.name for attribute in attributes]
