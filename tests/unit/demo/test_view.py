"""The demo's two views: a picture on a terminal, lines elsewhere."""

from __future__ import annotations

import html
import io
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from cdc_outbox.demo.tally import Tally
from cdc_outbox.demo.text import after, before, following
from cdc_outbox.demo.verdict import judge
from cdc_outbox.demo.view import LiveView, Picture, PlainView
from cdc_outbox.lsn import Lsn

PICTURE = Picture(
    committed=1234,
    delivered=1200,
    waiting=34,
    oldest=0.5,
    rate=200.0,
    duplicates=3,
    rolled_back=17,
    confirmed=Lsn(0x16_B374D848),
    behind=2048,
    relay="(pid 77)",
    relay_up=True,
    latest="outbox.event.order[0]@5 key 7 OrderPlaced {}",
)


def drawn(*pictures: Picture, encoding: str = "utf-8", errors: str = "replace", width: int = 100) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    view = LiveView(Console(file=stream, force_terminal=True, color_system=None, width=width, height=40))
    with view:
        for picture in pictures:
            view.show(picture)
            view.log("something happens")
    stream.flush()
    assert isinstance(stream.buffer, io.BytesIO)
    return stream.buffer.getvalue().decode(encoding)


def test_the_picture_has_every_figure() -> None:
    screen = drawn(PICTURE)
    for figure in ("1,234", "1,200", "34", "16/B374D848", "2.0 KiB", "200/s", "17", "(pid 77)", "something happens"):
        assert figure in screen


def test_a_dead_relay_is_seen() -> None:
    assert "relay KILLED" in drawn(PICTURE, replace(PICTURE, relay="KILLED", relay_up=False))


def test_a_terminal_without_unicode_gets_ascii() -> None:
    """Frame and bars have an ASCII form: nothing is left to be replaced by the stream."""
    screen = drawn(PICTURE, replace(PICTURE, waiting=17), encoding="ascii", errors="strict")
    assert "1,234" in screen
    assert "#" in screen
    with pytest.raises(UnicodeEncodeError):
        drawn(replace(PICTURE, latest="李娜"), encoding="ascii", errors="strict")
    assert "??" in drawn(replace(PICTURE, latest="李娜"), encoding="ascii")


def test_plain_lines_come_about_once_a_second(capsys: pytest.CaptureFixture[str]) -> None:
    with PlainView() as view:
        for _ in range(100):
            view.show(PICTURE)
        view.log("kill -9 77")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "committed 1,234 delivered 1,200 waiting 34 200/s relay (pid 77)" in lines[0]
    assert lines[1].endswith("s] kill -9 77")


def test_all_of_it_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    large = replace(PICTURE, committed=123_456_789, delivered=123_456_789, waiting=99_999, relay="(pid 4194304)")
    with PlainView() as view:
        view.show(large)
        view.log(
            "the first record is here: topic outbox.event.order, key 1, headers id=" + "x" * 36 + ", value " + "y" * 90
        )
    print(before(18), after(replace(judge(Tally()), committed=12_345_678)), following("cdc-outbox"), sep="\n")
    screen = drawn(*[replace(large, waiting=number) for number in range(1, 60)], width=80)

    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []
    assert "…" not in screen.replace(large.latest, "")
    for words in ("in one transaction with their change", "of WAL not yet acknowledged", "must never arrive"):
        assert words in screen


def test_it_ends_with_what_comes_next() -> None:
    assert following("cdc-outbox").startswith("\nnext: cdc-outbox demo --keep")


PICTURES: Final = Path(__file__).parents[3] / "docs" / "images"
LAST: Final = replace(
    PICTURE,
    committed=4_128,
    delivered=4_128,
    waiting=0,
    oldest=0.0,
    rate=231.0,
    duplicates=12,
    rolled_back=196,
    behind=0,
    relay="stopped",
    latest="outbox.event.order[2]@688 key 1204 OrderShipped",
)
ACTS: Final = {
    0.9: "PostgreSQL 18.6 listens on port 21077; starting Kafka",
    2.8: "the first record is here: topic outbox.event.order, key 1",
    11.8: "kill -9 41877: the relay is killed; the shop goes on writing",
    14.3: "started again, as pid 41903: it continues at the slot's position",
    20.8: "the shop is closed; waiting for its last events",
    21.5: "SIGTERM: the relay has confirmed everything and ended with 0",
}


def test_the_picture_of_the_readme_is_the_last_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    """CDC_OUTBOX_PICTURES=write writes it anew."""
    console = Console(file=io.StringIO(), record=True, force_terminal=True, width=80, height=60)
    now = [0.0]
    monkeypatch.setattr("cdc_outbox.demo.view.time.monotonic", lambda: now[0])
    view = LiveView(console)
    for at in [*ACTS, *(3 + 0.6 * number for number in range(30))]:
        now[0] = at
        if at in ACTS:
            view.log(ACTS[at])
            continue
        down = 11.8 < at < 14.3
        waiting = (at - 11.8) * 400 if down else max(4, 1000 - (at - 14.3) * 900) if at > 14.3 else 4
        view.show(replace(LAST, waiting=round(waiting), relay="KILLED" if down else "(pid 41903)", relay_up=not down))
    now[0] = 21.6
    view.show(LAST)
    console.export_text()  # forget the frames before the last
    console.print(view.panel())
    console.print(after(replace(judge(Tally()), committed=4_128, rolled_back=196, duplicates=12)), highlight=False)
    console.print(following("cdc-outbox"), highlight=False)
    text = console.export_text(clear=False)
    picture = console.export_svg(title="cdc-outbox demo", code_format=WITHOUT_FONTS, unique_id="demo")
    if os.environ.get("CDC_OUTBOX_PICTURES") == "write":
        (PICTURES / "demo.txt").write_text(text, encoding="utf-8")
        (PICTURES / "demo.svg").write_text(picture, encoding="utf-8")

    assert text == (PICTURES / "demo.txt").read_text(encoding="utf-8")
    svg = (PICTURES / "demo.svg").read_text(encoding="utf-8")
    assert "url(http" not in svg
    letters = "".join(html.unescape(re.sub(r"<[^>]+>", "", svg.partition("</defs>")[2])).split())
    assert "".join(text.split()) in letters


WITHOUT_FONTS: Final = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
"""rich's picture loads its fonts from elsewhere."""
