"""docs/tutorial.md, typed from top to bottom on a real PostgreSQL and a real Kafka: three terminals, in its order."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
import sqlalchemy as sa

from tests.docs.pages import ROOT, Block, block, read
from tests.plugins.command import environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PAGE: Final = "docs/tutorial.md"
WHERE: Final = "export DSN="
INSTALL: Final = "python3 -m venv"
RELAY: Final = "cdc-outbox run"
CONSUMER: Final = "python rewards.py"
AGAIN: Final = "GROUP=again"
POINTS: Final = 'psql "$DSN" --no-align --tuples-only -c \'SELECT customer, points'
CLEAN_UP: Final = "cdc-outbox sql uninstall"
STAY: Final = (RELAY, CONSUMER, AGAIN)
"""What goes on in a terminal of its own until Ctrl-C."""


class Terminal:
    """A command that goes on, with what it prints on stdout."""

    def __init__(self, text: str, path: str, folder: Path, variables: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec env {text.strip()}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=environment({"PATH": path, "CDC_OUTBOX_HTTP": "off", **variables}),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(line.rstrip("\n") for line in self.process.stdout)

    def shows(self, expected: str) -> None:
        """Wait for these lines, in any order."""
        wanted = sorted(expected.splitlines())
        eventually(lambda: self._has(wanted), f"{wanted} instead of {self.lines}", seconds=60)

    def _has(self, wanted: list[str]) -> bool:
        assert self.process.poll() is None, self.process.stderr.read() if self.process.stderr else ""
        return len(self.lines) >= len(wanted)

    def ctrl_c(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(40)
        self._reader.join(10)
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe is not None
            pipe.close()
        return code


@contextlib.contextmanager
def closing(terminals: dict[str, Terminal]) -> Iterator[None]:
    try:
        yield
    finally:
        for terminal in terminals.values():
            if terminal.process.poll() is None:
                terminal.process.kill()
                terminal.ctrl_c()


def start_of(each: Block) -> str:
    return next((name for name in STAY if each.text.startswith(name)), "")


@pytest.mark.nightly
@pytest.mark.timeout(240)
def test_the_tutorial_from_top_to_bottom(
    database: Database, kafka: KafkaCluster, shell: Shell, tmp_path: Path, postgres_binaries: Path
) -> None:
    if kafka.server is None:
        pytest.skip("its topics have names that are not the test's own, and must be empty")
    parts = psycopg.conninfo.conninfo_to_dict(database.dsn)
    url = sa.URL.create(
        "postgresql",
        str(parts["user"]),
        str(parts["password"]),
        str(parts["host"]),
        int(parts["port"] or 0),
        database.name,
    )
    variables = {"DSN": url.render_as_string(hide_password=False), "BROKERS": kafka.brokers}
    path = f"{Path(sys.executable).parent}:{postgres_binaries}:{os.defpath}"
    terminals: dict[str, Terminal] = {}
    said = ""  # what the last command has printed, or its terminal's name
    with closing(terminals):
        for each in read(PAGE).blocks:
            if each.language == "python":
                (tmp_path / each.first_line.removeprefix("# ")).write_text(each.text, encoding="utf-8")
            elif each.language == "text":
                if said in terminals:
                    terminals[said].shows(each.text)
                    assert sorted(terminals[said].lines) == sorted(each.text.splitlines())
                else:
                    assert said == each.text
            elif name := start_of(each):
                if name == AGAIN:  # "Stop the consumer with Ctrl-C"
                    assert terminals[CONSUMER].ctrl_c() == 0, "without a traceback"
                terminals[name] = Terminal(each.text, path, tmp_path, variables)
                said = name
            elif each.text.startswith(CLEAN_UP):
                assert terminals[RELAY].ctrl_c() == 0, "Ctrl-C delivers, confirms, and ends"
                shell(each.text, **variables)
            elif not each.text.startswith((WHERE, INSTALL)):
                said = shell(each.text, **variables).stdout

    assert set(terminals) == set(STAY)
    assert database.execute("SELECT name FROM customers ORDER BY id") == [("Ada",), ("Grace",), ("Edsger",)]
    left = (
        "SELECT to_regclass('outbox'), (SELECT count(*) FROM pg_replication_slots WHERE database = current_database())"
    )
    assert database.execute(left) == [(None, 0)], "nothing is left behind"


def test_the_addresses_of_the_servers_are_those_of_compose() -> None:
    password = (ROOT / "deploy/compose/secrets/postgres-password").read_text(encoding="utf-8").strip()
    text = block(PAGE, "export DSN=postgresql://postgres:" + password + "@localhost/shop").text
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert "export BROKERS=localhost:9092" in text
    assert '"127.0.0.1:5432:5432"' in compose
    assert '"127.0.0.1:9092:9092"' in compose
