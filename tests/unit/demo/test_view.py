"""The demo's two views: a picture on a terminal, lines elsewhere."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

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


def drawn(*pictures: Picture, encoding: str = "utf-8", errors: str = "replace") -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors)
    view = LiveView(Console(file=stream, force_terminal=True, color_system=None, width=100, height=40))
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
    assert "committed 1,234 | delivered 1,200 | waiting 34 (0.5 s) | acknowledged 2.0 KiB behind" in lines[0]
    assert lines[1].endswith("s] kill -9 77")
