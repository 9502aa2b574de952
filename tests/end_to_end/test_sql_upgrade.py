"""Today's relay on the SQL objects of an older version, and through their upgrade."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from cdc_outbox.commands.install import SQL_VERSION
from tests.plugins.command import run_command
from tests.plugins.oracle import judge
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

FIRST = Path(__file__).parents[1] / "recorded" / "sql" / "outbox-1.sql"

EMIT = "SELECT outbox_emit('order', '1', 'OrderPlaced', '{\"total\": 99}', '{\"tenant\": \"acme\"}')::text"


def test_an_upgrade_under_a_running_relay_and_writers_loses_nothing_and_keeps_ids_and_order(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.database.execute(FIRST.read_text())
    shop = f"shop_{secrets.token_hex(4)}"
    outbox.database.execute(f"CREATE ROLE {shop} NOLOGIN; GRANT EXECUTE ON FUNCTION outbox_emit TO {shop}")
    outbox.add()
    ((before,),) = outbox.database.execute(EMIT)
    relay = outbox.streaming()
    with writers(threads=3, rate=200) as load:
        eventually(lambda: load.committed > 100, "writers write")
        kept = outbox.database.execute("SELECT seq, id FROM outbox")
        done = run_command("sql", "upgrade", "--apply", dsn=outbox.database.dsn)
        assert (done.returncode, f"from version 1 to {SQL_VERSION}" in done.stderr) == (0, True), done.stderr
        written = load.committed
        eventually(lambda: load.committed > written + 100, "writers go on")
    granted = outbox.database.connect()
    granted.execute(f"SET ROLE {shop}".encode())
    ((after,),) = granted.execute(EMIT.encode()).fetchall()
    outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0
    assert len(relay.log_lines("streaming")) == 1, "the upgrade broke the stream"

    records = outbox.records()
    verdict = judge(witness.committed(), records, rolled_back=load.rolled_back)
    assert (verdict.events > 200, verdict.duplicates) == (True, 0)
    found = [record for record in records if ids([record])[0] in {before, after}]
    assert len(found) == 2
    assert [(r.key, r.value, r.headers[1:]) for r in found] == [
        (b"1", b'{"total": 99}', [("type", b"OrderPlaced"), ("tenant", b"acme")])
    ] * 2
    rows = outbox.database.execute("SELECT seq, id FROM outbox")
    assert set(kept) <= set(rows)
    assert len(rows) == verdict.events
