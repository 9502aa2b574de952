"""What each screen shows ten seconds after an incident has begun, and when it is over: the same judgement everywhere."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, Final

import pytest
from psycopg.conninfo import make_conninfo

from cdc_outbox.demo.ports import free_port
from tests.faults.acts import QUICK_RECONNECT, terminate_walsender
from tests.plugins.command import environment, run_command
from tests.plugins.metrics import metrics
from tests.plugins.outbox import Outbox, ended
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

UNCONFIRMED: Final = {"kafka-unconfirmed", "kafka-unreachable"}

SHOWN_SECONDS: Final = 10.0
"""From the first event that Kafka does not confirm to a warning on every screen."""


class Unit:
    """systemd's socket for a relay: stores the line for `systemctl status`."""

    def __init__(self) -> None:
        name = f"cdc-outbox-test-{uuid.uuid4().hex}"
        self.environment = {"NOTIFY_SOCKET": f"@{name}"}
        self._line = ""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{name}")
        self._socket.setblocking(False)

    @property
    def line(self) -> str:
        """The last STATUS."""
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(4096).decode():
                name, _, value = message.partition("=")
                self._line = value if name == "STATUS" else self._line
        return self._line

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def unit() -> Iterator[Unit]:
    listening = Unit()
    yield listening
    listening.close()


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


def status_command(relay: Relay, outbox: Outbox) -> subprocess.CompletedProcess[str]:
    """`cdc-outbox status` beside the relay."""
    return run_command("status", "--http", f"127.0.0.1:{relay.http_port}", dsn=outbox.database.dsn)


def body(relay: Relay, path: str) -> str:
    """The body of an answer with any status."""
    try:
        return get(relay, path)
    except urllib.error.HTTPError as failed:
        with failed:
            return failed.read().decode()


def screens_agree(relay: Relay, outbox: Outbox, unit: Unit, level: str, words: str) -> None:
    """Every screen shows this level, and a headline with these words."""
    command = status_command(relay, outbox)
    page = json.loads(get(relay, "/page.json"))
    relay.send_signal(signal.SIGUSR1)
    summary = relay.wait_for_log("summary")

    assert document(relay)["health"] == level
    assert page["status"]["health"] == level
    assert re.search(words, page["headline"])
    assert re.search(rf"^\[i\] health: {level}: .*{words}", body(relay, "/readyz?verbose"), re.MULTILINE)
    assert summary["health"] == level
    assert re.search(words, summary["problem"])
    assert re.search(rf"^health          {level}: .*{words}", command.stdout, re.MULTILINE)
    assert metrics(relay)[f'health{{level="{level}"}}'] == 1
    eventually(lambda: re.match(rf"{level}: .*{words}", unit.line), "systemctl status shows it", seconds=SHOWN_SECONDS)


def screens_are_well(relay: Relay, outbox: Outbox, unit: Unit) -> None:
    """Every screen shows that the relay streams, and no problem."""
    eventually(lambda: document(relay)["health"] == "ok", "the warning is over", seconds=60)
    assert codes(relay) == []
    assert json.loads(get(relay, "/page.json"))["status"]["state"] == "streaming"
    assert "[+] health: ok: Rows become records" in body(relay, "/readyz?verbose")
    assert status_command(relay, outbox).stdout.startswith("health          ok\n")
    assert metrics(relay)['health{level="ok"}'] == 1
    eventually(lambda: unit.line.startswith("streaming, "), "systemctl status shows it", seconds=SHOWN_SECONDS)


def screens_show_no_relay(relay: Relay, outbox: Outbox, unit: Unit, last: str) -> None:
    """After the end of the relay: no HTTP answer, an unused slot, and `last` as the unit's line."""
    for path in ("/", "/status", "/readyz", "/metrics"):
        with pytest.raises(urllib.error.URLError, match="refused"):
            get(relay, path)
    eventually(lambda: not outbox.slot() or not outbox.slot()["active"], "the slot is free")  # type: ignore[index]
    command = status_command(relay, outbox)
    assert command.stdout.startswith("health          warning: No relay streams from the slot")
    assert "no relay answers at" in command.stdout
    assert unit.line.startswith(last)


@pytest.mark.parametrize("stop", ["frozen", "stopped", pytest.param("paused", marks=pytest.mark.nightly)])
def test_a_kafka_that_confirms_nothing_is_a_warning_on_every_screen_until_it_confirms(
    fragile: Outbox, unit: Unit, stop: str
) -> None:
    fragile.create()
    fragile.create_slot()
    relay = fragile.streaming(*QUICK_RECONNECT, http=True, env=unit.environment)
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
    eventually(lambda: "confirmed nothing for" in get(relay, "/page.json"), "the headline has the time")
    screens_agree(relay, fragile, unit, "warning", "confirmed nothing for")
    assert get(relay, "/readyz").startswith("ok")

    {"frozen": proxy.thaw, "paused": server.resume, "stopped": server.start}[stop]()
    screens_are_well(relay, fragile, unit)
    assert (document(relay)["kafka_connected"], document(relay)["kafka_error"]) == (True, None)


LIMITED: Final = {"max_slot_wal_keep_size": "48MB", "max_wal_size": "4GB", "checkpoint_timeout": "1h"}
"""No checkpoint comes by itself: the slot stays unreserved, and is not lost."""


def wal_status(outbox: Outbox) -> object:
    """What the server has to say of the slot."""
    slot = outbox.slot()
    return slot["wal_status"] if slot else None


def test_a_slot_in_danger_is_critical_and_the_sql_of_its_cure_buys_time(
    own_postgres: Callable[..., PostgresServer], fragile_kafka: KafkaCluster, relay: Callable[..., Relay], unit: Unit
) -> None:
    outbox = Outbox(own_postgres(settings=LIMITED).create_database(), fragile_kafka, relay)
    fragile_kafka.create_topic(f"{outbox.prefix}order")
    outbox.create()
    outbox.create_slot()
    running = outbox.streaming("--max-in-flight-events", "1", *QUICK_RECONNECT, http=True, env=unit.environment)
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
    screens_agree(running, outbox, unit, "critical", "The slot is lost at the next checkpoint")
    assert status_command(running, outbox).returncode == 1

    for statement in line["cure"].partition("has room: ")[2].rstrip(";").split("; "):
        outbox.database.execute(statement)
    eventually(lambda: wal_status(outbox) in {"reserved", "extended"}, "the slot is safe")
    fragile_kafka.proxy.thaw()
    eventually(lambda: "slot-unreserved" not in codes(running), "the relay sees it", seconds=60)


def test_a_relay_that_lost_postgresql_reconnects_and_is_not_starting(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, relay: Callable[..., Relay], unit: Unit
) -> None:
    server = own_postgres()
    outbox = Outbox(server.create_database(), kafka, relay)
    outbox.create()
    outbox.create_slot()
    running = outbox.streaming(http=True, env=unit.environment)
    outbox.confirm()

    assert server.embedded is not None
    server.embedded.stop("fast", timeout=60)
    eventually(lambda: "postgres-disconnected" in codes(running), "the relay warns", seconds=SHOWN_SECONDS)
    found = document(running)
    assert (found["state"], found["health"], found["kafka_connected"]) == ("reconnecting", "warning", True)
    screens_agree(running, outbox, unit, "warning", "The connection to PostgreSQL was lost")
    with pytest.raises(urllib.error.HTTPError, match="503"):
        get(running, "/readyz")

    server.embedded.start()
    screens_are_well(running, outbox, unit)


ROLE: Final = "rotated"


def test_a_password_that_was_rotated_is_a_warning_with_its_cure_until_the_file_has_the_new_one(
    outbox: Outbox, tmp_path: Path, unit: Unit
) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.database.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD 'tulip-first'")
    outbox.database.execute(f"GRANT SELECT ON outbox TO {ROLE}")
    file = tmp_path / "dsn"
    file.write_text(make_conninfo(outbox.database.dsn, user=ROLE, password="tulip-first"))
    relay = outbox.relay(database=None, http=True, env={"CDC_OUTBOX_DSN_FILE": str(file), **unit.environment})
    relay.wait_for_log("streaming")

    outbox.database.execute(f"ALTER ROLE {ROLE} PASSWORD 'crocus-second'")
    terminate_walsender(outbox.database)
    eventually(
        lambda: document(relay)["last_error_code"] == "postgres-login-refused",
        "the relay warns",
        seconds=SHOWN_SECONDS,
    )
    reasons = document(relay)["reasons"]
    assert isinstance(reasons, list)
    assert [reason["code"] for reason in reasons] == ["postgres-disconnected"]
    assert reasons[0]["cure"].startswith(str(document(relay)["last_error_cure"]))
    screens_agree(relay, outbox, unit, "warning", "The connection to PostgreSQL was lost: .*password")

    file.write_text(make_conninfo(outbox.database.dsn, user=ROLE, password="crocus-second"))
    screens_are_well(relay, outbox, unit)


def test_poison_ends_the_relay_with_its_code_or_is_a_warning_of_a_relay_that_is_well(
    outbox: Outbox, unit: Unit
) -> None:
    outbox.create()
    outbox.create_slot()
    relay = outbox.streaming(http=True, env=unit.environment)
    outbox.add(id=None)
    assert ended(relay, 65, "--on-poison skip")["code"] == "no-id"
    screens_show_no_relay(relay, outbox, unit, "stopped: ")

    relay = outbox.streaming("--on-poison", "skip", http=True, env=unit.environment)
    outbox.confirm()
    screens_are_well(relay, outbox, unit)
    [warning] = json.loads(get(relay, "/page.json"))["warnings"]
    assert (warning["event"], warning["code"], warning["over"]) == ("poison", "no-id", False)
    assert metrics(relay)['events_skipped_total{reason="no-id"}'] == 1


def test_a_terminal_that_closes_ends_the_relay_with_0(outbox: Outbox, unit: Unit) -> None:
    outbox.create()
    outbox.create_slot()
    ours, theirs = pty.openpty()
    port = free_port()
    settings = {"CDC_OUTBOX_DSN": outbox.database.dsn, "CDC_OUTBOX_BROKERS": outbox.kafka.brokers, **unit.environment}
    options = ("--http", f"127.0.0.1:{port}", "--topic", outbox.prefix + "{aggregatetype}")
    with subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", "run", *options],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(settings),
    ) as running:
        os.close(theirs)
        try:
            eventually(lambda: (slot := outbox.slot()) is not None and slot["active"], "it streams")
            outbox.confirm()
            os.close(ours)
            running.send_signal(signal.SIGHUP)
            assert running.wait(20) == 0
        finally:
            running.kill()
    command = run_command("status", "--http", f"127.0.0.1:{port}", dsn=outbox.database.dsn)
    assert command.stdout.startswith("health          warning: No relay streams from the slot")
    assert unit.line == "stopped"

    second = outbox.streaming(http=True, env=unit.environment)
    screens_are_well(second, outbox, unit)


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
