"""Logging as `configure` leaves it, undone after the test."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator

import pytest
import structlog

from cdc_outbox.observe import logs

Lines = Callable[[], list[dict[str, object]]]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, psycopg_level = root.handlers[:], root.level, logging.getLogger("psycopg").level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("psycopg").setLevel(psycopg_level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def json_lines(restored_logging: None) -> Lines:
    """Configures JSON at debug level; gives the lines that were written, parsed."""
    stream = io.StringIO()
    logs.configure("json", "debug", stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def terminal(restored_logging: None, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Terminal()
