"""The chart of a run: an SVG that reads on light and on dark, and needs nothing but itself.

In: a run's document. Out: SVG text: three panels of bars, one for each question a reader has.
Never: a figure that is not in the document, a script, a font of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from xml.sax.saxutils import escape

from benchmarks.report import conditions

WIDTH: Final = 820
LABEL: Final = 150
"""Pixels that names take, left of the bars."""
VALUE: Final = 110
"""And figures, right of them."""
BAR: Final = 16
GAP: Final = 8
TITLE: Final = 44

OURS: Final = "cdc-outbox"

_STYLE: Final = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-weight: 600; }
  .note { font-size: 11px; fill: #59636e; }
  .ours { fill: #0969da; }
  .other { fill: #afb8c1; }
  .raw { fill: #d8dee4; }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc; }
    .note { fill: #9198a1; }
    .ours { fill: #4493f8; }
    .other { fill: #656c76; }
    .raw { fill: #3d444d; }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: name, value, and its text."""

    name: str
    value: float
    shown: str


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars that are compared with each other."""

    title: str
    note: str
    bars: tuple[Bar, ...]


def draw(document: Mapping[str, object]) -> str:
    """The whole chart."""
    summary = document["summary"]
    assert isinstance(summary, dict)
    panels = [panel for panel in _panels(summary) if panel.bars]
    y, parts = 8, []
    for panel in panels:
        parts.append(_draw(panel, y))
        y += TITLE + len(panel.bars) * (BAR + GAP) + 16
    about = escape(_about(document))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 16}" viewBox="0 0 {WIDTH} {y + 16}" '
        f'role="img" aria-label="{about}">\n<style>{_STYLE}</style>\n{body}\n'
        f'<text class="note" x="0" y="{y + 4}">{about}</text>\n</svg>\n'
    )


def _panels(summary: Mapping[str, Sequence[Mapping[str, object]]]) -> list[Panel]:
    drains = [row for row in summary["drain"] if row.get("topics", 1) == 1]
    shapes = [row["per_transaction"] for row in drains]
    shape = 10 if 10 in shapes else (shapes[0] if shapes else 0)
    at = [row for row in drains if row["per_transaction"] == shape]
    rate = 1000.0
    late = [row for row in summary["steady"] if (row["topics"], row["rate"]) == (1, rate)]
    each = f"{shape} rows per transaction"
    return [
        Panel("Rows a second, backlog drained", f"{each}; longer is better", _bars(at, "rows_per_second", "{:,.0f}")),
        Panel(
            "CPU per row, µs, all threads",
            f"{each}; shorter is better",
            _bars(at, "cpu_microseconds_per_row", "{:.1f}"),
        ),
        Panel("Peak memory, MB", f"{each}; shorter is better", _bars(at, "peak_rss_megabytes", "{:,.0f}")),
        Panel(
            "INSERT to consumer, p99, ms",
            f"{rate:,g} transactions a second; shorter is better",
            _bars(late, "p99", "{:,.1f}"),
        ),
    ]


def _bars(rows: Sequence[Mapping[str, object]], name: str, form: str) -> tuple[Bar, ...]:
    return tuple(Bar(str(row["contender"]), _number(row, name), form.format(_number(row, name))) for row in rows)


def _number(row: Mapping[str, object], name: str) -> float:
    value = row[name]
    assert isinstance(value, (int, float)), f"{name} of {row.get('contender')} is no number"
    return float(value)


def _draw(panel: Panel, top: int) -> str:
    largest = max(bar.value for bar in panel.bars) or 1.0
    lines = [
        f'<text class="title" x="0" y="{top + 14}">{escape(panel.title)}</text>',
        f'<text class="note" x="0" y="{top + 30}">{escape(panel.note)}</text>',
    ]
    for index, bar in enumerate(panel.bars):
        y = top + TITLE + index * (BAR + GAP)
        width = max(1.0, (WIDTH - LABEL - VALUE) * bar.value / largest)
        kind = "ours" if bar.name == OURS else "raw" if bar.name.startswith("raw slot") else "other"
        lines += [
            f'<text x="0" y="{y + 13}">{escape(bar.name)}</text>',
            f'<rect class="{kind}" x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3"/>',
            f'<text x="{LABEL + width + 8:.1f}" y="{y + 13}">{escape(bar.shown)}</text>',
        ]
    return "\n".join(lines)


def _about(document: Mapping[str, object]) -> str:
    taken = conditions(document)
    versions = taken.versions
    return (
        f"{taken.day} · {taken.machine['cores']} cores, everything on one machine · PostgreSQL "
        f"{versions['PostgreSQL']}, Apache Kafka {versions['Apache Kafka']}, Debezium {versions['Debezium']} · "
        f"{taken.options['rows']:,} rows"
    )
