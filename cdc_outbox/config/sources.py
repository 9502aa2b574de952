"""From the chosen values to `Settings`: flag > environment > TOML file > preset > default.

In: one parsed value per option, with its origin. Out: consistent `Settings`.
Never: the choice between two origins: the command line makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cdc_outbox.config.settings import OPTIONS, PRESETS, Columns, Settings


class OptionConflict(ValueError):
    """Options that exclude or need each other. The command line reports it as a usage error (2)."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A value and its origin: flag, environment, file, preset or default; `place` is the variable or the path."""

    value: object
    origin: str
    place: str = ""


def with_preset(chosen: Mapping[str, Chosen]) -> dict[str, Chosen]:
    """`chosen`, with the defaults that the chosen preset of column names changes."""
    preset = chosen.get("columns")
    changed = {} if preset is None else PRESETS[str(preset.value)]
    return {
        name: Chosen(OPTIONS[name].value_type.parse(changed[name]), "preset", str(preset and preset.value))
        if name in changed and one.origin == "default"
        else one
        for name, one in chosen.items()
    }


def settings_from(chosen: Mapping[str, Chosen], kafka: Callable[[], Mapping[str, str]] = dict) -> Settings:
    """Settings from the parsed values by option name, presets applied. An option without a value has its default.

    Raises OptionConflict for options that do not go together.
    """
    values: dict[str, Any] = {"brokers": ""}
    columns: dict[str, Any] = {}
    for name, one in chosen.items():
        if one.value is not None:
            *parents, attribute = OPTIONS[name].path
            (columns if parents else values)[attribute] = one.value
    settings = Settings(**values, columns=Columns(**columns), kafka=kafka)
    _require_consistent(settings, partitions_by_flag=_is_flag(chosen.get("partitions-ahead")))
    if settings.source == "message":
        settings = replace(settings, tables=())
    if settings.shard is None:
        return settings
    shard = settings.shard
    return replace(settings, slot=shard.name(settings.slot), publication=shard.name(settings.publication))


def _is_flag(one: Chosen | None) -> bool:
    return one is not None and one.origin == "flag"


def _require_consistent(settings: Settings, *, partitions_by_flag: bool) -> None:
    """Check the rules that concern more than one option. Raises OptionConflict."""
    prunes, sharded = settings.prune_after is not None, settings.shard is not None
    conflicts = {
        "--on-poison dead-letter needs a topic: --dead-letter-topic TOPIC.": (
            settings.on_poison == "dead-letter" and settings.dead_letter_topic is None
        ),
        "CloudEvents need a source: --ce-source /shop/{aggregatetype}, for instance.": (
            settings.format != "debezium" and settings.ce_source is None
        ),
        "--shard applies to rows of a table: a publication does not filter logical messages.": (
            sharded and settings.source != "table"
        ),
        "--shard and --prune-after exclude each other: a shard's slot does not show what the other shards have delivered.": (
            sharded and prunes
        ),
        "--source message and --prune-after exclude each other: messages are in no table, so there is nothing to delete.": (
            settings.source == "message" and prunes
        ),
        # only as a flag: in a file or a variable it may be meant for `prune`
        "--partitions-ahead needs --prune-after 7d, for instance: partitions are created by the pruning job.": (
            partitions_by_flag and not prunes
        ),
    }
    for message, conflicting in conflicts.items():
        if conflicting:
            raise OptionConflict(message)
