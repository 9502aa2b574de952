"""Example programs in Go, Node and Java, built once for each state of their files, in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.plugins.absence import absent
from tests.plugins.command import environment

if TYPE_CHECKING:
    from collections.abc import Callable

Program = list[str]
"""The command that starts it."""


def needs(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            absent(f"{tool} is not installed")


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"


def prepared(source: Path, prepare: Callable[[Path], None]) -> Path:
    """A copy of the example in the user's cache, made ready once for each state of its files."""
    files = sorted(path for path in source.iterdir() if path.is_file())
    state = hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc-outbox"
    home = cache / f"example-{source.parent.name}-{source.name}-{state}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir=cache))
        try:
            shutil.copytree(source, draft, dirs_exist_ok=True)
            prepare(draft)
            with contextlib.suppress(OSError):  # another process was faster; its folder is as good
                draft.rename(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return home


def go(source: Path) -> Program:
    needs("go")
    home = prepared(source, lambda folder: run(["go", "build", "-mod=readonly", "-o", "program", "."], folder))
    return [str(home / "program")]


def node(source: Path, script: str) -> Program:
    needs("node", "npm")
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    home = prepared(source, lambda folder: run(install, folder))
    return ["node", str(home / script)]


def java(source: Path, main: str, *options: str) -> Program:
    """`main`: the name of the class, which is in a file of that name without its package."""
    needs("javac", "mvn")
    file = f"{main.rpartition('.')[2]}.java"

    def build(folder: Path) -> None:
        run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"], folder)
        run(["javac", "-Xlint:all", *options, "-cp", "jars/*", "-d", ".", file], folder)

    home = prepared(source, build)
    return ["java", "-cp", f"{home}:{home}/jars/*", main]
