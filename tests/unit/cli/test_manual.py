"""The manual page and the completion scripts, as an installed wheel has them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cdc_outbox import cli
from scripts import manual
from tests.plugins.command import environment

ROOT = Path(__file__).parents[3]
SHARE = ROOT / "packaging" / "share"
PAGE = SHARE / "man" / "man1" / "cdc-outbox.1"


def test_the_page_is_read_without_a_warning_and_has_each_command() -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tascii", PAGE], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    text = re.sub(".\b", "", done.stdout)  # bold type of a terminal
    for command in cli.COMMANDS:
        assert f"cdc-outbox {command}" in text


def test_no_line_of_text_is_taken_for_a_macro() -> None:
    macros = {line.split()[0] for line in PAGE.read_text().splitlines() if line.startswith((".", "'"))}
    assert macros == {".TH", ".SH", ".SS", ".PP", ".TP", ".B", ".BR"}


def test_bash_completes_a_command_and_an_option() -> None:
    script = SHARE / manual.COMPLETIONS["bash"]

    def completed(*words: str) -> list[str]:
        code = (
            f'source "{script}"; COMP_WORDS=(cdc-outbox {" ".join(words)}); COMP_CWORD={len(words)};'
            ' _cdc_outbox_completion cdc-outbox; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
        done = subprocess.run(
            ["bash", "-c", code],
            env=environment({"PATH": path}),
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        return done.stdout.split()

    assert completed("sl") == ["slot"]
    assert "--publication" in completed("run", "--pu")


def test_the_wheel_installs_them_where_shells_and_man_look(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        shared = {name.partition(".data/data/")[2] for name in archive.namelist() if ".data/data/" in name}
    assert shared == {"share/man/man1/cdc-outbox.1", *(f"share/{place}" for place in manual.COMPLETIONS.values())}
