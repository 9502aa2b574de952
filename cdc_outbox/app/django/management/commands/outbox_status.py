"""`manage.py outbox_status`: whether the outbox is installed, what is in it, and how far its slot is.

In: a database's alias, a slot's name. Out: lines of text, or one JSON object; exit code 1 if something needs attention.
Never: a change. The relay itself is asked by `cdc-outbox status`.
"""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import DEFAULT_DB_ALIAS
from django.db.models import Max, Min

from cdc_outbox.app.django.installed import Slot, read_installed, read_slots
from cdc_outbox.app.django.models import OutboxEvent


class Command(BaseCommand):
    """The command."""

    help = (
        "Shows the outbox: what is installed, the rows, the replication slot. Exit code 1 if something needs attention."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Its options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="alias of the database (default: %(default)s)")
        parser.add_argument("--slot", default="cdc_outbox", help="slot of the relay (default: %(default)s)")
        parser.add_argument("--json", action="store_true", help="print one JSON object")

    def handle(self, *_: Any, **options: Any) -> None:
        """Print the status."""
        alias = options["database"]
        missing = read_installed(alias).missing
        rows = _rows(alias) if "table public.outbox" not in missing else {}
        slot = next((slot for slot in read_slots(alias) if slot.name == options["slot"]), None)
        findings = [f"no {name}: run manage.py migrate cdc_outbox" for name in missing]
        findings += _findings(options["slot"], slot)
        if options["json"]:
            shown = {"missing": missing, **rows, "slot": slot and _slot(slot), "findings": findings}
            self.stdout.write(json.dumps(shown, default=str))
        else:
            self._print(rows, slot, findings)
        if findings:
            raise SystemExit(1)

    def _print(self, rows: dict[str, Any], slot: Slot | None, findings: list[str]) -> None:
        for name, value in {**rows, **(_slot(slot) if slot else {})}.items():
            self.stdout.write(f"{name:<22} {'' if value is None else value}".rstrip())
        for finding in findings:
            self.stdout.write(self.style.ERROR(finding))
        if not findings:
            self.stdout.write(self.style.SUCCESS("ok"))


def _rows(alias: str) -> dict[str, Any]:
    events = OutboxEvent.objects.using(alias)
    times = events.aggregate(oldest=Min("created_at"), newest=Max("created_at"))
    return {"rows": events.count(), "oldest_row": times["oldest"], "newest_row": times["newest"]}


def _slot(slot: Slot) -> dict[str, Any]:
    return {
        "slot_name": slot.name,
        "relay_connected": slot.active,
        "wal_status": slot.wal_status,
        "lag_bytes": slot.lag_bytes,
    }


def _findings(name: str, slot: Slot | None) -> list[str]:
    if slot is None:
        return [f"no slot {name} in this database: start the relay (cdc-outbox run), or name its slot with --slot"]
    if slot.wal_status == "lost":
        return [f"slot {name} is lost: events are missing in Kafka. See cdc-outbox explain slot-lost"]
    if not slot.active:
        return [f"no relay streams from slot {name}: start cdc-outbox run. Until then the server keeps all its WAL"]
    return []
