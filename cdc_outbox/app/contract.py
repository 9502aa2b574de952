"""The contract of all registered events: JSON Schema, an AsyncAPI document, and what a change breaks for consumers.

In: an `Outbox` with registered events. Out: documents; lines that name breaking changes.
Never: a file, a broker.

AsyncAPI 3.0.0 (asyncapi.com/docs/reference/specification/v3.0.0), JSON Schema 2020-12.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from .registry import VERSION_HEADER, EventType
from .schema import schema_of

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Document = dict[str, Any]


class HasEvents(Protocol):
    """An `Outbox`."""

    def events(self) -> list[EventType]:
        """Its registered events."""


def json_schemas(outbox: HasEvents) -> Document:
    """One schema for each event, by its name `<aggregate type>.<type>.v<version>`."""
    return {
        name_of(event): {"$schema": _DIALECT, **schema_of(event.cls)} for event in sorted(outbox.events(), key=name_of)
    }


def asyncapi(outbox: HasEvents, *, title: str, version: str, topic: str = "outbox.event.{aggregatetype}") -> Document:
    """An AsyncAPI 3 document: a channel for each topic, a message for each event, one send operation for each channel.

    `topic`: the template of `cdc-outbox run --topic`, of which the aggregate type is filled in here.
    """
    channels: Document = {}
    operations: Document = {}
    for event in sorted(outbox.events(), key=name_of):
        address = topic.replace("{aggregatetype}", event.aggregate_type).replace(
            "{aggregate_type}", event.aggregate_type
        )
        channel = channels.setdefault(event.aggregate_type, {"address": address, "messages": {}})
        channel["messages"][name_of(event)] = _message(event)
        operations[f"send.{event.aggregate_type}"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{_pointer(event.aggregate_type)}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
    }


def name_of(event: EventType) -> str:
    """An event's name in a contract."""
    return f"{event.aggregate_type}.{event.type}.v{event.version}"


def breaking_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What consumers of the schemas `old` cannot read in events of `new`; both as `json_schemas` gives them.

    Breaking: an event or a field that is gone, a field that may be missing now, a type that has changed, a value of an enum
    that is gone or new. Not breaking: a further event, a further field.
    """
    found: list[str] = []
    for name, schema in old.items():
        if name not in new:
            found.append(f"{name}: the event is gone; register the old version beside the new one")
        else:
            found += [f"{name}: {change}" for change in _changes(schema, new[name], schema, new[name], "")]
    return found


def assert_compatible(outbox: HasEvents, path: str | Path) -> None:
    """Compare the registered events with the contract in a file, for a test of the application.

    A file that does not exist is written, to be committed. Raises AssertionError with every breaking change.
    """
    file = Path(path)
    new = json_schemas(outbox)
    if not file.exists():
        file.write_text(dump(new), encoding="utf-8")
    found = breaking_changes(json.loads(file.read_text(encoding="utf-8")), new)
    if found:
        raise AssertionError(
            "\n".join(
                [f"these changes break consumers of {file.name}:", *found, "give the changed event a new version="]
            )
        )


def dump(document: Mapping[str, Any]) -> str:
    """A document as text that diffs well."""
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _message(event: EventType) -> Document:
    return {
        "name": event.type,
        "contentType": "application/json",
        "headers": {
            "type": "object",
            "properties": {
                "id": {"type": "string", "format": "uuid"},
                "type": {"const": event.type},
                VERSION_HEADER: {"const": str(event.version)},
            },
            "required": ["id", "type"],
        },
        "payload": {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": schema_of(event.cls)},
    }


def _pointer(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def _changes(old: Any, new: Any, old_root: Any, new_root: Any, path: str) -> list[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    place = path or "the payload"
    if old.get("type") != new.get("type") or old.get("format") != new.get("format"):
        return [f"{place} was {_kind(old)} and is {_kind(new)}"]
    if "enum" in old or "enum" in new:
        return (
            []
            if old.get("enum") == new.get("enum")
            else [f"the values of {place} were {old.get('enum')} and are {new.get('enum')}"]
        )
    if "anyOf" in old or "anyOf" in new:
        kinds = [
            sorted(_kind(_resolved(each, root)) for each in side.get("anyOf", []))
            for side, root in ((old, old_root), (new, new_root))
        ]
        return [] if kinds[0] == kinds[1] else [f"{place} was {' or '.join(kinds[0])} and is {' or '.join(kinds[1])}"]
    found: list[str] = []
    properties, others = old.get("properties", {}), new.get("properties", {})
    for name, schema in properties.items():
        inner = f"{path}.{name}".lstrip(".")
        if name not in others:
            found.append(f"{inner} is gone")
            continue
        if name in old.get("required", []) and name not in new.get("required", []):
            found.append(f"{inner} may be missing now")
        found += _changes(schema, others[name], old_root, new_root, inner)
    if "items" in old and "items" in new:
        found += _changes(old["items"], new["items"], old_root, new_root, f"{path}[]")
    return found


def _resolved(schema: Any, root: Any) -> Any:
    reference = schema.get("$ref") if isinstance(schema, Mapping) else None
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        return root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
    return schema if isinstance(schema, Mapping) else {}


def _kind(schema: Any) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    return str(schema.get("format") or schema.get("type") or schema.get("title") or "any value")
