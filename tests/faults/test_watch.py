"""The watch of the catalog cannot look: a warning, and the stream goes on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.faults.acts import terminate_walsender
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

LOOK_SECONDS = 50.0
"""The watch looks every 30 s, and rows that arrive make it look earlier."""


def goes_on(outbox: Outbox) -> None:
    """Events arrive, although nothing can be looked at."""
    written = outbox.add_all([{}, {}])
    eventually(lambda: set(written) <= set(ids(outbox.records())), "events arrive")


def test_a_side_connection_that_is_refused_is_a_warning_and_the_stream_goes_on(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    run = outbox.database.execute
    run("CREATE ROLE shut_out LOGIN REPLICATION PASSWORD 'shut-password'; GRANT SELECT ON outbox TO shut_out")
    relay = outbox.streaming(dsn=outbox.database.dsn_for("shut_out", "shut-password"))
    outbox.confirm()

    run(f"REVOKE CONNECT ON DATABASE {outbox.database.name} FROM PUBLIC")
    goes_on(outbox)
    warned = relay.wait_for_log("watch.failed", timeout=LOOK_SECONDS, level="warning")
    assert outbox.database.name in warned["error"]
    goes_on(outbox)

    run(f"GRANT CONNECT ON DATABASE {outbox.database.name} TO PUBLIC")
    outbox.confirm()
    assert relay.running
    assert len(relay.log_lines("streaming")) == 1
    relay.terminate()
    assert relay.wait() == 0


def test_a_file_with_the_dsn_that_is_away_for_a_moment_is_a_warning_and_the_stream_goes_on(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.create()
    outbox.create_slot()
    file = tmp_path / "dsn"
    file.write_text(outbox.database.dsn)
    relay = outbox.relay(database=None, env={"CDC_OUTBOX_DSN_FILE": str(file)})
    relay.wait_for_log("streaming")
    outbox.confirm()

    file.rename(tmp_path / "away")
    goes_on(outbox)
    warned = relay.wait_for_log("watch.failed", timeout=LOOK_SECONDS, level="warning")
    assert "CDC_OUTBOX_DSN_FILE" in warned["error"]
    goes_on(outbox)
    assert len(relay.log_lines("streaming")) == 1

    terminate_walsender(outbox.database)
    relay.wait_for_log("waiting", level="warning")
    (tmp_path / "away").rename(file)
    relay.wait_for_log("streaming", nth=2)
    outbox.confirm()
    relay.terminate()
    assert relay.wait() == 0
