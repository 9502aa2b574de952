"""How far long work has come: a bar below the log on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import structlog

from cdc_outbox.counters import Counters, State
from cdc_outbox.observe import logs
from cdc_outbox.observe.bar import Bar, Work, drawn

from .conftest import Lines, Terminal


def screen(terminal: Terminal) -> list[str]:
    """The lines that a person sees."""
    lines = [""]
    for part in terminal.getvalue().replace("\r\x1b[K", "\0").replace("\n", "\n\1").split("\1"):
        lines[-1] = (lines[-1] + part).rpartition("\0")[2] if "\0" in part else lines[-1] + part
        lines.append("")
    return [line.rstrip("\n") for line in lines if line]


def test_a_first_start_is_a_bar_that_stays_below_the_log_and_goes_when_it_is_done(terminal: Terminal) -> None:
    logs.configure("console", "info", stream=terminal)
    counters = Counters(snapshot_expected=2000, snapshot_rows=500)
    bar = Bar(counters)
    bar.tick(1.0)
    assert screen(terminal) == ["snapshot  [#######-----------------------]  500 of 2,000"]
    structlog.get_logger().info("hello")
    first, last = screen(terminal)
    assert "hello" in first
    assert last.startswith("snapshot")
    counters.snapshot_rows = 2000
    bar.tick(2.0)
    assert len(screen(terminal)) == 1
    assert "hello" in screen(terminal)[0]


def test_a_drain_is_a_bar_of_what_was_in_flight_when_it_began(terminal: Terminal) -> None:
    logs.configure("console", "info", stream=terminal)
    counters = Counters(state=State.STREAMING, in_flight_events=400)
    bar = Bar(counters)
    bar.tick(1.0)
    assert screen(terminal) == []
    counters.state = State.DRAINING
    bar.tick(2.0)
    counters.in_flight_events = 100
    bar.tick(3.0)
    assert screen(terminal) == [drawn(Work("drain", 300, 400))]
    counters.state = State.STOPPED
    bar.tick(4.0)
    assert screen(terminal) == []


def test_elsewhere_a_drain_is_a_line_every_five_seconds_and_no_bar(json_lines: Lines) -> None:
    bar = Bar(Counters(state=State.DRAINING, in_flight_events=7))
    for second in range(13):
        bar.tick(float(second))
    assert [(line["event"], line["in_flight"], line["of"]) for line in json_lines()] == [("drain.progress", 7, 7)] * 2


def test_a_first_start_has_lines_of_its_own_elsewhere(json_lines: Lines) -> None:
    bar = Bar(Counters(snapshot_expected=10))
    for second in range(13):
        bar.tick(float(second))
    assert json_lines() == []


def test_a_terminal_that_is_gone_ends_nothing(terminal: Terminal) -> None:
    logs.configure("console", "info", stream=terminal)
    counters = Counters(snapshot_expected=2000)
    bar = Bar(counters)
    bar.tick(1.0)
    terminal.close()
    structlog.get_logger().info("hello")
    counters.snapshot_rows = 10
    bar.tick(2.0)
