"""The SQL that the migrations run: the text of `sql/`, inside the installed package, or beside it in a checkout."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def read_script(name: str) -> str:
    """The text of `sql/<name>.sql`. Raises FileNotFoundError."""
    for folder in (resources.files("cdc_outbox") / "_sql", Path(__file__).parents[3] / "sql"):
        file = folder / f"{name}.sql"
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise FileNotFoundError(f"{name}.sql is not part of this installation: install cdc-outbox again")
