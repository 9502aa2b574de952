"""The script that builds the image: without a registry it explains how to go on."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

SCRIPT: Final = Path(__file__).parents[2] / "deploy" / "build-image.sh"

ENGINE: Final = """#!/bin/sh
[ "$1" = build ] || exit 0
echo "Error: initializing source docker://python:3.13: pinging container registry: connection refused" >&2
exit 125
"""
"""A builder that reaches no registry."""


@pytest.mark.parametrize("arguments", [[], ["--base", "registry.example.com/python:3.13"]])
def test_a_build_that_fails_names_the_ways_without_the_registry(tmp_path: Path, arguments: list[str]) -> None:
    engine = tmp_path / "podman"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [SCRIPT, "--engine", "podman", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "XDG_CACHE_HOME": str(tmp_path)},
    )

    assert done.returncode == 125
    assert "connection refused" in done.stderr
    for option in ("--base IMAGE", "--local-base"):
        assert f"deploy/build-image.sh {option}" in done.stderr
