"""JSON Schema of dataclasses, and the check of their instances.

In: classes with type annotations. Out: schemas (JSON Schema 2020-12), and the first value that does not fit its annotation.
Never: a rule that JSON text does not follow: a schema describes what `encoding` writes.

What has no schema here (a class of the application's own, for which `default=` is given) is described as any value.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import types
import typing
from collections.abc import Mapping, Sequence
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from uuid import UUID

Schema = dict[str, Any]

_SIMPLE: Final[dict[Any, Schema]] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    Decimal: {"type": "number"},
    type(None): {"type": "null"},
    UUID: {"type": "string", "format": "uuid"},
    dt.datetime: {"type": "string", "format": "date-time"},
    dt.date: {"type": "string", "format": "date"},
    dt.time: {"type": "string", "format": "time"},
}

_ARRAYS: Final = (list, tuple, Sequence)
_OBJECTS: Final = (dict, Mapping)


def schema_of(cls: type[Any]) -> Schema:
    """The schema of a dataclass's or pydantic model's JSON. Nested classes are in `$defs`."""
    model_json_schema = getattr(cls, "model_json_schema", None)
    if callable(model_json_schema):
        schema: Schema = model_json_schema(mode="serialization")
        return schema
    definitions: dict[str, Schema] = {}
    schema = _dataclass_schema(cls, definitions)
    definitions.pop(cls.__name__, None)
    return {**schema, "$defs": definitions} if definitions else schema


def _dataclass_schema(cls: type[Any], definitions: dict[str, Schema]) -> Schema:
    definitions[cls.__name__] = {}  # a class that contains itself ends here
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    schema = {
        "type": "object",
        "title": cls.__name__,
        "properties": {name: _schema(hints[name], definitions) for name in names},
        "required": names,  # every field of an instance is written, also one that has its default
    }
    definitions[cls.__name__] = schema
    return schema


def _schema(annotation: Any, definitions: dict[str, Schema]) -> Schema:  # noqa: PLR0911 - one for each kind
    annotation = _bare(annotation)
    if annotation in _SIMPLE:
        return dict(_SIMPLE[annotation])
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        return {"anyOf": [_schema(each, definitions) for each in arguments]}
    if origin is typing.Literal:
        return {"enum": [each.value if isinstance(each, Enum) else each for each in arguments]}
    if annotation in _ARRAYS or origin in _ARRAYS:
        return _array_schema(origin, arguments, definitions)
    if annotation in _OBJECTS or origin in _OBJECTS:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions) if arguments else True}
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return {"enum": [each.value for each in annotation]}
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if annotation.__name__ not in definitions:
            _dataclass_schema(annotation, definitions)
        return {"$ref": f"#/$defs/{annotation.__name__}"}
    return {}


def _array_schema(origin: Any, arguments: tuple[Any, ...], definitions: dict[str, Schema]) -> Schema:
    if not arguments:
        return {"type": "array"}
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        size = len(arguments)
        return {
            "type": "array",
            "prefixItems": [_schema(each, definitions) for each in arguments],
            "minItems": size,
            "maxItems": size,
        }
    return {"type": "array", "items": _schema(arguments[0], definitions)}


def mismatch(annotation: Any, value: Any, path: str = "") -> str | None:  # noqa: PLR0911 - one for each kind
    """Where and how a value does not fit its annotation; None when it does, or when the annotation is not known here."""
    annotation = _bare(annotation)
    place = path or "it"
    if annotation in _SIMPLE:
        return None if _is_simple(annotation, value) else f"{place} is {value!r}, and not {_name(annotation)}"
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in {typing.Union, types.UnionType}:
        if any(mismatch(each, value, path) is None for each in arguments):
            return None
        return f"{place} is {value!r}, and not {' or '.join(map(_name, arguments))}"
    if origin is typing.Literal:
        return None if value in arguments else f"{place} is {value!r}, and not one of {', '.join(map(repr, arguments))}"
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _field_mismatch(annotation, value, path)
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return None if isinstance(value, annotation) else f"{place} is {value!r}, and not {_name(annotation)}"
    if annotation in _ARRAYS or origin in _ARRAYS:
        return _item_mismatch(origin, arguments, value, path)
    if annotation in _OBJECTS or origin in _OBJECTS:
        return _member_mismatch(arguments, value, path)
    return None


def _field_mismatch(cls: type[Any], value: Any, path: str) -> str | None:
    if not isinstance(value, cls):
        return f"{path or 'it'} is {value!r}, and not {cls.__name__}"
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        found = mismatch(hints[field.name], getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
        if found is not None:
            return found
    return None


def _item_mismatch(origin: Any, arguments: tuple[Any, ...], value: Any, path: str) -> str | None:
    if not isinstance(value, list | tuple):
        return f"{path} is {value!r}, and not a list or tuple"
    if not arguments:
        return None
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        if len(arguments) != len(value):
            return f"{path} has {len(value)} items, and not {len(arguments)}"
        kinds: Sequence[Any] = arguments
    else:
        kinds = [arguments[0]] * len(value)
    found = (
        mismatch(kind, each, f"{path}[{place}]") for place, (kind, each) in enumerate(zip(kinds, value, strict=True))
    )
    return next((each for each in found if each is not None), None)


def _member_mismatch(arguments: tuple[Any, ...], value: Any, path: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{path} is {value!r}, and not a dict"
    if not arguments:
        return None
    found = (mismatch(arguments[1], each, f"{path}[{key!r}]") for key, each in value.items())
    return next((each for each in found if each is not None), None)


def _is_simple(annotation: Any, value: Any) -> bool:
    """Bool is an int to Python and not to JSON; an int is a number to both; a datetime is not a date to JSON."""
    if annotation is not bool and isinstance(value, bool):
        return False
    if annotation in {float, Decimal}:
        return isinstance(value, int | float | Decimal) if annotation is float else isinstance(value, int | Decimal)
    if annotation is dt.date and isinstance(value, dt.datetime):
        return False
    return isinstance(value, annotation)


def _bare(annotation: Any) -> Any:
    """Return the type inside `Annotated` and `NewType`."""
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    return getattr(annotation, "__supertype__", annotation)


def _name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation))
