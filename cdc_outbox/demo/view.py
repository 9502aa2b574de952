"""The display of the demo: a live picture on a terminal, plain lines anywhere else.

In: `Picture`s of the moment, and sentences about what happens. Out: the screen.
Never: a figure of its own, or a picture on something that is no terminal.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cdc_outbox.config.value_types import size_text
from cdc_outbox.lsn import Lsn, format_lsn

LINE_SECONDS: Final = 1.0
"""Between two plain lines."""

FRAME_SECONDS: Final = 0.125
"""Between two frames: smooth enough for the eye, nothing for the processor."""

ACTS: Final = 7
"""Sentences that stay on the screen."""

GRAPH_CELLS: Final = 38
"""Cells of the graph, so that the panel fits a terminal of 80 columns."""

GRAPH_SECONDS: Final = 0.6
"""Seconds of one cell of the graph: the whole demo fits."""

COLUMNS: Final = 80
"""Width of the plain lines."""

_BARS: Final = " ▁▂▃▄▅▆▇█"
_ASCII_BARS: Final = " .:|#"


@dataclass(frozen=True, slots=True)
class Picture:
    """The moment. Times in seconds."""

    committed: int
    delivered: int
    waiting: int
    oldest: float
    """Age of the oldest event that has not arrived."""
    rate: float
    """Recent deliveries per second."""
    duplicates: int
    rolled_back: int
    confirmed: Lsn | None
    """Confirmed flush LSN; None before there is a slot."""
    behind: int
    """Bytes of WAL since then."""
    relay: str
    """`up (pid 123)`, `killed`, …"""
    relay_up: bool
    latest: str
    """The record that arrived last."""


class View(Protocol):
    """Shows a demo from its start."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def log(self, text: str) -> None:
        """Show a message about the present step."""

    def show(self, picture: Picture) -> None:
        """Call it often."""


def open_view() -> View:
    """The view for stdout: live on a terminal, else plain."""
    console = Console()
    return LiveView(console) if console.is_terminal and not console.is_dumb_terminal else PlainView()


class PlainView:
    """Lines on stdout, about one a second."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._next = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def log(self, text: str) -> None:
        """Print it at once, in lines of at most COLUMNS."""
        stamp = f"[{time.monotonic() - self._began:5.1f} s] "
        print_line(textwrap.fill(stamp + text, COLUMNS, subsequent_indent=" " * len(stamp)))

    def show(self, picture: Picture) -> None:
        """Print a line if one is due."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + LINE_SECONDS
        self.log(
            f"committed {picture.committed:,} delivered {picture.delivered:,} waiting {picture.waiting:,} "
            f"{picture.rate:,.0f}/s relay {picture.relay}"
        )


class LiveView:
    """A panel that is drawn anew several times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=False)
        self._began = time.monotonic()
        self._next_frame = 0.0
        self._next_cell = 0.0
        self._acts: deque[str] = deque(maxlen=ACTS)
        self._graph: deque[tuple[int, bool]] = deque(maxlen=GRAPH_CELLS)
        self._picture: Picture | None = None

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._picture is not None:
            self._draw()
        self._live.stop()

    def log(self, text: str) -> None:
        """Show it below the figures, until newer ones have pushed it out."""
        self._acts.append(f"{time.monotonic() - self._began:5.1f} s  {text}")
        self._draw()

    def show(self, picture: Picture) -> None:
        """Draw, if it is time for a frame."""
        now = time.monotonic()
        self._picture = picture
        if now >= self._next_cell:
            self._next_cell = now + GRAPH_SECONDS
            self._graph.append((picture.waiting, picture.relay_up))
        if now >= self._next_frame:
            self._next_frame = now + FRAME_SECONDS
            self._draw()

    def panel(self) -> Panel:
        """The present screen."""
        parts: list[Text | Table] = []
        if self._picture is not None:
            parts += [_way(self._picture), Text(), self._figures(self._picture), Text()]
        parts += [Text(act, style="" if act == self._acts[-1] else "dim") for act in self._acts]
        title = f"cdc-outbox demo, {time.monotonic() - self._began:.0f} s"
        return Panel(Group(*parts), title=title, title_align="left")

    def _draw(self) -> None:
        self._live.update(self.panel(), refresh=True)

    def _figures(self, picture: Picture) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True, min_width=12)
        table.add_column(justify="right", no_wrap=True, min_width=12)
        table.add_column(overflow="ellipsis", no_wrap=True)
        confirmed = "" if picture.confirmed is None else format_lsn(picture.confirmed)
        rows: list[tuple[str, str, str | Text]] = [
            ("committed", f"{picture.committed:,}", "in one transaction with their change"),
            ("delivered", f"{picture.delivered:,}", f"{picture.rate:,.0f}/s, {picture.latest}"),
            ("waiting", f"{picture.waiting:,}", self._graph_line(picture)),
            (
                "acknowledged",
                confirmed,
                f"{size_text(picture.behind)} of WAL not yet acknowledged",
            ),
            ("duplicates", f"{picture.duplicates:,}", "arrived with an id seen before"),
            ("rolled back", f"{picture.rolled_back:,}", "must never arrive"),
        ]
        for row in rows:
            table.add_row(*row)
        return table

    def _graph_line(self, picture: Picture) -> Text:
        """How many waited, over time; red where there was no relay."""
        line = Text()
        highest = max((count for count, _ in self._graph), default=0) or 1
        bars = _BARS if self._console.encoding.startswith("utf") else _ASCII_BARS
        for count, up in self._graph:
            line.append(bars[-(-count * (len(bars) - 1) // highest)], style="green" if up else "red")
        return line.append(f"  {picture.oldest:.1f} s" if picture.waiting else "")


def _way(picture: Picture) -> Text:
    """The pipeline; the relay red while it is dead."""
    return Text.assemble(
        "shop -> PostgreSQL -> ",
        (f"relay {picture.relay}", "green" if picture.relay_up else "bold white on red"),
        " -> Kafka -> consumer",
    )


def print_line(text: str) -> None:
    """On stdout, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
