"""Promises of the log: one readable object a line, no secret, no flood, the cure beside the error."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import structlog

from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import Secret
from cdc_outbox.errors import ConfigurationError, ConnectionLost
from cdc_outbox.observe import Versions, logs

from .conftest import Lines, Terminal

log = structlog.get_logger()


def test_every_line_is_a_json_object_that_begins_with_timestamp_level_and_event(json_lines: Lines) -> None:
    log.info("streaming", slot="cdc_outbox", lsn="0/16B3748")

    [line] = json_lines()
    assert list(line) == ["timestamp", "level", "event", "slot", "lsn"]
    assert (line["level"], line["event"], line["slot"], line["lsn"]) == ("info", "streaming", "cdc_outbox", "0/16B3748")


def test_the_timestamp_is_iso_in_utc(json_lines: Lines) -> None:
    log.info("streaming")

    timestamp = str(json_lines()[0]["timestamp"])
    assert timestamp.endswith("Z")
    assert abs(datetime.fromisoformat(timestamp) - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_lsn_that_is_an_integer_is_written_as_postgres_writes_it(json_lines: Lines) -> None:
    log.info("streaming", lsn=0x16B3748, confirmed_lsn=1 << 32, rows=7)

    [line] = json_lines()
    assert (line["lsn"], line["confirmed_lsn"], line["rows"]) == ("0/16B3748", "1/0", 7)


def test_any_value_becomes_a_line(json_lines: Lines) -> None:
    log.info(
        "poison",
        key=b"\xffk",
        id=UUID(int=1),
        tables={"a"},
        nested={1: (None, 1.5)},
        half="\ud800",
        huge=1 << 70,
        secret=Secret.of("x"),
        text="line\nbreak",
        cure=None,
    )

    [line] = json_lines()
    assert line["key"] == "\\xffk"
    assert line["id"] == str(UUID(int=1))
    assert line["tables"] == ["a"]
    assert line["nested"] == {"1": [None, 1.5]}
    assert line["huge"] == 1 << 70
    assert line["secret"] == "***"
    assert line["text"] == "line\nbreak"
    assert "cure" not in line


def test_a_long_value_is_cut(json_lines: Lines) -> None:
    log.info("poison", key="k" * 100_000)

    assert str(json_lines()[0]["key"]).startswith("k" * logs.MAX_VALUE_CHARACTERS + "… (100000 characters)")


def test_secrets_are_masked_in_any_value_and_under_any_telling_name(json_lines: Lines) -> None:
    log.warning(
        "kafka.unreachable",
        error="cannot log in with sasl.password=s3cr3t",
        password="s3cr3t",
        settings={"sasl.password": "s3cr3t", "acks": "all"},
        servers=["postgresql://relay:s3cr3t@db/shop"],
    )

    [line] = json_lines()
    assert "s3cr3t" not in json.dumps(line)
    assert line["settings"] == {"sasl.password": "***", "acks": "all"}
    assert line["servers"] == ["postgresql://relay:***@db/shop"]


def test_a_secret_in_a_traceback_is_masked(json_lines: Lines) -> None:
    conninfo = "host=db password=" + "s3cr3t"
    try:
        int(conninfo)
    except ValueError:
        log.exception("stopped")

    [line] = json_lines()
    assert "Traceback" in str(line["exception"])
    assert "password=***" in str(line["error"])
    assert "s3cr3t" not in str(line["exception"])


def test_own_errors_have_message_place_and_cure_without_a_traceback(json_lines: Lines) -> None:
    error = ConfigurationError("no such publication", cure="cdc-outbox sql install", publication="cdc_outbox", lsn=1)
    log.error("stopped", exc_info=error, slot="cdc_outbox")

    [line] = json_lines()
    assert line["error"] == "no such publication"
    assert line["cure"] == "cdc-outbox sql install"
    assert (line["publication"], line["lsn"], line["slot"]) == ("cdc_outbox", "0/1", "cdc_outbox")
    assert line["level"] == "error"
    assert "exception" not in line


def test_an_error_given_as_a_field_is_put_into_words(json_lines: Lines) -> None:
    log.warning("postgres.disconnected", error=ConnectionLost("the server went away", host="db"))
    log.warning("http.failed", error=OSError("no route"))

    ours, other = json_lines()
    assert (ours["error"], ours["host"]) == ("the server went away", "db")
    assert other["error"] == "OSError: no route"
    assert "cure" not in ours
    assert "exception" not in other


def test_an_unexpected_error_has_a_traceback_without_values_of_variables(json_lines: Lines) -> None:
    payload = "not for " + "the log"
    try:
        len(payload) / 0
    except ZeroDivisionError:
        log.exception("stopped")

    [line] = json_lines()
    assert "len(payload) / 0" in str(line["exception"])
    assert line["error"] == "ZeroDivisionError: division by zero"
    assert payload not in json.dumps(line)


@pytest.mark.parametrize("logger", ["psycopg", "asyncio"])
def test_a_library_s_line_comes_in_the_same_format(json_lines: Lines, logger: str) -> None:
    logging.getLogger(logger).warning("error ignored in %s: password=%s", "close", "s3cr3t")

    [line] = json_lines()
    assert list(line) == ["timestamp", "level", "event", "message", "logger"]
    assert (line["level"], line["event"], line["logger"]) == ("warning", "library", logger)
    assert line["message"] == "error ignored in close: password=***"


def test_psycopg_s_own_line_comes_in_the_same_format(json_lines: Lines) -> None:
    import psycopg

    with pytest.raises(psycopg.OperationalError):
        psycopg.connect("host=127.0.0.1 port=1 dbname=x password=s3cr3t connect_timeout=1")

    lines = json_lines()
    assert any("connection attempt" in str(line["message"]) for line in lines)
    assert all(line["event"] == "library" and str(line["logger"]).startswith("psycopg") for line in lines)
    assert "s3cr3t" not in json.dumps(lines)


def test_a_warning_of_python_is_a_line_too(json_lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)

    assert json_lines()[0]["logger"] == "py.warnings"


def test_lines_below_the_level_are_not_written(restored_logging: None) -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream=stream)
    log.info("streaming")
    logging.getLogger("psycopg").info("quiet")
    log.warning("backpressure")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["backpressure"]


def test_a_second_configure_replaces_the_first(restored_logging: None) -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("json", "info", stream=first)
    log.info("started")
    logs.configure("console", "info", stream=second)
    log.info("streaming")

    assert "streaming" not in first.getvalue()
    assert second.getvalue().count("\n") == 1


@pytest.mark.parametrize(("log_format", "log_level"), [("xml", "info"), ("json", "loud"), ("json", "INFO ")])
def test_an_unknown_format_or_level_is_a_configuration_error(log_format: str, log_level: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        logs.configure(log_format, log_level)

    assert "--log-format" in caught.value.cure


def test_auto_is_json_when_stderr_is_no_terminal(restored_logging: None) -> None:
    stream = io.StringIO()
    logs.configure("auto", "info", stream=stream)
    log.info("started")

    assert json.loads(stream.getvalue())["event"] == "started"


def test_auto_is_readable_and_coloured_on_a_terminal(terminal: Terminal) -> None:
    logs.configure("auto", "info", stream=terminal)
    log.info("streaming", slot="cdc_outbox", lsn=1)

    text = terminal.getvalue()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert re.fullmatch(r"\S+Z \[info +\] streaming +slot=cdc_outbox lsn=0/1\n", plain)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_color_is_respected(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    logs.configure("auto", "info", stream=terminal)
    log.warning("backpressure")

    assert "backpressure" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_a_key_cannot_write_lines_or_escape_sequences_of_its_own(terminal: Terminal) -> None:
    logs.configure("console", "info", stream=terminal)
    log.info("poison", key="\x1b[2Jcleared\n2025-01-01 [info] forged")

    assert terminal.getvalue().count("\n") == 1
    assert "\x1b[2J" not in terminal.getvalue()


def test_the_console_shows_the_cure_and_for_bugs_a_traceback_without_locals(terminal: Terminal) -> None:
    logs.configure("console", "info", stream=terminal)
    payload = "not for " + "the log"
    try:
        len(payload) / 0
    except ZeroDivisionError:
        log.exception("stopped")
    log.error("stopped", error=ConfigurationError("no slot", cure="cdc-outbox slot create"))

    text = terminal.getvalue()
    assert "Traceback (most recent call last)" in text
    assert payload not in text
    assert "cdc-outbox slot create" in text
    assert "╭" not in text


def test_the_started_line_names_versions_source_and_target_but_no_password() -> None:
    settings = Settings(brokers="kafka:9092", dsn=Secret.of("postgresql://relay:s3cr3t@db/shop"))
    fields = logs.started_fields(settings, Versions("0.1.0", "3.13.1", "2.16.1", "18.6"))

    assert fields == {
        "version": "0.1.0",
        "python": "3.13.1",
        "librdkafka": "2.16.1",
        "libpq": "18.6",
        "dsn": "postgresql://relay:***@db/shop",
        "slot": "cdc_outbox",
        "publication": "cdc_outbox",
        "tables": ["public.outbox"],
        "brokers": "kafka:9092",
        "topic": "outbox.event.{aggregatetype}",
        "http": "127.0.0.1:8420",
    }


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def _record(event: str, level: int = logging.WARNING, **fields: object) -> logging.LogRecord:
    return logging.LogRecord("cdc_outbox", level, "", 0, {"event": event, **fields}, None, None)  # type: ignore[arg-type]


def test_a_repeated_warning_is_shown_at_once_and_then_every_ten_seconds_with_the_number_left_out() -> None:
    clock = Clock()
    repeats = logs.RepeatFilter(clock)

    assert repeats.filter(_record("kafka.unreachable", error="no route"))
    for _ in range(7):
        clock.now += 1
        assert not repeats.filter(_record("kafka.unreachable", error="no route"))
    clock.now += 3
    again = _record("kafka.unreachable", error="no route")
    assert repeats.filter(again)
    assert again.msg == {"event": "kafka.unreachable", "error": "no route", "suppressed": 7}  # type: ignore[comparison-overlap]
    clock.now += 10
    later = _record("kafka.unreachable", error="no route")
    assert repeats.filter(later)
    assert "suppressed" not in later.msg


def test_what_differs_in_milliseconds_only_is_a_repeat() -> None:
    repeats = logs.RepeatFilter(Clock())
    assert repeats.filter(_record("kafka.error", error="Login failed (after 308ms in state AUTH_REQ)"))
    assert not repeats.filter(_record("kafka.error", error="Login failed (after 31ms in state AUTH_REQ)"))
    assert repeats.filter(_record("kafka.error", error="Login failed (after 31ms in state CONNECT)"))


@pytest.mark.parametrize(
    "other",
    [
        _record("kafka.unreachable", error="refused"),
        _record("kafka.unreachable", logging.ERROR, error="no route"),
        _record("delivery.failed", error="no route"),
        _record("kafka.unreachable", error="no route", topic="outbox.event.order"),
        _record("kafka.unreachable", error="no route", table="public.outbox"),
        _record("kafka.unreachable", error="no route", prefix="outbox"),
    ],
)
def test_another_error_level_event_or_subject_is_no_repeat(other: logging.LogRecord) -> None:
    repeats = logs.RepeatFilter(Clock())

    assert repeats.filter(_record("kafka.unreachable", error="no route"))
    assert repeats.filter(other)


@pytest.mark.parametrize(("end", "begin"), logs.ENDS.items())
def test_a_condition_that_begins_again_after_its_end_was_logged_is_no_repeat(end: str, begin: str) -> None:
    repeats = logs.RepeatFilter(Clock())
    other = _record("postgres.disconnected", error="no route")

    assert repeats.filter(_record(begin, error="no route"))
    assert repeats.filter(other)
    assert repeats.filter(_record(end, logging.INFO))
    assert repeats.filter(_record(begin, error="no route"))
    assert not repeats.filter(_record(begin, error="no route"))
    assert not repeats.filter(other)


def test_information_is_never_held_back() -> None:
    repeats = logs.RepeatFilter(Clock())

    assert all(repeats.filter(_record("summary", logging.INFO)) for _ in range(5))


def test_every_event_that_was_skipped_is_on_record() -> None:
    repeats = logs.RepeatFilter(Clock())

    assert all(repeats.filter(_record("poison", error="no topic", id=str(number))) for number in range(5))


def test_errors_that_never_repeat_do_not_fill_memory() -> None:
    repeats = logs.RepeatFilter(Clock())
    for number in range(3 * logs.REMEMBERED_REPEATS):
        assert repeats.filter(_record("delivery.failed", error=str(number)))

    assert len(repeats._seen) <= logs.REMEMBERED_REPEATS


def test_a_library_that_repeats_itself_is_limited_as_well(json_lines: Lines) -> None:
    for _ in range(5):
        logging.getLogger("asyncio").error("task failed")

    assert len(json_lines()) == 1


def test_the_line_has_the_number_of_suppressed_ones(restored_logging: None, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(logs.RepeatFilter.__init__, "__defaults__", (clock,))
    stream = io.StringIO()
    logs.configure("json", "info", stream=stream)
    for step in (0, 1, 1, 10):
        clock.now += step
        log.warning("backpressure", error="queue full")
        logging.getLogger("psycopg").warning("hm")

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("suppressed")) for line in lines] == [
        ("backpressure", None),
        ("library", None),
        ("backpressure", 2),
        ("library", 2),
    ]


def test_lines_of_several_threads_do_not_mix(json_lines: Lines) -> None:
    def write() -> None:
        for number in range(200):
            log.info("summary", number=number)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(json_lines()) == 800


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("reentrant call"), ValueError()]
)
def test_a_line_that_cannot_be_written_does_not_end_the_relay(
    restored_logging: None, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    class Broken(io.StringIO):
        def write(self, _text: str) -> int:
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    logs.configure("json", "info")
    log.info("streaming")


def test_the_lines_go_to_stderr_and_nothing_to_stdout() -> None:
    code = "import structlog; from cdc_outbox.observe import logs; "
    code += "logs.configure('auto', 'info'); structlog.get_logger().info('started')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert json.loads(done.stderr)["event"] == "started"
    assert done.stdout == ""
