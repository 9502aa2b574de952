"""docs/how-to/replay.md, done as it says."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.docs.pages import block
from tests.plugins.outbox import event_id

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.outbox import Outbox

PAGE: Final = "docs/how-to/replay.md"
LOOK: Final = "cdc-outbox replay --since 2026-11-23T08:00Z --until 2026-11-23T09:30Z --dry-run"
AGAIN: Final = 'cdc-outbox replay --id 01a2f3c4-95c9-7c1b-8f4e-3f1d2a8e9b10 --brokers "$BROKERS" --yes'


def test_the_page_in_order(outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    shell("cdc-outbox sql install --apply", CDC_OUTBOX_DSN=outbox.database.dsn)
    shown = block(PAGE, "public.outbox 2").text
    rows = re.findall(r"^  (\S+)  (\w+)  key (\d+)", shown, re.MULTILINE)
    outbox.add(created_at="2026-11-23 07:59Z")
    for row_id, event_type, key in rows:
        outbox.add(id=row_id, type=event_type, aggregateid=key, created_at="2026-11-23 08:00Z")
    outbox.add(created_at="2026-11-23 09:30Z")

    looked = shell(block(PAGE, LOOK).text, CDC_OUTBOX_DSN=outbox.database.dsn)
    assert looked.stdout + looked.stderr == shown

    settings = {"CDC_OUTBOX_DSN": outbox.database.dsn, "CDC_OUTBOX_TOPIC": outbox.prefix + "{aggregatetype}"}
    shell(block(PAGE, AGAIN).text, BROKERS=outbox.kafka.brokers, **settings)
    (record,) = outbox.records()
    assert event_id(record) == rows[0][0]
    assert record.header("outbox.replay")
