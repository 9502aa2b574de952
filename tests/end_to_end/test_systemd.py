"""A relay that systemd has started: what it says on the socket, from its start to its end."""

from __future__ import annotations

import signal
import socket
from typing import TYPE_CHECKING

from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.outbox import Outbox


def test_systemd_gets_ready_then_watchdog_messages_then_stopping_and_the_relay_ends_with_zero(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.create()
    heard: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unit:
        unit.bind(str(tmp_path / "notify"))
        unit.setblocking(False)

        def hears(beginning: str, times: int = 1) -> bool:
            try:
                while True:
                    heard.append(unit.recv(4096).decode())
            except BlockingIOError:
                return sum(message.startswith(beginning) for message in heard) >= times

        relay = outbox.relay(env={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "3000000"})
        eventually(lambda: hears("READY=1"), "READY=1")
        relay.wait_for_log("streaming")
        eventually(lambda: hears("WATCHDOG=1", times=2), "two signs of life")
        relay.send_signal(signal.SIGTERM)
        assert relay.wait() == 0
        assert hears("STATUS=stopped")
    assert heard.index("READY=1") < heard.index("STOPPING=1")
    assert heard.count("READY=1") == heard.count("STOPPING=1") == 1
    assert any(message.startswith("STATUS=streaming, ") for message in heard)
