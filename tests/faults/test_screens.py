"""What each screen shows ten seconds after an incident has begun, and when it is over: the same judgement everywhere."""

from __future__ import annotations

import json
import re
import signal
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import QUICK_RECONNECT
from tests.plugins.command import run_command
from tests.plugins.metrics import metrics
from tests.plugins.outbox import Outbox
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

UNCONFIRMED: Final = {"kafka-unconfirmed", "kafka-unreachable"}

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
    eventually(lambda: UNCONFIRMED & set(codes(relay)), "the relay warns", seconds=SHOWN_SECONDS)
    if stop != "stopped":
        assert codes(relay) == ["kafka-unconfirmed"]
    eventually(lambda: document(relay)["unconfirmed_seconds"], "nothing is confirmed")
    screens_agree(relay, fragile, "warning", "confirmed nothing for")
    assert get(relay, "/readyz").startswith("ok")

    {"frozen": proxy.thaw, "paused": server.resume, "stopped": server.start}[stop]()
    eventually(lambda: document(relay)["health"] == "ok", "the warning is over", seconds=60)
    assert (document(relay)["kafka_connected"], document(relay)["kafka_error"]) == (True, None)


LIMITED: Final = {"max_slot_wal_keep_size": "48MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}
"""No checkpoint comes by itself: the slot stays unreserved, and is not lost."""


def wal_status(outbox: Outbox) -> object:
    """What the server has to say of the slot."""
    slot = outbox.slot()
    return slot["wal_status"] if slot else None


def test_a_slot_in_danger_is_critical_and_the_sql_of_its_cure_buys_time(
    own_postgres: Callable[..., PostgresServer], fragile_kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    outbox = Outbox(own_postgres(settings=LIMITED).create_database(), fragile_kafka, relay)
    fragile_kafka.create_topic(f"{outbox.prefix}order")
    outbox.create()
    outbox.create_slot()
    running = outbox.streaming("--max-in-flight-events", "1", *QUICK_RECONNECT, http=True)
    outbox.confirm()
    assert fragile_kafka.proxy is not None
    fragile_kafka.proxy.freeze()
    for _ in range(3):
        outbox.add()

    def in_danger() -> bool:
        outbox.database.execute("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 4000000))")
        return wal_status(outbox) == "unreserved"

    eventually(in_danger, "the slot is in danger")
    line = running.wait_for_log("slot.endangered", timeout=60, code="slot-unreserved")
    screens_agree(running, outbox, "critical", "The slot is lost at the next checkpoint")
    status = run_command("status", "--http", f"127.0.0.1:{running.http_port}", dsn=outbox.database.dsn)
    assert status.returncode == 1

    for statement in line["cure"].partition("has room: ")[2].rstrip(";").split("; "):
        outbox.database.execute(statement)
    eventually(lambda: wal_status(outbox) in {"reserved", "extended"}, "the slot is safe")
    fragile_kafka.proxy.thaw()
    eventually(lambda: "slot-unreserved" not in codes(running), "the relay sees it", seconds=60)


def test_a_relay_that_lost_postgresql_reconnects_and_is_not_starting(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    server = own_postgres()
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.create_slot()
    running = outbox.streaming(http=True)
    outbox.confirm()

    assert server.embedded is not None
    server.embedded.stop("fast", timeout=60)
    eventually(lambda: "postgres-disconnected" in codes(running), "the relay warns", seconds=SHOWN_SECONDS)
    found = document(running)
    assert (found["state"], found["health"], found["kafka_connected"]) == ("reconnecting", "warning", True)
    assert "[i] health: warning: The connection to PostgreSQL was lost" in not_ready(running)

    server.embedded.start()
    eventually(lambda: document(running)["health"] == "ok", "the warning is over", seconds=60)


def not_ready(relay: Relay) -> str:
    """The body of /readyz, which fails."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        get(relay, "/readyz?verbose")
    with caught.value as answer:
        return answer.read().decode()


def test_of_two_relays_both_are_well_and_without_one_the_command_warns(outbox: Outbox) -> None:
    outbox.create()
    outbox.create_slot()
    first = outbox.streaming(http=True)
    second = outbox.relay(http=True)
    second.wait_for_log("standby")
    assert (document(first)["state"], document(first)["health"]) == ("streaming", "ok")
    assert (document(second)["state"], document(second)["health"]) == ("standby", "ok")
    assert json.loads(get(second, "/page.json"))["headline"].startswith("Another relay streams from the slot")

    first.terminate()
    second.wait_for_log("streaming")
    assert (document(second)["state"], document(second)["health"]) == ("streaming", "ok")
    second.terminate()
    assert (first.wait(), second.wait()) == (0, 0)
    alone = run_command("status", "--http", f"127.0.0.1:{second.http_port}", dsn=outbox.database.dsn)
    assert alone.returncode == 0
    assert alone.stdout.startswith("health          warning: No relay streams from the slot")
