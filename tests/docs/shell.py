"""Shell blocks of documents, run as a reader would: bash, the program and psql on PATH, nothing else of ours around them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugins.command import environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Shell = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture
def shell(postgres_binaries: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`shell(text, DSN=..., BROKERS=...)`: run it to its end, in an empty folder. `code`: what it has to end with."""

    def run(text: str, *, code: int = 0, timeout: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            cwd=tmp_path,
            env=environment({**_defaults(postgres_binaries), **variables}),
            timeout=timeout,
        )
        assert done.returncode == code, f"{text}\n{done.stdout}\n{done.stderr}"
        return done

    return run


def _defaults(postgres_binaries: Path) -> Mapping[str, str]:
    programs = [Path(sys.executable).parent, postgres_binaries, "/usr/local/bin", "/usr/bin", "/bin"]
    return {
        "PATH": ":".join(map(str, programs)),
        "CDC_OUTBOX_HTTP": "off",  # the default port may be in use on this machine
        "PSQLRC": "/dev/null",
    }
