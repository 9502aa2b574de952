"""The lock files: what the image and the released wheel are installed from, by hash, and current with pyproject.toml."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
RUN: Final = ROOT / "deploy" / "requirements.txt"
BUILD: Final = ROOT / "deploy" / "requirements-build.txt"
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())

PINNED: Final = re.compile(
    r"^([\w.-]+)==([^ ;\\]+)[^\n]*\\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)


def locked(path: Path) -> dict[str, str]:
    """Versions by name. Each has a hash, and nothing else is there."""
    text = path.read_text()
    found = PINNED.findall(text)
    assert re.sub(r"^ *#.*\n", "", PINNED.sub("", text), flags=re.MULTILINE).strip() == ""
    return {str(canonicalize_name(name)): version for name, version, _ in found}


@pytest.mark.parametrize(
    ("path", "requirements"),
    [(RUN, PROJECT["project"]["dependencies"]), (BUILD, PROJECT["build-system"]["requires"])],
    ids=["run", "build"],
)
def test_the_lock_has_what_the_project_asks_for(path: Path, requirements: list[str]) -> None:
    versions = locked(path)
    for each in map(Requirement, requirements):
        assert each.specifier.contains(versions[str(canonicalize_name(each.name))]), f"{each}: make lock"
        for extra in each.extras:
            assert f"{each.name}-{extra}" in versions


@pytest.mark.parametrize("path", [RUN, BUILD], ids=["run", "build"])
def test_the_lock_has_nothing_that_the_project_does_not_ask_for(path: Path) -> None:
    reasons = re.findall(r"    # via\n((?:    #   .*\n)+)|    # via (.*)\n", path.read_text())
    names = {name.strip(" #").partition(" ")[0] for group in reasons for part in group for name in part.splitlines()}

    assert len(reasons) == len(locked(path))
    assert names <= {*locked(path), "cdc-outbox", "-r"}


def test_the_image_is_installed_from_the_locks_alone() -> None:
    recipe = (ROOT / "deploy" / "Dockerfile").read_text()
    installs = re.findall(r"pip[^\n]*? (?:install|wheel) ([^\n]*)", recipe)

    assert len(installs) == 4
    for arguments in installs:
        assert "--require-hashes" in arguments or "--no-deps" in arguments


def test_every_file_of_the_wheel_is_copied_and_every_copied_file_reaches_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    recipe = (ROOT / "deploy" / "Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (?!--from)(.*)$", recipe, re.MULTILINE) for name in line.split()[:-1]]

    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]

    assert "deploy/requirements.txt" in copied
    assert [name for name in copied if f"!{name}" not in ignored] == []
    assert [name for name in [*wheel["packages"], *wheel["force-include"]] if name not in copied] == []


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_the_wheel_runs_on_what_is_locked(tmp_path: Path) -> None:
    python = str(tmp_path / "venv/bin/python")

    def pip(*arguments: str) -> None:
        command = [sys.executable, "-m", "pip", "--python", python, *arguments]
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip("install", "--no-compile", "--require-hashes", "-r", str(BUILD), "-r", str(RUN))
    build = f"from {PROJECT['build-system']['build-backend']} import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([python, "-c", build], check=True, cwd=ROOT, capture_output=True)
    pip("install", "--no-compile", "--no-deps", *map(str, tmp_path.glob("*.whl")))
    done = subprocess.run([tmp_path / "venv/bin/cdc-outbox", "--version"], check=True, capture_output=True, text=True)

    assert locked(RUN)["psycopg"]
    assert done.stdout.startswith("cdc-outbox ")
