"""The schema of the Helm chart's values: Helm refuses with it what the relay would refuse, before a pod starts.

In: `settings.OPTIONS`, the limits of shards. Out: values.schema.json (JSON Schema, draft 7, which Helm reads).
Never: a default; those are in values.yaml.
"""

from __future__ import annotations

import json
from typing import Final, TypeAlias

from cdc_outbox.config.options import Option
from cdc_outbox.config.redaction import NAMES_OF_SECRETS
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.config.shards import MOST
from cdc_outbox.config.value_types import SWITCH

Schema: TypeAlias = dict[str, object]

_NOT_OPTIONS: Final = {
    "dsn": "a value of its own, `secret`",
    "brokers": "a value of its own",
    "shard": "made from `shards`",
    "http": "fixed: probes and Prometheus use port 8420",
    "config": "a file that no pod has",
    "until": "a relay that ends is started again",
}
"""Options that a chart's relay cannot set, and why."""

_NAME: Final = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
"""Of a Kubernetes object (RFC 1123)."""

_KEY: Final = "^[-._a-zA-Z0-9]+$"
"""Of a Secret."""

_PROPERTY: Final = "^[a-z0-9]+([.][a-z0-9]+)*$"
"""Of librdkafka."""

_JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string"}

_TEXT: Final[Schema] = {"type": ["string", "number", "boolean"]}


def values_schema() -> str:
    """The text of values.schema.json."""
    return json.dumps(_values(), indent=1) + "\n"


def _values() -> Schema:
    on: Schema = {"type": "boolean"}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Made by `make reference` from the code; a test compares.",
        **_object(
            {
                "global": {"type": "object"},
                "image": _object(
                    {
                        **{key: {"type": "string"} for key in ("repository", "tag", "digest")},
                        "pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
                    }
                ),
                "imagePullSecrets": {"type": "array", "items": {"type": "object"}},
                "relays": {"type": "array", "items": {"$ref": "#/definitions/relay"}},
                "defaults": _object(_shared()),
                "podDisruptionBudget": _object({"enabled": on}),
                "serviceMonitor": _object(
                    {"enabled": on, "interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}, "labels": _map()}
                ),
                "rules": _object(
                    {"enabled": on, "labels": _map(), "runbook": {"type": "string", "pattern": "^https?://.*/$"}}
                ),
                "dashboard": _object({"enabled": on, "labels": _map()}),
                "networkPolicy": _object(
                    {
                        "enabled": on,
                        "from": {"type": "array", "items": {"type": "object"}},
                        "ports": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"type": "integer", "minimum": 1, "maximum": 65535},
                        },
                    }
                ),
            }
        ),
        "definitions": {"relay": _relay()},
    }


def _relay() -> Schema:
    """One relay: a pair (`replicas`) or `shards`, never both, and no option that shards exclude."""
    own: Schema = {
        "name": {"type": "string", "pattern": _NAME, "maxLength": 48},
        "shards": {"type": "integer", "minimum": 2, "maximum": MOST},
    }
    prune = _refused("nothing beside shards: run cdc-outbox prune with the slot of any shard")
    sharded: Schema = {
        "replicas": _refused("nothing beside shards: each shard is one pod"),
        "options": {"properties": {"prune-after": prune, "partitions-ahead": prune, "source": {"enum": ["table"]}}},
    }
    return {
        **_object({**own, **_shared()}, required=["name"]),
        "if": {"required": ["shards"]},
        "then": {"properties": sharded},
    }


def _shared() -> Schema:
    """Values of a relay that `defaults` has, too."""
    return {
        "brokers": {"type": "string"},
        "secret": _object(
            {
                "name": {"type": "string", "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"},
                "key": {"type": "string", "pattern": _KEY},
            }
        ),
        "replicas": {"type": "integer", "minimum": 0},
        "options": _object({name: _option(option) for name, option in OPTIONS.items() if _is_value(option)}),
        "kafka": {
            "type": "object",
            "propertyNames": {"pattern": _PROPERTY},
            "patternProperties": {NAMES_OF_SECRETS: _refused("nothing, it is a secret: name its key in kafkaSecrets")},
            "additionalProperties": _TEXT,
        },
        "kafkaSecrets": {
            "type": "object",
            "propertyNames": {"pattern": _PROPERTY},
            "additionalProperties": {"type": "string", "pattern": _KEY},
        },
        "env": {
            "type": "object",
            "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
            "patternProperties": {
                "^CDC_OUTBOX_": _refused("nothing: set it in options, kafka or kafkaSecrets"),
                "^PGPASS": _refused("nothing, it is a secret: the connection string is in the Secret"),
            },
            "additionalProperties": _TEXT,
        },
        "upgradeCheck": {"type": ["boolean", "null"]},
        "terminationGracePeriodSeconds": {"type": "integer", "minimum": 1},
        "resources": {"type": "object"},
        "podAnnotations": _map(),
        "nodeSelector": _map(),
        "tolerations": {"type": "array", "items": {"type": "object"}},
        "affinity": {"type": "object"},
        "priorityClassName": {"type": "string"},
    }


def _is_value(option: Option) -> bool:
    return option.in_environment and option.name not in _NOT_OPTIONS


def _option(option: Option) -> Schema:
    """The values of an option as TOML has them: choices as an enumeration, a repeated one also as a list."""
    choices = option.value_type.metavar
    one: Schema = (
        {"enum": choices.strip("[]").split("|")}
        if choices.startswith("[")
        else {"type": [_JSON_TYPES[each] for each in option.value_type.toml]}
    )
    if option.value_type is SWITCH:
        one = {"type": "boolean"}
    if option.repeat:
        one = {"anyOf": [one, {"type": "array", "items": one}]}
    return {"description": option.help, **one}


def _refused(message: str) -> Schema:
    """No value. Helm prints an enumeration that does not match, so the message is one."""
    return {"enum": [message], "not": {"enum": [message]}}


def _object(properties: Schema, *, required: list[str] | None = None) -> Schema:
    """An object with these members and no other."""
    found: Schema = {"type": "object", "additionalProperties": False, "properties": properties}
    return {**found, "required": required} if required else found


def _map() -> Schema:
    """Labels or annotations."""
    return {"type": "object", "additionalProperties": {"type": "string"}}
