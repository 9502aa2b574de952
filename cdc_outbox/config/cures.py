"""Commands in cures, with the options without which they would fail or act on another slot.

In: a cure that names `cdc-outbox slot recover`, and the settings of the process. Out: the cure with the complete command.
Never: an option that has its default. Options that every command of the deployment needs (--dsn, --brokers) are left out.
"""

from __future__ import annotations

import re
import shlex
from typing import Final

from cdc_outbox.config.settings import OPTIONS, Settings

RECOVER: Final = "cdc-outbox slot recover"

_COMMAND: Final = re.compile(re.escape(RECOVER) + r"( --slot [^\s.,;]++)?+(?! --)")
"""With a slot at most: a command that is complete is not completed again."""


def complete(cure: str, settings: Settings) -> str:
    """The cure; its `cdc-outbox slot recover` gets the slot and the policy of the settings, since a recovery sends rows again
    that were skipped or dead-lettered before.
    """
    return _COMMAND.sub(lambda found: _recover(found[1], settings), cure) if RECOVER in cure else cure


def _recover(named_slot: str | None, settings: Settings) -> str:
    chosen = {"on-poison": settings.on_poison, "dead-letter-topic": settings.dead_letter_topic}
    if named_slot is None:
        chosen = {"slot": settings.slot, **chosen}
    options = (
        f" --{name} {shlex.quote(value)}"
        for name, value in chosen.items()
        if value is not None and value != OPTIONS[name].default
    )
    return RECOVER + (named_slot or "") + "".join(options)
