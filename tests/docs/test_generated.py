"""Pages that are made from the code are those that the code makes now."""

from __future__ import annotations

import pytest

from scripts import generate


@pytest.mark.parametrize("name", generate.FILES)
def test_a_page_made_from_the_code_is_up_to_date(name: str) -> None:
    assert (generate.ROOT / name).read_text(encoding="utf-8") == generate.FILES[name](), f"{name}: run make reference"


def test_a_page_that_is_out_of_date_is_noticed_and_written(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(generate, "ROOT", tmp_path)
    monkeypatch.setattr(generate, "FILES", {"a/page.md": lambda: "as it is\n"})
    assert generate.main(["--check"]) == 1
    assert "a/page.md: out of date" in capsys.readouterr().out
    assert generate.main([]) == 0
    assert (tmp_path / "a" / "page.md").read_text() == "as it is\n"
    assert generate.main(["--check"]) == 0
