"""cdc-outbox as its users have it: in an environment of its own, with what it depends on and nothing else.

In: this working tree. Out: the installed program. What developers have beside it changes the figures: structlog, for one,
imports rich where it finds it, 6 MB and 80 ms that no user has.
Never: an editable install, or one that is older than this process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Where what takes long to build is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc-outbox"


@cache
def program() -> Path:
    """Install once in a run; give `cdc-outbox`. Raises CalledProcessError, with the output of pip."""
    environment = cache_folder() / "installed"
    subprocess.run((sys.executable, "-m", "venv", "--clear", environment), check=True, capture_output=True, text=True)
    _install(environment, ROOT)
    return environment / "bin" / "cdc-outbox"


@cache
def install_native() -> None:
    """Install the native plane beside `program`, which needs a C compiler. Raises CalledProcessError."""
    _install(program().parent.parent, ROOT / "native")


def _install(environment: Path, source: Path) -> None:
    python = environment / "bin" / "python"
    command = (python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source)
    subprocess.run(command, check=True, capture_output=True, text=True)
