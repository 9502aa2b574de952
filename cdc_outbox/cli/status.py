"""`cdc-outbox status`: the slot, the lag, the kept WAL, and the relay's own state.

stdout is the table or the document; messages go to stderr. No logic: see `commands.status`.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from cdc_outbox.cli.options import (
    CONTEXT,
    ParsedText,
    SettingsCommand,
    complete_cure,
    dsn_option,
    option,
    publication_option,
    settings_of,
    slot_option,
    tables_option,
)
from cdc_outbox.config.value_types import SECONDS_OR_ZERO, SIZE, size_text

if TYPE_CHECKING:
    from cdc_outbox.commands.status import Limit, StatusReader, StatusReport
    from cdc_outbox.observe.status_document import StatusDocument
    from cdc_outbox.shutdown import Stop

WATCH_SECONDS: Final = 2.0
"""Between two reads of --watch: a short connection every two seconds is no load for a server."""

_HOME: Final = "\x1b[H\x1b[J"
"""Move to the terminal's first line, and erase everything below it."""

_EXAMPLE: Final = """\b
cdc-outbox status --max-lag-seconds 60 --max-wal-bytes 10GiB"""


@click.command("status", cls=SettingsCommand, context_settings=CONTEXT, epilog=_EXAMPLE)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, on one line (docs/reference/status.md).")
@click.option("--watch", is_flag=True, help=f"Repeat every {WATCH_SECONDS:.0f} s, until Ctrl-C or a limit is exceeded.")
@click.option(
    "--max-lag-seconds",
    type=ParsedText(SECONDS_OR_ZERO),
    help="End with 1 if the oldest unacknowledged commit is older, or if its age is unknown.",
)
@click.option("--max-wal-bytes", type=ParsedText(SIZE), help="End with 1 if the server keeps more WAL for the slot.")
@dsn_option
@slot_option
@publication_option
@tables_option
@option("http")
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    as_json: bool,
    watch: bool,
    max_lag_seconds: float | None,
    max_wal_bytes: int | None,
    **_options: object,
) -> int:
    """Show the status of the relay and its slot: state, lag, and the WAL that the server keeps for it.

    Reads from the database, which needs no privilege, and from the relay at --http, if it answers: only the relay that
    streams knows its lag in seconds. Needs no Kafka. Ends with 1 if a limit is exceeded, or if the slot is lost or about to
    be (wal_status unreserved); with 78 if the slot does not exist.
    """
    from cdc_outbox.commands.interrupts import stop_on_signals
    from cdc_outbox.commands.status import Limit, StatusReader

    limits = [
        Limit(member, name, most)
        for member, name, most in (
            ("lag_seconds", "--max-lag-seconds", max_lag_seconds),
            ("retained_wal_bytes", "--max-wal-bytes", max_wal_bytes),
        )
        if most is not None
    ]
    with stop_on_signals() as stop:
        reader = StatusReader(settings_of(ctx), partial(complete_cure, ctx), stop)
        return _watch(reader, stop, limits, as_json=as_json) if watch else _once(reader, limits, as_json=as_json)


def _once(reader: StatusReader, limits: list[Limit], *, as_json: bool) -> int:
    report = reader.read()
    if report.problem is None or report.answered or report.document.wal_status is not None:
        click.echo(_shown(report, as_json=as_json))
    code = _judge(report, limits)
    if report.problem is not None:
        raise report.problem
    return code


def _watch(reader: StatusReader, stop: Stop, limits: list[Limit], *, as_json: bool) -> int:
    """Repeat until a stop; a server that does not answer now may answer later."""
    terminal = sys.stdout.isatty()
    while not stop.requested:
        report = reader.read()
        text = _shown(report, as_json=as_json)
        if not as_json:
            seen = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, every {WATCH_SECONDS:.0f} s"
            problem = f"\n{'problem':<16}{report.problem}" if report.problem is not None else ""
            text = f"{_HOME if terminal else ''}{seen}\n{text}{problem}{'' if terminal else chr(10)}"
        click.echo(text)
        sys.stdout.flush()
        if code := _judge(report, limits):
            return code
        stop.wait(WATCH_SECONDS)
    return 0


def _judge(report: StatusReport, limits: list[Limit]) -> int:
    from cdc_outbox.commands.status import exceeded, unsafe

    sentences = exceeded(report, limits)
    for sentence in sentences:
        click.echo(f"exceeded: {sentence}", err=True)
    return 1 if sentences or unsafe(report.document) else 0


def _shown(report: StatusReport, *, as_json: bool) -> str:
    if as_json:
        return json.dumps(report.document.members())
    colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    marks = {line: reason.level for reason in reversed(report.document.reasons) for line in _CONCERNS[reason.code]}
    return "\n".join(
        _line(name, text, marks.get(name, ""), colors) for name, text in [*_health(report), *_lines(report)]
    )


_COLORS: Final = {"ok": "32", "warning": "33", "critical": "1;31"}
"""SGR parameters (ECMA-48)."""

_CONCERNS: Final = {
    "loop-stuck": ("state",),
    "slot-lost": ("WAL kept", "until lost"),
    "slot-unreserved": ("WAL kept", "until lost"),
    "slot-endangered": ("until lost",),
    "postgres-disconnected": ("state",),
    "not-started": ("state",),
    "stopped": ("state",),
    "kafka-unconfirmed": ("in flight",),
    "kafka-unreachable": ("Kafka",),
    "slot-unused": ("slot",),
}
"""The lines that each reason concerns."""


def _line(name: str, text: str, level: str, colors: bool) -> str:
    """One line. A problem is marked with its level, and on a terminal with a color."""
    shown = f"{text}  [{level}]" if level else text
    color = _COLORS.get(level or (text.partition(":")[0] if name == "health" else ""))
    return f"{name:<16}\x1b[{color}m{shown}\x1b[0m" if colors and color else f"{name:<16}{shown}"


def _health(report: StatusReport) -> list[tuple[str, str]]:
    """The judgement: its reasons, each with its cure."""
    lines: list[tuple[str, str]] = []
    for reason in report.document.reasons:
        lines.append(("" if lines else "health", f"{reason.level}: {_printable(reason.text)}"))
        lines += [("", f"cure: {_printable(reason.cure)}")] if reason.cure else []
    return lines or [("health", str(report.document.health))]


def _lines(report: StatusReport) -> list[tuple[str, str]]:
    """Name and text of each line."""
    document = report.document
    use = {True: "in use", False: "not in use", None: "whether it is in use is not known"}[document.slot_active]
    lag = "unknown" if document.lag_seconds is None else f"{document.lag_seconds:,.1f} s"
    return [
        ("state", document.state or "unknown"),
        ("relay", _printable(report.relay)),
        ("slot", f"{document.slot}, {use}; publication {document.publication} of {', '.join(document.tables)}"),
        ("lag", f"{lag}; {_size(document.lag_bytes)} of WAL"),
        ("in flight", _in_flight(document)),
        ("Kafka", _kafka(document)),
        ("WAL kept", f"{_size(document.retained_wal_bytes)}, {document.wal_status or 'status unknown'}"),
        ("until lost", _until_lost(report)),
        ("confirmed", document.confirmed_flush_lsn or "unknown"),
        ("server at", document.current_lsn or "unknown"),
        ("last error", _last_error(report)),
    ]


def _last_error(report: StatusReport) -> str:
    document = report.document
    if document.last_error is None:
        return "none" if report.answered else "unknown"
    code = f" [{document.last_error_code}]" if document.last_error_code else ""
    return _printable(f"{document.last_error}{code}")


def _in_flight(document: StatusDocument) -> str:
    if document.in_flight_events is None:
        return "unknown"
    count = document.in_flight_events
    text = f"{count:,} event{'' if count == 1 else 's'}, {_size(document.in_flight_bytes)}"
    return (
        f"{text}; nothing confirmed for {document.unconfirmed_seconds:.0f} s" if document.unconfirmed_seconds else text
    )


def _kafka(document: StatusDocument) -> str:
    if document.kafka_connected is None:
        return "unknown"
    since = f" since {document.kafka_since}" if document.kafka_since else ""
    error = f"; last error: {_printable(document.kafka_error)}" if document.kafka_error else ""
    return f"{'connected' if document.kafka_connected else 'not connected'}{since}{error}"


def _until_lost(report: StatusReport) -> str:
    safe, seconds = report.document.safe_wal_bytes, report.document.seconds_until_lost
    if report.document.wal_status == "lost":
        return "it is lost"
    if safe is None:
        return "unknown" if report.document.wal_status is None else "no limit is set (max_slot_wal_keep_size)"
    if seconds is not None:
        rate = f"{_duration(seconds)} at the present rate, if it stood still"
    else:
        rate = "the rate is not known yet" if report.document.wal_bytes_per_second is None else "nothing is written now"
    return f"{_size(max(0, safe))} of WAL; {rate}"


def _size(count: int | None) -> str:
    return "an unknown amount" if count is None else size_text(count)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    return f"{whole // 3600:,} h" if whole < 172_800 else f"{whole // 86_400:,} days"


def _printable(text: str) -> str:
    """Escape control characters in text from other programs."""
    return text if text.isprintable() else ascii(text)
