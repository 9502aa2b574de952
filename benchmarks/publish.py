"""The figures of a run, put where the documents show them: docs/benchmarks.md, .json, .svg.

In: a run's document. Out: the three files. Never: a figure typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.chart import draw
from benchmarks.report import conditions, table

DOCS: Final = Path(__file__).parent.parent / "docs"

BEGIN: Final = "<!-- figures: begin (written by make bench ARGS=--publish) -->"
END: Final = "<!-- figures: end -->"


def publish(document: Mapping[str, object]) -> None:
    """Write them. The page keeps everything outside its two marks."""
    page = DOCS / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{_about(document)}\n\n{table(document)}\n{END}{after}", encoding="utf-8")
    (DOCS / "benchmarks.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (DOCS / "benchmarks.svg").write_text(draw(document), encoding="utf-8")


def _about(document: Mapping[str, object]) -> str:
    """When, on what, with what."""
    taken = conditions(document)
    machine, options = taken.machine, taken.options
    return (
        f"{taken.day}, {machine['cores']} cores of {machine['cpu']}, {machine['memory_gigabytes']} GB, "
        f"{machine['system']}; load average before the run {machine['load_average_before']:.1f}. "
        + ", ".join(f"{name} {version}" for name, version in taken.versions.items())
        + f". {options['rows']:,} rows, {options['payload_bytes']} B of json each, medians of {options['repeat']}; "
        f"{options.get('steady_repeat') or options['repeat']} at a steady rate."
    )
