"""Check of slots that divide the same outbox into another number of shards: two divisions at a time break the order of a key.

In: a short connection, `Settings`. Out: lines `slot.resharding`. Never: a change; a slot of another outbox (its name differs).

A change of the number keeps the order if the new slots begin while the old relays stream, and the new relays start after the
old ones have ended and have confirmed everything before that beginning (docs/scaling.md).
"""

from __future__ import annotations

from typing import Final

from cdc_outbox.check.database import Server
from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.shards import named_shard
from cdc_outbox.lsn import UNSET, format_lsn
from cdc_outbox.postgres import slot
from cdc_outbox.postgres.connect import Connection

CHECK: Final = "slot.resharding"

_SLOTS: Final = """
SELECT slot_name::pg_catalog.text FROM pg_catalog.pg_replication_slots
 WHERE database = pg_catalog.current_database() AND plugin = %s AND NOT temporary
 ORDER BY 1
"""


def check_resharding(connection: Connection, settings: Settings, catalog: Server, report: Report) -> None:
    """Check each slot whose name differs from the relay's in the number of shards only."""
    if not settings.tables:
        report.not_checked("logical messages have no shards", CHECK)
        return
    base, count = _division(settings.slot)
    names = [str(name) for (name,) in connection.execute(_SLOTS, (slot.PLUGIN,))]
    same_base = {name: shards for name in names for found, shards in [_division(name)] if found == base}
    others = [
        found for name, shards in same_base.items() if shards != count and (found := slot.inspect(connection, name))
    ]
    for other in others:
        _check_other(other, settings, catalog.slot, report)
    if not others:
        report.ok(CHECK, f"no slot divides the events of {base} into another number of shards")


def _division(name: str) -> tuple[str, int]:
    """The beginning of a slot's name that all shards share, and their number; 1: it has every key."""
    found = named_shard(name)
    return (name, 1) if found is None else (found.base, found.shard.count)


def _check_other(other: slot.SlotInfo, settings: Settings, own: slot.SlotInfo | None, report: Report) -> None:
    drop = f"cdc-outbox slot drop --slot {other.name}"
    if other.active:
        report.fail(
            CHECK,
            f"a relay streams from {other.name} (pid {other.active_pid}), which divides the keys differently: beside it, "
            "events of a key are sent out of order",
            "stop that relay, and wait until it has ended with exit code 0; a relay of logical messages needs a slot of "
            "another name (--slot)",
        )
    elif own is None:
        report.fail(
            CHECK,
            f"there is no slot {settings.slot}, and {other.name} divides the keys differently: a first start sends every "
            "row in the table again",
            f"cdc-outbox slot create --slot {settings.slot}, while the relay of {other.name} runs (docs/scaling.md)",
            f"or, if it is not needed any more: {drop}",
        )
    elif own.active:
        report.warn(CHECK, f"no relay streams from {other.name} any more, and it keeps WAL", drop)
    elif (other.confirmed_flush_lsn or UNSET) < (own.confirmed_flush_lsn or UNSET):
        report.fail(
            CHECK,
            f"{other.name} has confirmed {format_lsn(other.confirmed_flush_lsn or UNSET)}, and {own.name} begins at "
            f"{format_lsn(own.confirmed_flush_lsn or UNSET)}: the events between them may not be sent",
            f"start the relay of {other.name} again, and stop it when it has caught up",
            f"or, if {own.name} was streamed from since: {drop}",
        )
    else:
        report.ok(CHECK, f"{other.name} is stopped, and has confirmed everything before the beginning of {own.name}")
