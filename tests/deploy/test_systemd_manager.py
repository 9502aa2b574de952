"""The unit under a real systemd: ready when it streams, killed when it is frozen, left alone when a restart is of no use.

Of a user manager, so without what needs a system's: another user, and the walls. Those are for tests/deploy/test_systemd.py.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.deploy.test_systemd import UNIT
from tests.plugins.absence import absent
from tests.plugins.waiting import eventually
from tests.servers.systemd_manager import PROGRAM, CannotRun, SystemdManager

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugins.outbox import Outbox

KEPT: Final = ("Type", "NotifyAccess", "Timeout", "ExecStart", "Restart", "Watchdog", "KillMode", "LimitCORE")
"""Beginnings of what is said of the service's life. The rest needs a system manager."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[SystemdManager]:
    if not PROGRAM.exists():
        absent("systemd is missing (apt-get install systemd)")
    try:
        with SystemdManager(tmp_path) as started:
            yield started
    except CannotRun as error:
        pytest.skip(f"no systemd can run here: {error}")


def install(manager: SystemdManager, outbox: Outbox, *more: str) -> None:
    """Our unit for this machine: its life as it is, but in less time."""
    lines = re.findall(r"^(\w+)=(.*)$", UNIT.read_text().split("[Service]")[1].split("\n[")[0], re.MULTILINE)
    life = [f"{key}={value}" for key, value in lines if key.startswith(KEPT)]
    assert len(life) >= 9
    command = f"{sys.executable} -m cdc_outbox run --http off --topic {outbox.prefix}order"
    text = "\n".join(["[Service]", *life, *more])
    text = text.replace("/opt/cdc-outbox/bin/cdc-outbox run", command)
    text = text.replace("WatchdogSec=30s", "WatchdogSec=6s").replace("RestartSec=5s", "RestartSec=100ms")
    secrets = manager.units / "environment"
    secrets.write_text(f"CDC_OUTBOX_DSN={outbox.database.dsn}\nCDC_OUTBOX_BROKERS={outbox.kafka.brokers}\n")
    (manager.units / "cdc-outbox.service").write_text(f"{text}\nEnvironmentFile={secrets}\n")
    assert manager.systemctl("daemon-reload").returncode == 0


@pytest.mark.nightly
def test_systemd_starts_the_relay_restarts_a_frozen_one_and_does_not_restart_after_78(
    manager: SystemdManager, outbox: Outbox
) -> None:
    outbox.create()
    install(manager, outbox)
    started = manager.systemctl("start", "cdc-outbox")
    assert started.returncode == 0, started.stderr
    told = manager.show("cdc-outbox")
    assert (told["ActiveState"], told["SubState"]) == ("active", "running")
    assert outbox.slot() is not None, "it said that it is ready before it streamed"
    eventually(lambda: "streaming, " in manager.show("cdc-outbox")["StatusText"], "the status says how it is")

    manager.freeze("cdc-outbox")
    eventually(lambda: manager.show("cdc-outbox")["NRestarts"] != "0", "the watchdog ends it, and it is started again")
    eventually(lambda: manager.show("cdc-outbox")["SubState"] == "running", "it streams again")

    assert manager.systemctl("stop", "cdc-outbox").returncode == 0
    told = manager.show("cdc-outbox")
    assert (told["ActiveState"], told["Result"], told["ExecMainStatus"]) == ("inactive", "success", "0")

    install(manager, outbox, "Environment=CDC_OUTBOX_PUBLICATION=nobody")
    assert manager.systemctl("start", "cdc-outbox").returncode != 0
    told = manager.show("cdc-outbox")
    assert (told["ActiveState"], told["ExecMainStatus"], told["NRestarts"]) == ("failed", "78", "0")
    assert "publication nobody does not exist" in told["StatusText"]
