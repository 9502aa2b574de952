"""What systemd hears, and when."""

from __future__ import annotations

import itertools
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cdc_outbox.counters import Counters, State, TopicCounters
from cdc_outbox.observe import systemd
from cdc_outbox.observe.health import STUCK_AFTER_SECONDS
from cdc_outbox.observe.systemd import STATUS_SECONDS, Systemd, from_environment
from cdc_outbox.shutdown import Stop

from .conftest import Lines

WATCHDOG_SECONDS = 30.0


@dataclass
class Unit:
    """Systemd's side: what arrived since the last look. `deaf`: nothing gets through."""

    counters: Counters = field(default_factory=lambda: Counters(kafka_connected=True))
    stop: Stop = field(default_factory=Stop)
    arrived: list[str] = field(default_factory=list)
    deaf: bool = False

    def send(self, message: str) -> bool:
        if not self.deaf:
            self.arrived.append(message)
        return not self.deaf

    def told(self, watchdog_seconds: float | None = None) -> Systemd:
        return Systemd(self.counters, self.stop, self.send, wall=lambda: 1000.0, watchdog_seconds=watchdog_seconds)

    def heard(self) -> list[str]:
        heard, self.arrived = self.arrived, []
        return heard


@pytest.fixture
def unit() -> Unit:
    return Unit()


@pytest.mark.parametrize("state", [State.STREAMING, State.STANDBY])
def test_ready_is_sent_once_when_it_streams_or_stands_by_and_not_before(unit: Unit, state: State) -> None:
    told = unit.told()
    told.tick(1)
    assert unit.heard() == ["STATUS=starting, 0 events/s, lag 0.0 s"]
    unit.counters.state = state
    told.tick(2)
    assert unit.heard() == ["READY=1", f"STATUS={state}, 0 events/s, lag 0.0 s"]
    told.tick(3)
    assert unit.heard() == []


def test_what_was_not_sent_is_sent_again(unit: Unit) -> None:
    told = unit.told(WATCHDOG_SECONDS)
    unit.counters.state, unit.deaf = "streaming", True
    told.tick(100)
    unit.deaf = False
    told.tick(101)
    assert unit.heard() == ["READY=1", "WATCHDOG=1", "STATUS=streaming, 0 events/s, lag 0.0 s"]


def test_watchdog_messages_come_within_the_interval_and_end_when_the_loop_is_stuck(unit: Unit) -> None:
    told = unit.told(WATCHDOG_SECONDS)
    heard_at = []
    for second in range(100, 220):
        if second < 160:
            unit.counters.last_turn_monotonic = float(second)
        told.tick(second)
        if "WATCHDOG=1" in unit.heard():
            heard_at.append(second)
    gaps = [later - earlier for earlier, later in itertools.pairwise(heard_at)]
    assert heard_at[0] == 100
    assert max(gaps) <= WATCHDOG_SECONDS / 2
    assert heard_at[-1] <= 159 + STUCK_AFTER_SECONDS


def test_without_a_watchdog_no_watchdog_message_is_sent(unit: Unit) -> None:
    told = unit.told()
    for second in range(100):
        told.tick(second)
    assert "WATCHDOG=1" not in unit.heard()


def test_status_has_rate_and_lag_and_is_renewed_every_few_seconds(unit: Unit) -> None:
    unit.counters.state = State.STREAMING
    unit.counters.topics["a"] = TopicCounters(delivered=50)
    unit.counters.oldest_unacknowledged_timestamp = 998.5
    told = unit.told()
    told.tick(10)
    unit.heard()
    unit.counters.topics["a"].delivered += 120
    told.tick(10 + STATUS_SECONDS - 1)
    assert unit.heard() == []
    told.tick(10 + STATUS_SECONDS)
    assert unit.heard() == ["STATUS=streaming, 12 events/s, lag 1.5 s"]


def test_status_has_what_prevents_streaming_on_one_line_without_a_password(unit: Unit) -> None:
    unit.counters.last_error = "no answer from postgresql://relay:sesame99@db/shop\nREADY=1"
    unit.told().tick(1)
    (line,) = unit.heard()
    assert line.startswith("STATUS=warning: The relay has not streamed yet: no answer from")
    assert "sesame99" not in line
    assert "\n" not in line


def test_a_stop_is_notified_at_once_and_only_once(unit: Unit) -> None:
    unit.counters.state = State.STREAMING
    told = unit.told()
    told.tick(1)
    unit.heard()
    unit.stop.request()
    told.tick(2)
    assert unit.heard() == ["STOPPING=1", "STATUS=draining, 0 events/s, lag 0.0 s"]
    told.end()
    assert unit.heard() == ["STATUS=stopped"]


def test_an_end_by_an_error_is_notified_with_the_error(unit: Unit) -> None:
    unit.counters.last_error = "the slot is lost"
    unit.told().end()
    assert unit.heard() == ["STOPPING=1", "STATUS=stopped: the slot is lost"]


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_reach_the_socket_that_the_environment_names(tmp_path: Path, abstract: bool) -> None:
    unique = f"cdc-outbox-test-{os.getpid()}"
    name = f"@{unique}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{unique}" if abstract else name)
        listening.settimeout(5)
        told = from_environment({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "30000000"}, Counters(), Stop())
        assert told is not None
        told.tick(100)
        assert [listening.recv(1000) for _ in range(2)] == [b"WATCHDOG=1", b"STATUS=starting, 0 events/s, lag 0.0 s"]


def test_nothing_is_sent_without_the_variable() -> None:
    assert from_environment({}, Counters(), Stop()) is None
    assert from_environment({"NOTIFY_SOCKET": ""}, Counters(), Stop()) is None


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_of_another_process_is_ignored(environ: dict[str, str], seconds: float | None) -> None:
    assert systemd._watchdog_seconds(environ) == seconds


def test_a_socket_that_is_gone_costs_one_line_and_nothing_else(tmp_path: Path, json_lines: Lines) -> None:
    told = from_environment({"NOTIFY_SOCKET": str(tmp_path / "gone")}, Counters(), Stop())
    assert told is not None
    for second in range(5):
        told.tick(second)
    told.end()
    (line,) = json_lines()
    assert (line["event"], line["level"]) == ("systemd.unreachable", "warning")
