"""Results of one run: one table for people, one JSON document for everything else.

In: what the scenarios found. Out: text, a JSON-ready document, its medians.
Never: a figure of another run.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import confluent_kafka

from benchmarks.contenders import CONTENDERS, DEBEZIUM
from benchmarks.drained import Drained
from benchmarks.memory import Memory
from benchmarks.raw import EAGER, READERS
from benchmarks.snapshot import Snapshot
from benchmarks.steady import Rest, Steady
from cdc_outbox import __version__
from tests.servers.kafka import VERSION as KAFKA_VERSION

RAW: Final = "raw slot"
RAW_LAZY: Final = "raw slot, lazy"


@dataclass(slots=True)
class Results:
    """All that one run found."""

    options: Mapping[str, object]
    postgres_version: str
    drains: list[Drained] = field(default_factory=list)
    steady: list[Steady] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def document(self) -> dict[str, object]:
        """Everything, for the JSON file."""
        return {
            "taken": self.began,
            "machine": {**machine(), "load_average_before": self.load_before},
            "versions": {**versions(), "PostgreSQL": self.postgres_version},
            "options": dict(self.options),
            "left_out": self.left_out,
            "summary": {
                "drain": summarize_drains(self.drains),
                "steady": medians(self.steady, ("topics", "contender", "rate")),
                "rest": medians(self.rests, ("contender",)),
                "snapshot": medians(self.snapshots, ("contender",)),
                "memory": medians(self.memories, ("contender",)),
            },
            "drain": [asdict(one) for one in self.drains],
            "steady": [asdict(one) for one in self.steady],
            "rest": [asdict(one) for one in self.rests],
            "memory": [asdict(one) for one in self.memories],
            "snapshot": [asdict(one) for one in self.snapshots],
        }


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a run's figures, from its document."""

    day: str
    """ISO 8601."""
    machine: Mapping[str, object]
    versions: Mapping[str, object]
    options: Mapping[str, object]


def conditions(document: Mapping[str, object]) -> Conditions:
    """When, on what, with what."""
    machine, versions, options = (_mapping(document, name) for name in ("machine", "versions", "options"))
    return Conditions(str(document["taken"])[:10], machine, versions, options)


def _mapping(document: Mapping[str, object], name: str) -> Mapping[str, object]:
    member = document[name]
    assert isinstance(member, dict), f"{name} is no object"
    return member


Row = dict[str, str | float | None]


def summarize_drains(drains: Sequence[Drained]) -> list[Row]:
    """Medians by shape and contender, the better eager raw reader and the lazy one, and each rate's ratio to the fastest."""
    rows = medians(drains, ("per_transaction", "topics", "contender"))
    result: list[Row] = []
    for shape in dict.fromkeys(map(_shape, rows)):
        these = [row for row in rows if _shape(row) == shape]
        readers = [row for row in these if row["contender"] in READERS]
        eager = max((row for row in readers if row["contender"] in EAGER), key=_rate, default=None)
        lazy = next((row for row in readers if row["contender"] not in EAGER), None)
        named = ((eager, RAW), (lazy, RAW_LAZY))
        shown: list[Row] = [{**row, "contender": name, "reader": row["contender"]} for row, name in named if row]
        limit = max(map(_rate, shown), default=None)
        shown += [row for row in these if row not in readers]
        result += [{**row, "ratio": _rate(row) / limit if limit else None} for row in shown]
    return result


def _shape(row: Row) -> tuple[object, object]:
    return row["per_transaction"], row["topics"]


def _rate(row: Row) -> float:
    return float(row["rows_per_second"] or 0)


def medians(found: Iterable[object], by: tuple[str, ...]) -> list[Row]:
    """One row for each combination of `by`; the median of every other number."""
    groups: dict[tuple[object, ...], list[dict[str, object]]] = {}
    for one in found:
        values = asdict(one)  # type: ignore[call-overload]  # all of them are dataclasses
        groups.setdefault(tuple(values[name] for name in by), []).append(values)
    rows: list[Row] = []
    for key, members in groups.items():
        row: Row = dict(zip(by, key, strict=True))  # type: ignore[arg-type]  # names and numbers
        for name in members[0]:
            numbers = [value for member in members if isinstance(value := member[name], (int, float))]
            if name not in by and numbers:
                row[name] = statistics.median(numbers)
            elif name not in by and not isinstance(members[0][name], tuple):
                row[name] = None
        rows.append({**row, "turns": len(members)})
    groups_of = list(dict.fromkeys(tuple(row[name] for name in by if name != "contender") for row in rows))
    return sorted(
        rows, key=lambda row: (groups_of.index(tuple(row[name] for name in by if name != "contender")), _rank(row))
    )


def _rank(row: Row) -> int:
    """Yardsticks first, then the contenders as the command line lists them, whatever order they ran in."""
    names = [contender.name for contender in CONTENDERS.values()]
    return names.index(str(row["contender"])) if row["contender"] in names else -1


def table(document: Mapping[str, object]) -> str:
    """The medians, as Markdown, which reads as text as well."""
    summary = document["summary"]
    assert isinstance(summary, dict)
    parts = [
        _markdown("Backlog drained", _DRAIN, summary["drain"]),
        _markdown("A steady rate: CPU per event, and INSERT to consumer in ms", _STEADY, summary["steady"]),
        _markdown("At rest", _REST, summary["rest"]),
        _markdown("Memory through an outage of Kafka, MB of RSS", _MEMORY, summary["memory"]),
        _markdown("First start over a full table", _SNAPSHOT, summary["snapshot"]),
    ]
    left_out = document["left_out"]
    assert isinstance(left_out, dict)
    parts += [f"Left out: {name}, since {why}\n" for name, why in left_out.items()]
    return "\n".join(part for part in parts if part)


_Columns = dict[str, tuple[str, str]]

_DRAIN: Final[_Columns] = {
    "per_transaction": ("rows/tx", "{:,.0f}"),
    "topics": ("topics", "{:,.0f}"),
    "contender": ("", "{}"),
    "rows_per_second": ("rows/s", "{:,.0f}"),
    "ratio": ("of raw", "{:.2f}"),
    "cpu_microseconds_per_row": ("CPU µs/row", "{:.2f}"),
    "cpu_microseconds_per_row_with_start": ("with start", "{:.2f}"),
    "server_cpu_microseconds_per_row": ("PostgreSQL CPU µs/row", "{:.2f}"),
    "peak_rss_megabytes": ("peak RSS MB", "{:,.0f}"),
    "first_record_seconds": ("first record s", "{:.2f}"),
    "confirmed_seconds": ("confirmed after s", "{:.2f}"),
    "sent_twice": ("sent twice", "{:,.0f}"),
}
_RATE: Final = "{:,g}"
_STEADY: Final[_Columns] = {
    "topics": ("topics", "{:,.0f}"),
    "rate": ("tx/s", _RATE),
    "contender": ("", "{}"),
    "cpu_microseconds_per_event": ("CPU µs/event", "{:,.0f}"),
    "p50": ("p50", "{:.1f}"),
    "p99": ("p99", "{:.1f}"),
    "max": ("max", "{:.1f}"),
    "growth": ("growth", "{:+.1f}"),
    "events": ("events", "{:,.0f}"),
}
_REST: Final[_Columns] = {
    "contender": ("", "{}"),
    "cpu_percent": ("CPU, % of a core", "{:.2f}"),
    "server_cpu_percent": ("PostgreSQL CPU, %", "{:.1f}"),
}
_MEMORY: Final[_Columns] = {
    "contender": ("", "{}"),
    "rows": ("rows written meanwhile", "{:,.0f}"),
    "idle": ("before", "{:,.0f}"),
    "outage": ("peak in the outage", "{:,.0f}"),
    "catching_up": ("peak after it", "{:,.0f}"),
}
_SNAPSHOT: Final[_Columns] = {
    "contender": ("", "{}"),
    "rows": ("rows", "{:,.0f}"),
    "rows_per_second": ("rows/s", "{:,.0f}"),
    "cpu_microseconds_per_row": ("CPU µs/row", "{:.2f}"),
    "peak_rss_megabytes": ("peak RSS MB", "{:,.0f}"),
    "first_record_seconds": ("first record s", "{:.2f}"),
}


def _markdown(title: str, columns: _Columns, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    cells = [[heading for heading, _ in columns.values()]]
    cells += [[_cell(form, row.get(name)) for name, (_, form) in columns.items()] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join([f"**{title}**", "", *lines, ""])


def _cell(form: str, value: object) -> str:
    if value is None:
        return "-"
    return form.format(value) if form != _RATE or value else "one, after silence"


def machine() -> dict[str, str | int]:
    """What it ran on."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gigabytes": round(pages * size / 1e9),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
    }


def versions() -> dict[str, str]:
    """Of what ran."""
    debezium = (DEBEZIUM / "pom.xml").read_text(encoding="utf-8").partition("<debezium>")[2].partition("<")[0]
    return {
        "cdc-outbox": __version__,
        "Python": platform.python_version(),
        "librdkafka": confluent_kafka.libversion()[0],
        "Apache Kafka": KAFKA_VERSION,
        "Debezium": debezium,
        "Java": _java(),
    }


def _java() -> str:
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "missing"
    return done.stderr.partition('"')[2].partition('"')[0]
