"""Registered events: a class defines the aggregate, type and version of its instances.

In: pydantic models and dataclasses. Out: the arguments of `emit` for an instance, after a check of its values.
Never: an import of pydantic.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from .encoding import kind_of
from .errors import OutboxUsageError
from .schema import mismatch

C = TypeVar("C", bound=type[Any])

VERSION_HEADER: Final = "event-version"
"""Header of a registered event's record: its `version`, as text."""

_ATTRIBUTE: Final = "__outbox_event__"


@dataclass(frozen=True, slots=True)
class EventType:
    """The registration of a class."""

    cls: type[Any]
    aggregate_type: str
    type: str
    version: int
    key: str
    """The field whose value is the aggregate id."""
    outbox: object
    """The `Outbox` that its instances are written to."""


class Registry:
    """The registered events of one outbox."""

    def __init__(self, outbox: object) -> None:
        self._outbox = outbox
        self._types: list[EventType] = []

    def events(self) -> list[EventType]:
        """All of them, in the order of registration."""
        return list(self._types)

    def event(
        self,
        aggregate_type: str,
        *,
        type: str | None = None,  # noqa: A002 - the outbox's term
        version: int = 1,
        key: str | None = None,
    ) -> Callable[[C], C]:
        """Register the decorated pydantic model or dataclass: `emit(connection, OrderPaid(...))` writes it.

        `type`: by default the name of the class. `key`: the field with the aggregate id; by default the first of
        `<aggregate_type>_id`, `aggregate_id` and `id` that the class has. `version` becomes the header `event-version`.

        Raises OutboxUsageError for another kind of class, one without such a field, and a second class of the same type and
        version.
        """

        def register(cls: C) -> C:
            fields = _field_names(cls)
            found = key if key is not None else _key_of(aggregate_type, fields, cls)
            if found not in fields:
                raise OutboxUsageError(f"{cls.__qualname__} has no field {found!r} for the aggregate id")
            name = type if type is not None else cls.__name__
            for other in self._types:
                if (other.aggregate_type, other.type, other.version) == (aggregate_type, name, version):
                    raise OutboxUsageError(
                        f"{aggregate_type} {name} version {version} is registered already, by {other.cls.__qualname__}"
                    )
            registered = EventType(cls, aggregate_type, name, version, found, self._outbox)
            self._types.append(registered)
            setattr(cls, _ATTRIBUTE, registered)
            return cls

        return register

    @staticmethod
    def find(event: object) -> EventType | None:
        """The registration of an instance's class, if there is one."""
        found = getattr(type(event), _ATTRIBUTE, None)
        return found if isinstance(found, EventType) else None

    @staticmethod
    def of(event: object) -> EventType:
        """The registration of an instance's class. Raises OutboxUsageError if there is none."""
        found = Registry.find(event)
        if found is None:
            raise OutboxUsageError(
                f"{kind_of(event)} is not a registered event: decorate its class with @outbox.event(...), or give emit "
                "the parts aggregate_type, aggregate_id, type and payload"
            )
        return found


def described(event: object) -> dict[str, Any]:
    """The arguments of `emit` for an instance of a registered class. Raises OutboxUsageError for values of another type."""
    registered = Registry.of(event)
    _validate(event)
    return {
        "aggregate_type": registered.aggregate_type,
        "aggregate_id": getattr(event, registered.key),
        "type": registered.type,
        "payload": event,
        "headers": {VERSION_HEADER: registered.version},
    }


def _validate(event: Any) -> None:
    """A model may have been changed after it was validated; a dataclass never was."""
    if dataclasses.is_dataclass(event):
        wrong = mismatch(type(event), event)
        if wrong is not None:
            raise OutboxUsageError(f"{kind_of(event)} is not valid: {wrong}")
        return
    try:
        type(event).model_validate(event.model_dump(warnings="none"))
    except ValueError as error:  # pydantic's ValidationError is one
        raise OutboxUsageError(f"{kind_of(event)} is not valid: {error}") from error


def _field_names(cls: type[Any]) -> list[str]:
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    fields = getattr(cls, "model_fields", None)
    if fields is None:
        raise OutboxUsageError(f"{cls.__qualname__} is neither a dataclass nor a pydantic model")
    return list(fields)


def _key_of(aggregate_type: str, fields: list[str], cls: type[Any]) -> str:
    candidates = (f"{aggregate_type.replace('-', '_').replace('.', '_')}_id", "aggregate_id", "id")
    for name in candidates:
        if name in fields:
            return name
    raise OutboxUsageError(
        f"{cls.__qualname__} has none of the fields {', '.join(candidates)}: name the field of the aggregate id with key="
    )
