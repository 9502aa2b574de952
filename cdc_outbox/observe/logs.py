"""Logs: one event a line on stderr, as JSON or for a terminal, from this package and from libraries.

In: `structlog.get_logger().info("streaming", slot=…, lsn=…)` from any module; the stdlib records of psycopg and
confluent_kafka. Out: lines that begin with `timestamp`, `level`, `event` (docs/reference/logs.md lists the events).
An error is logged as `error=` (the exception itself) or by `log.exception`: a CdcOutboxError becomes its message, cure and
place; any other becomes a traceback, without the values of variables.
Never: a secret (`mask`), a payload, a value of more than a kilobyte, the same warning twice in ten seconds.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Final, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor

from cdc_outbox.config.redaction import MASK, masked_dsn
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import CdcOutboxError, ConfigurationError
from cdc_outbox.lsn import format_lsn
from cdc_outbox.observe import Versions
from cdc_outbox.observe.mask import mask, names_secret
from cdc_outbox.observe.recent import RecentWarnings

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("auto", "console", "json")

REPEAT_SECONDS: Final = 10.0
"""Interval at which a repeated warning is logged: often enough to show that it lasts, without filling the disk."""

REMEMBERED_REPEATS: Final = 1000
"""Different warnings remembered at a time; the limit prevents a memory leak by texts that never repeat."""

MAX_VALUE_CHARACTERS: Final = 1000
"""Characters of one field: keys and a server's messages may be of any length."""

MAX_TRACEBACK_CHARACTERS: Final = 20_000
"""Characters of a traceback, from its end: an endless recursion has a thousand frames, with the error below them."""

_LIMITED_LEVELS: Final = ("warning", "error", "critical")


RECENT: Final = RecentWarnings()
"""The latest warnings of this process."""


def configure(
    log_format: str, log_level: str, *, stream: TextIO | None = None, complete: Callable[[str], str] = str
) -> None:
    """Send every log line of this process to `stream` (stderr). `complete`: completes a cure's commands.

    May be called again: the last call applies, also to existing loggers.
    Raises ConfigurationError for an unknown format or level.
    """
    if log_format not in FORMATS or log_level not in LEVELS:
        raise ConfigurationError(
            "unknown log format or level",
            code="log-format",
            cure=f"--log-format {'|'.join(FORMATS)}, --log-level {'|'.join(LEVELS)}",
        )
    stream = sys.stderr if stream is None else stream
    level = logging.getLevelNamesMapping()[log_level.upper()]

    def complete_cure(_logger: object, _method: str, fields: EventDict) -> EventDict:
        if fields.get("cure"):
            fields["cure"] = complete(str(fields["cure"]))
        return fields

    stamp = (
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        describe_error,
        complete_cure,
    )
    structlog.configure(
        processors=[*stamp, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: logging.getLogger("cdc_outbox"),
        cache_logger_on_first_use=False,  # no line is on the path of an event, and a second configure() must reach all
    )
    handler = _Handler(stream, terminal=_is_console(log_format, stream) and stream.isatty())
    handler.addFilter(RepeatFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_library_line, *stamp],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(log_format, stream)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [other for other in root.handlers if not isinstance(other, _Handler)] + [handler]
    root.setLevel(level)
    logging.getLogger("psycopg").setLevel(level)  # it sets its own to WARNING otherwise
    logging.captureWarnings(True)


def started_fields(settings: Settings, versions: Versions) -> dict[str, object]:
    """The fields of the `started` line: what runs, where it reads, where it writes. The DSN without its password."""
    return {
        "version": versions.version,
        "python": versions.python,
        "librdkafka": versions.librdkafka,
        "libpq": versions.libpq,
        "dsn": masked_dsn(settings.dsn.reveal()) or "libpq environment",
        "slot": settings.slot,
        "publication": settings.publication,
        "tables": [str(table) for table in settings.tables],
        "brokers": mask(settings.brokers),
        "topic": settings.topic,
        "http": settings.http,
    }


_ABOUT: Final = ("event", "error", "topic", "table", "prefix")
"""The fields in which equal lines agree: others vary from line to line, such as `seconds`."""

ENDS: Final = {
    "backpressure.ended": "backpressure",
    "delivery.resumed": "delivery.waiting",
    "kafka.reachable": "kafka.unreachable",
    "slot.safe": "slot.endangered",
    "topic.available": "topic.unavailable",
}
"""Lines that report the end of a condition, each with the line that reported its beginning."""

_SPENT: Final = re.compile(r"after \d+ms")
"""Parts that vary between equal errors of librdkafka."""


class RepeatFilter(logging.Filter):
    """Lets the first of equal warnings through, then one in `REPEAT_SECONDS`, with the number of `suppressed` lines.

    Equal: same level, event, error, topic, table and prefix, apart from the milliseconds in librdkafka's messages. Never
    a repeat: a line about one outbox event (it has an `id`), since each skipped event must be on record; and a condition
    whose end was logged, since it would have no line when it begins again. Two threads may both log a repeat; a lock would
    cost more than this line.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is shown; sets its `suppressed` if lines before it were suppressed."""
        fields: Mapping[str, object] = record.msg if isinstance(record.msg, dict) else {}
        self._forget_ended(str(fields.get("event")))
        if record.levelname.lower() not in _LIMITED_LEVELS or "id" in fields:
            return True
        now = self._clock()
        if fields:
            same = (record.levelname, *(str(fields.get(name)) for name in _ABOUT))
        else:
            same = (record.levelname, record.name, record.getMessage())
        same = tuple(_SPENT.sub("", part) for part in same)
        shown_at, suppressed = self._seen.get(same, (None, 0))
        if shown_at is not None and now - shown_at < REPEAT_SECONDS:
            self._seen[same] = (shown_at, suppressed + 1)
            return False
        self._forget(now)
        self._seen[same] = (now, 0)
        if suppressed:
            _note_suppressed(record, suppressed)
        return True

    def _forget_ended(self, event: str) -> None:
        if (begun := ENDS.get(event)) is not None:
            self._seen = {key: seen for key, seen in self._seen.copy().items() if key[1] != begun}

    def _forget(self, now: float) -> None:
        if len(self._seen) >= REMEMBERED_REPEATS:
            recent = {key: seen for key, seen in self._seen.copy().items() if now - seen[0] < REPEAT_SECONDS}
            self._seen = recent if len(recent) < REMEMBERED_REPEATS else {}


def describe_error(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Convert an exception to fields: `error`; for a CdcOutboxError `cure` and place, for any other caught one `exception`."""
    exc_info = fields.pop("exc_info", None)
    error = fields.get("error")
    caught = _caught(exc_info)
    exception = caught or (error if isinstance(error, BaseException) else None)
    if exception is None:
        return fields
    if isinstance(exception, CdcOutboxError):
        described: dict[str, object] = {"error": exception.message, "code": exception.code}
        described |= {**({"cure": exception.cure} if exception.cure else {}), **exception.where}
    else:
        described = {"error": f"{type(exception).__name__}: {exception}".removesuffix(": ")}
        if caught:
            fields["exception"] = "".join(traceback.format_exception(caught)).rstrip("\n")
    if isinstance(error, BaseException):
        del fields["error"]
    for name, value in described.items():
        fields.setdefault(name, value)
    return fields


def draw(text: str) -> bool:
    """Show a line below the log, where that is a terminal, until the next call; an empty one takes it away.

    False without a terminal or without a configured log.
    """
    drawing = [
        handler for handler in logging.getLogger().handlers if isinstance(handler, _Handler) and handler.draw(text)
    ]
    return bool(drawing)


_CLEAR: Final = "\r\x1b[K"
"""Return to the beginning of the line and erase it (ECMA-48: EL)."""


class _Handler(logging.StreamHandler[TextIO]):
    """This module's handler of the root logger."""

    def __init__(self, stream: TextIO, *, terminal: bool) -> None:
        super().__init__(stream)
        self._terminal = terminal
        self._below = ""

    def draw(self, text: str) -> bool:
        """Show `text` below the lines. False where that cannot be done."""
        if not self._terminal:
            return False
        self.acquire()
        try:
            if text != self._below:
                self._below = text
                self._put(_CLEAR + text)
        finally:
            self.release()
        return True

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line above what is drawn."""
        if not self._below:
            super().emit(record)
            return
        self._put(_CLEAR)
        super().emit(record)
        self._put(self._below)

    def _put(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal must not end the relay
            self.stream.write(text)
            self.flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name that logging chose
        """Go on without a line that cannot be written: a closed pipe, a full disk, a signal amid another line."""
        with contextlib.suppress(Exception):
            super().handleError(record)


def _caught(exc_info: object) -> BaseException | None:
    """The exception of stdlib's and structlog's forms of `exc_info`: a bool, an exception, a tuple."""
    if isinstance(exc_info, BaseException):
        return exc_info
    if isinstance(exc_info, tuple):
        return exc_info[1] if isinstance(exc_info[1], BaseException) else None
    return sys.exception() if exc_info else None


def _note_suppressed(record: logging.LogRecord, count: int) -> None:
    if isinstance(record.msg, dict):
        record.msg["suppressed"] = count
    else:
        record.__dict__["suppressed"] = count


def _library_line(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Convert a library's record: its text is a message, not the stable name of an event."""
    record: logging.LogRecord = fields["_record"]
    fields["message"] = fields["event"]
    fields["event"] = "library"
    fields["logger"] = record.name
    if "suppressed" in record.__dict__:
        fields["suppressed"] = record.__dict__["suppressed"]
    return fields


def _is_console(log_format: str, stream: TextIO) -> bool:
    """Whether lines are for a person."""
    return log_format == "console" or (log_format == "auto" and stream.isatty())


def _renderers(log_format: str, stream: TextIO) -> list[Processor]:
    if not _is_console(log_format, stream):
        return [_tidy, _remember, _render_json]
    colors = stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
    )
    return [_tidy, _remember, _printable, renderer]


def _tidy(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """`timestamp`, `level`, `event` first; plain, short values; no secret, and no empty field."""
    ordered = {name: _plain(name, fields.pop(name, None)) for name in ("timestamp", "level", "event")}
    exception = fields.pop("exception", None)
    ordered.update((name, _field(name, value)) for name, value in fields.items() if value is not None)
    if exception is not None:
        ordered["exception"] = mask(exception)[-MAX_TRACEBACK_CHARACTERS:]
    return ordered


def _remember(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Keep a warning for the status page: after the filter of repeats and the masking, so exactly as it was logged."""
    RECENT.note(fields)
    return fields


def _plain(name: str, value: object) -> object:
    """`value` as a JSON type. An integer called `lsn` or `…_lsn` gets PostgreSQL's notation."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return format_lsn(value) if name == "lsn" or name.endswith("_lsn") else value
    if isinstance(value, dict):
        return {str(key): _field(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(name, item) for item in value]
    return _text(value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value))


def _field(name: str, value: object) -> object:
    return MASK if names_secret(name) else _plain(name, value)


def _text(text: str) -> str:
    """Mask before the text is cut, since half a secret is not recognized; of a huge text, search only the beginning."""
    masked = mask(text[: 4 * MAX_VALUE_CHARACTERS])
    if len(text) <= MAX_VALUE_CHARACTERS:
        return masked
    return f"{masked[:MAX_VALUE_CHARACTERS]}… ({len(text)} characters)"


def _render_json(_logger: object, _method: str, fields: EventDict) -> str:
    try:
        return orjson.dumps(fields).decode()
    except orjson.JSONEncodeError:  # half of a surrogate pair, or an integer of more than 64 bits: log it all the same
        return json.dumps(fields)


def _printable(_logger: object, _method: str, fields: EventDict) -> EventDict:
    """Escape control characters, so that a key cannot send escape sequences to the terminal."""
    return {
        name: value if name == "exception" or not isinstance(value, str) or value.isprintable() else ascii(value)
        for name, value in fields.items()
    }
