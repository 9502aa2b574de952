"""Commands run in this process, in an environment that holds nothing of the machine's own settings."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cdc_outbox.cli import cli
from cdc_outbox.config import redaction

Invoke = Callable[..., Result]
OpenWhenRead = Callable[[Path, subprocess.Popen[str]], AbstractContextManager[None]]

DEADLINE_SECONDS = 20


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("CDC_OUTBOX_", "PG")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(redaction, "_known", set())


@pytest.fixture
def invoke() -> Invoke:
    """Run one command line, with these environment variables set."""

    def run(*arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(cli, list(arguments), env=environment)

    return run


@pytest.fixture
def show(invoke: Invoke) -> Callable[..., dict[str, dict[str, dict[str, str | None]]]]:
    """What `config show --json` says."""

    def run(*arguments: str, **environment: str) -> dict[str, dict[str, dict[str, str | None]]]:
        result = invoke("config", "show", "--json", *arguments, **environment)
        assert result.exit_code == 0, result.output
        document: dict[str, dict[str, dict[str, str | None]]] = json.loads(result.stdout)
        return document

    return run


@pytest.fixture
def open_when_read() -> OpenWhenRead:
    """Open a named pipe for writing as soon as a child reads from it: then the child is where it reads."""

    @contextmanager
    def opened(pipe: Path, child: subprocess.Popen[str]) -> Iterator[None]:
        until = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # ENXIO: nobody reads yet
                assert child.poll() is None, "the command ended before it read the pipe"
                assert time.monotonic() < until, "the command never read the pipe"
                time.sleep(0.01)
        try:
            yield
        finally:
            os.close(descriptor)

    return opened


@pytest.fixture
def toml(tmp_path: Path) -> Callable[[str], str]:
    """Write a TOML file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "cdc-outbox.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write
