"""docs/how-to/prune.md, done as it says, as the role that it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from tests.docs.pages import block

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database

PAGE: Final = "docs/how-to/prune.md"
PASSWORD: Final = "of-the-housekeeper"


def test_the_page_in_order(
    database: Database, kafka: KafkaCluster, outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shell("cdc-outbox sql install --apply; cdc-outbox sql roles --apply", CDC_OUTBOX_DSN=database.dsn)
    for _ in range(3):
        outbox.add(created_at="2026-01-01")
    young = outbox.add()
    relay = outbox.streaming()
    database.execute(f"CREATE ROLE housekeeping LOGIN PASSWORD '{PASSWORD}'")
    database.execute(block(PAGE, "GRANT cdc_outbox_pruner TO housekeeping;").text)
    dsn = database.dsn_for("housekeeping", PASSWORD)
    done = shell(block(PAGE, "cdc-outbox prune --older-than 7d").text, CDC_OUTBOX_DSN=dsn)
    shown = block(PAGE, "public.outbox 48211").text
    assert re.sub(r"\d+", "N", done.stdout) == re.sub(r"\d+", "N", shown)
    assert done.stdout == "public.outbox 3\n"
    assert database.execute("SELECT id::text FROM outbox") == [(young,)]
    relay.terminate()
    assert relay.wait() == 0


def test_the_relay_prunes(
    database: Database, kafka: KafkaCluster, outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shell("cdc-outbox sql install --apply", CDC_OUTBOX_DSN=database.dsn)
    outbox.add(created_at="2026-01-01")
    young = outbox.add()
    command = block(PAGE, 'cdc-outbox run --brokers "$BROKERS" --prune-after 7d').text.strip()
    assert command.startswith("cdc-outbox run --brokers")
    relay = outbox.streaming(*command.split()[4:])
    assert relay.arguments[-2:] == ["--prune-after", "7d"]
    assert relay.wait_for_log("pruned")["rows"] == 1
    assert database.execute("SELECT id::text FROM outbox") == [(young,)]
    relay.terminate()
    assert relay.wait() == 0
