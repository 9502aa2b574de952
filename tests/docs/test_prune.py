"""docs/how-to/prune.md, done as it says, as the role that it names."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import block
from tests.plugins.outbox import ids

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database

PAGE: Final = "docs/how-to/prune.md"
AT_ONCE: Final = "docs/how-to/delete-at-once.md"
PASSWORD: Final = "of-the-housekeeper"


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_whole_days_at_once(
    database: Database, outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    shell(block(PAGE, "cdc-outbox sql install --partitioned --apply").text, CDC_OUTBOX_DSN=database.dsn)
    database.execute(
        "CREATE TABLE outbox_old PARTITION OF outbox FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-01-02 00:00Z')"
    )
    outbox.add(created_at="2026-01-01 12:00Z")
    young = outbox.add()
    relay = outbox.streaming()
    command = block(PAGE, "cdc-outbox prune --older-than 7d --partitions-ahead 7").text
    done = shell(command, CDC_OUTBOX_DSN=database.dsn)
    assert (done.stdout, database.execute("SELECT id::text FROM outbox")) == ("public.outbox 1\n", [(young,)])
    assert "dropped: partition public.outbox_old" in done.stderr
    relay.terminate()
    assert relay.wait() == 0


def test_no_rows_at_all(
    database: Database, outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    install = block(AT_ONCE, "cdc-outbox sql install --delete-after-insert --apply").text
    assert "before the first event" in shell(install, CDC_OUTBOX_DSN=database.dsn).stderr
    written = outbox.add_all([{}, {}, {}])
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]
    outbox.drain()
    assert ids(outbox.records()) == written
    database.execute("DROP TRIGGER delete_after_insert ON outbox")
    kept = outbox.add()
    assert database.execute("SELECT id::text FROM outbox") == [(kept,)]


def test_no_rows_at_all_by_hand(database: Database, outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    database.execute(block(AT_ONCE, "BEGIN;").text)
    database.execute(
        block(AT_ONCE, "CREATE FUNCTION outbox_delete_at_once() RETURNS trigger LANGUAGE plpgsql AS $$").text
    )
    by_trigger = outbox.add()
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]
    outbox.drain()
    assert sorted(outbox.records_by_id()) == sorted(["01a207b6-8329-7897-99bd-428955e6b3ed", by_trigger])
