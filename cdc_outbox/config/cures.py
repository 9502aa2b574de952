"""Commands in cures, with the options without which they would fail, or act on other objects.

In: a cure that names commands of cdc-outbox, and the settings of the process. Out: the cure with complete commands.
Never: an option that has its default, or that the cure names itself. Options that every command of the deployment needs
(--dsn, --brokers) are left out.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from cdc_outbox.config.settings import OPTIONS, Settings
from cdc_outbox.config.shards import named_shard

DEPLOYMENT: Final = ("shard", "slot", "publication", "table", "source", "on-poison", "dead-letter-topic")
"""Options that decide which events are sent, and what happens to one that cannot be sent."""

COMMANDS: Final = {
    "run": DEPLOYMENT,
    "check": DEPLOYMENT,
    "slot recover": DEPLOYMENT,
    "status": ("slot", "publication", "table"),
    "slot create": ("slot", "publication"),
    "slot status": ("slot",),
    "slot drop": ("slot",),
    "sql install": ("publication", "table", "source"),
    "sql roles": ("table",),
}
"""By command, the options that it gets. A recovery sends rows again that were skipped before, so it gets the policy."""

_VALUE: Final = r"""(?:'[^']*'|"[^"]*"|[^\s'".,;:()-][^\s'",;:()]*)+"""

_COMMAND: Final = re.compile(rf"cdc-outbox ({'|'.join(COMMANDS)})\b((?: --[a-z][a-z-]*(?: {_VALUE})?)*)")
"""A command, and the options that follow it."""


def complete(cure: str, settings: Settings) -> str:
    """The cure, with the slot, the tables, the policy, … of the settings in its commands."""
    return _COMMAND.sub(lambda found: _completed(found[1], found[2], settings), cure)


def _completed(command: str, named: str, settings: Settings) -> str:
    values = _values(settings, by_shard="shard" in COMMANDS[command] and " --slot" not in named)
    options = (
        f" --{name} {shlex.quote(OPTIONS[name].value_type.show(value))}"
        for name in COMMANDS[command]
        if f" --{name}" not in named and OPTIONS[name].show(values[name]) != OPTIONS[name].default
        for value in _each(values[name])
    )
    return f"cdc-outbox {command}{''.join(options)}{named}"


def _values(settings: Settings, *, by_shard: bool) -> dict[str, object]:
    """The values by option. `by_shard`: --shard appends to the names of slot and publication, so they are given without it."""
    slot, publication, shard = settings.slot, settings.publication, None
    found, published = named_shard(slot), named_shard(publication)
    if by_shard and found and (published is None or published.shard == found.shard):
        slot, shard = found.base, found.shard
        publication = publication if published is None else published.base
    return {
        "shard": shard,
        "slot": slot,
        "publication": publication,
        "table": settings.tables,
        "source": settings.source,
        "on-poison": settings.on_poison,
        "dead-letter-topic": settings.dead_letter_topic,
    }


def _each(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)
