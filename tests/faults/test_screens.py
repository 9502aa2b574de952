"""What each screen shows ten seconds after an incident has begun, and when it is over: the same judgement everywhere."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import QUICK_RECONNECT
from tests.plugins.command import run_command
from tests.plugins.metrics import metrics
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox

SHOWN_SECONDS: Final = 10.0
"""From the first event that Kafka does not confirm to a warning on every screen."""


def get(relay: Relay, path: str) -> str:
    """The body of an answer with status 200."""
    with urllib.request.urlopen(f"{relay.http_url}{path}", timeout=10) as answer:
        return str(answer.read().decode())


def document(relay: Relay) -> dict[str, object]:
    """The relay's own status document."""
    found: dict[str, object] = json.loads(get(relay, "/status"))
    return found


def codes(relay: Relay) -> list[str]:
    """Why the relay's health is not ok, the worst first."""
    reasons = document(relay)["reasons"]
    assert isinstance(reasons, list)
    return [reason["code"] for reason in reasons]


def screens_agree(relay: Relay, outbox: Outbox, level: str, words: str) -> None:
    """Every screen shows this level, and a headline with these words."""
    command = run_command("status", "--http", f"127.0.0.1:{relay.http_port}", dsn=outbox.database.dsn)
    page = json.loads(get(relay, "/page.json"))
    relay.send_signal(signal.SIGUSR1)
    summary = relay.wait_for_log("summary")

    assert document(relay)["health"] == level
    assert page["status"]["health"] == level
    assert words in page["headline"]
    assert re.search(rf"^\[i\] health: {level}: .*{words}", get(relay, "/readyz?verbose"), re.MULTILINE)
    assert (summary["health"], words in summary["problem"]) == (level, True)
    assert re.search(rf"^health          {level}: .*{words}", command.stdout, re.MULTILINE)
    assert metrics(relay)[f'health{{level="{level}"}}'] == 1


@pytest.mark.parametrize("stop", ["frozen", "paused", "stopped"])
def test_a_kafka_that_confirms_nothing_is_a_warning_on_every_screen_until_it_confirms(
    fragile: Outbox, stop: str
) -> None:
    fragile.create()
    fragile.create_slot()
    relay = fragile.streaming(*QUICK_RECONNECT, http=True)
    fragile.confirm()
    assert (document(relay)["health"], codes(relay)) == ("ok", [])

    server, proxy = fragile.kafka.server, fragile.kafka.proxy
    assert server is not None
    assert proxy is not None
    {"frozen": proxy.freeze, "paused": server.pause, "stopped": server.stop}[stop]()
    fragile.add()
    eventually(lambda: "kafka-unconfirmed" in codes(relay), "the relay warns", seconds=SHOWN_SECONDS)
    screens_agree(relay, fragile, "warning", "Kafka has confirmed nothing for")
    assert get(relay, "/readyz").startswith("ok")

    {"frozen": proxy.thaw, "paused": server.resume, "stopped": server.start}[stop]()
    eventually(lambda: document(relay)["health"] == "ok", "the warning is over", seconds=60)
    assert (document(relay)["kafka_connected"], document(relay)["kafka_error"]) == (True, None)
