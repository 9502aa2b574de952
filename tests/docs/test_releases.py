"""The lines that name an installation: true today, and right after a release by one variable."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

import cdc_outbox
from scripts import releases

IMAGE: Final = "registry.example.com/outbox/cdc-outbox"

OF_TODAY: Final = re.compile(
    r"pip install \.|pip install '\.\[|# in a checkout|install[^\n`]*` in a checkout"
    r"|uvx --from|\./packaging/cdc-outbox-app|[Nn]ot released"
    r"|no published image"
)

OF_A_RELEASE: Final = re.compile(r"(?:pip|pipx) install '?cdc-outbox|uvx cdc-outbox|after a release")

BUILDS: Final = {
    "CONTRIBUTING.md": "for those who change the program",
    "docs/benchmarks.md": "what was measured",
    "docs/how-to/harden.md": "the wheel of a checkout, by its hashes",
    "examples/registration/Dockerfile": "builds the tree that it is in",
    "cdc_outbox/__init__.py": "the variable itself, and the command of the cures",
    "scripts/releases.py": "both forms of each line",
}
"""Files that name an installation, and the same one before and after a release: why."""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pages, in a folder in which they can be written."""
    for name in releases.LINES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((releases.ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(releases, "ROOT", tmp_path)
    return tmp_path


def generated(tree: Path) -> dict[str, str]:
    for name, make in releases.FILES.items():
        (tree / name).write_text(make(), encoding="utf-8")
    return {name: (tree / name).read_text(encoding="utf-8") for name in releases.FILES}


def test_one_variable_makes_every_line_that_of_a_release_and_back(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cdc_outbox, "IMAGE", "")
    today = generated(tree)
    for name, text in today.items():
        assert not OF_A_RELEASE.search(text), name

    monkeypatch.setattr(cdc_outbox, "IMAGE", IMAGE)
    released = generated(tree)
    for name, text in released.items():
        assert text != today[name]
        assert not OF_TODAY.search(text), (name, OF_TODAY.search(text))
    assert f"`{IMAGE}:{cdc_outbox.__version__}`" in released["README.md"]
    assert "pip install cdc-outbox" in released["docs/tutorial.md"]
    assert cdc_outbox.pip_install("demo") == "pip install 'cdc-outbox[demo]'"

    monkeypatch.setattr(cdc_outbox, "__version__", "0.2.0")
    assert f"`{IMAGE}:0.2.0`" in generated(tree)["README.md"]
    assert generated(tree).keys() == today.keys()

    monkeypatch.setattr(cdc_outbox, "IMAGE", "")
    assert generated(tree) == today


def test_a_page_that_has_lost_its_line_is_noticed(tree: Path) -> None:
    (tree / "docs/tutorial.md").write_text("# Tutorial\n")
    with pytest.raises(ValueError, match="has 0 times"):
        releases.page("docs/tutorial.md")


def test_no_other_file_names_an_installation() -> None:
    listed = subprocess.run(
        [
            "git",
            "ls-files",
            "-z",
            "*.md",
            "*.py",
            "*.yml",
            "*.yaml",
            "*.sql",
            "*.1",
            "*Dockerfile",
            "*.service",
            ":!tests",
        ],
        cwd=releases.ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    names = [
        name
        for name in listed
        if name
        and re.search(
            rf"pip install '?\.|{OF_A_RELEASE.pattern}|cdc-outbox:local`",
            (releases.ROOT / name).read_text(encoding="utf-8"),
        )
    ]
    assert sorted(set(names) - set(releases.LINES) - set(BUILDS)) == []
    assert set(BUILDS) <= set(listed)
