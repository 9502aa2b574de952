"""The table of `status`: what is wrong comes first and is marked."""

from __future__ import annotations

import inspect
import re

import pytest

from cdc_outbox.cli.status import _CONCERNS, _lines, _shown
from cdc_outbox.commands.status import StatusReport
from cdc_outbox.observe import health
from cdc_outbox.observe.health import judged
from cdc_outbox.observe.status_document import StatusDocument, seconds_until_lost


@pytest.mark.parametrize(
    ("wal_status", "safe", "rate", "text"),
    [
        ("reserved", 10 << 30, 1e6, "10.0 GiB of WAL; 2 h at the present rate, if it stood still"),
        ("reserved", 10 << 30, 0.0, "10.0 GiB of WAL; nothing is written now"),
        ("reserved", 10 << 30, None, "10.0 GiB of WAL; the rate is not known yet"),
        ("unreserved", -4096, 1.0, "0 bytes of WAL; 0 s at the present rate, if it stood still"),
        ("reserved", None, 1.0, "no limit is set (max_slot_wal_keep_size)"),
        ("lost", None, None, "it is lost"),
        (None, None, None, "unknown"),
    ],
)
def test_the_time_until_the_slot_is_lost(wal_status: str, safe: int, rate: float, text: str) -> None:
    document = StatusDocument(
        None,
        "s",
        "p",
        ("public.outbox",),
        wal_status=wal_status,
        safe_wal_bytes=safe,
        seconds_until_lost=seconds_until_lost(safe, rate),
        wal_bytes_per_second=rate,
    )

    assert dict(_lines(StatusReport(document, "no relay answers", False, None)))["until lost"] == text


def test_control_characters_of_others_do_not_reach_the_terminal() -> None:
    document = StatusDocument(None, "s", "p", (), last_error="no \x1b[31mred")

    assert dict(_lines(StatusReport(document, "no relay answers", False, None)))["last error"] == r"'no \x1b[31mred'"


IN_TROUBLE = judged(
    StatusDocument(
        "streaming",
        "s",
        "p",
        (),
        wal_status="unreserved",
        in_flight_events=7,
        in_flight_bytes=700,
        kafka_connected=True,
        kafka_since="2026-01-05T09:30:00Z",
        kafka_error="timed out",
        unconfirmed_seconds=35.2,
    ),
    str,
)


def shown(document: StatusDocument) -> list[str]:
    return _shown(StatusReport(document, "the relay at :8420 is streaming", True, None), as_json=False).splitlines()


def test_problems_come_first_with_their_cure_and_mark_their_line() -> None:
    lines = shown(IN_TROUBLE)

    assert lines[0].startswith("health          critical: The slot is lost at the next checkpoint")
    assert lines[1].startswith("                cure: correct what blocks the relay; this SQL buys time")
    assert lines[2].startswith("                warning: Kafka has confirmed nothing for 35 s, with 7 events in flight")
    assert "in flight       7 events, 700 bytes; nothing confirmed for 35 s  [warning]" in lines
    assert "Kafka           connected since 2026-01-05T09:30:00Z; last error: timed out" in lines
    assert [line for line in lines if line.startswith("WAL kept") and line.endswith("  [critical]")]
    assert "\x1b" not in "".join(lines)


def test_on_a_terminal_what_is_wrong_has_a_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert shown(IN_TROUBLE)[0].startswith("health          \x1b[1;31mcritical: ")
    assert shown(judged(StatusDocument("streaming", "s", "p", ()), str))[0] == "health          \x1b[32mok\x1b[0m"

    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in "".join(shown(IN_TROUBLE))


def test_every_reason_marks_a_line_that_exists() -> None:
    names = {name for name, _ in _lines(StatusReport(IN_TROUBLE, "", True, None))}
    source = inspect.getsource(health)

    assert set(re.findall(r'Reason\(\s*"([a-z-]+)"', source)) == set(_CONCERNS)
    assert {line for lines in _CONCERNS.values() for line in lines} <= names
