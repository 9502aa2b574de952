"""`cdc-outbox status` beside a real slot, and beside a real relay."""

from __future__ import annotations

import json
import re
import secrets
import shlex
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.observe import health
from tests.docs.pages import block
from tests.plugins.command import run_command, started_command

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database


@pytest.mark.postgres
def test_without_a_relay_the_database_has_the_cost_of_the_slot_and_limits_are_judged(database: Database) -> None:
    slot = f"s_{secrets.token_hex(6)}"
    database.execute(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    asked = ("status", "--slot", slot, "--http", "off")
    done = run_command(*asked, "--json", dsn=database.dsn)
    assert done.returncode == 0, done.stderr

    document = json.loads(done.stdout)
    assert list(document) == list(health.status(Counters(), Settings(brokers=""), 0.0, 0.0).members())
    assert (document["slot"], document["slot_active"], document["wal_status"]) == (slot, False, "reserved")
    assert document["retained_wal_bytes"] >= document["lag_bytes"] >= 0
    assert (document["state"], document["lag_seconds"]) == (None, None)

    database.execute("CREATE TABLE filler AS SELECT repeat('x', 100) FROM generate_series(1, 1000)")
    done = run_command(*asked, "--max-wal-bytes", "1", "--max-lag-seconds", "60", dsn=database.dsn)
    assert done.returncode == 1
    assert re.search(
        r"^exceeded: retained_wal_bytes is [\d,]+, more than --max-wal-bytes 1$", done.stderr, re.MULTILINE
    )
    assert "exceeded: lag_seconds is not known" in done.stderr
    assert re.search(rf"^slot            {slot}, not in use; publication cdc_outbox", done.stdout, re.MULTILINE)
    command = shlex.split(block("docs/how-to/monitor.md", "cdc-outbox status --http off --max-wal-bytes 10GiB").text)
    assert run_command(*command[1:], "--slot", slot, dsn=database.dsn).returncode == 0


@pytest.mark.postgres
def test_no_such_slot_is_78_with_the_cure_and_no_database_is_69(database: Database) -> None:
    done = run_command("status", "--slot", "no_such_slot", "--http", "off", "--json", dsn=database.dsn)
    assert (done.returncode, done.stdout) == (78, "")
    assert "slot no_such_slot does not exist" in done.stderr
    assert "cure: " in done.stderr

    assert run_command("status", "--http", "off", dsn="host=127.0.0.1 port=1").returncode == 69


def test_beside_a_relay_its_own_view_is_shown_and_watched(outbox: Outbox) -> None:
    outbox.create()
    relay = outbox.streaming(http=True)
    outbox.confirm()
    asked = ("status", "--http", f"127.0.0.1:{relay.http_port}")

    done = run_command(*asked, "--max-lag-seconds", "60", dsn=outbox.database.dsn)
    assert done.returncode == 0, done.stderr
    shown = [line[:16] for line in block("docs/how-to/monitor.md", "$ cdc-outbox status").text.splitlines()[1:]]
    assert [line[:16] for line in done.stdout.splitlines()] == shown
    assert re.search(r"^state           streaming$", done.stdout, re.MULTILINE)
    assert re.search(r"^lag             [\d.]+ s; ", done.stdout, re.MULTILINE)
    assert re.search(r"^last error      none$", done.stdout, re.MULTILINE)

    with started_command(*asked, "--watch", "--json", dsn=outbox.database.dsn) as watching:
        first, second, *_ = map(json.loads, watching.wait_for_lines(2))
        assert (first["state"], first["slot_active"], second["lag_seconds"] >= 0) == ("streaming", True, True)
        watching.interrupt()
        assert watching.wait() == 0

    down = run_command(*asked, "--json", dsn="host=127.0.0.1 port=1")
    assert (down.returncode, json.loads(down.stdout)["state"]) == (69, "streaming")
