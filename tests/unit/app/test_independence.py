"""`cdc_outbox.app` costs an application nothing that it does not have already, and can be copied into it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import cdc_outbox.app

APP = Path(cdc_outbox.app.__file__).parent


def run(code: str, *, folder: Path | None = None) -> str:
    """What a fresh interpreter prints; in `folder`, with nothing of ours or of others to import."""
    isolated = ["-I", "-S"] if folder else []
    start = f"import sys; sys.path.insert(0, {str(folder)!r}); " if folder else ""
    command = [sys.executable, *isolated, "-W", "error", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_importing_it_imports_nothing_but_the_standard_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import cdc_outbox.app;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    imported = set(run(code).split())

    assert "cdc_outbox" in imported
    assert not imported & {"confluent_kafka", "psycopg", "asyncpg", "sqlalchemy", "django", "opentelemetry", "orjson"}
    assert imported - set(sys.stdlib_module_names) == {"cdc_outbox"}


def test_importing_it_imports_no_other_module_of_the_package() -> None:
    code = "import sys, cdc_outbox.app; print(*[name for name in sys.modules if name.startswith('cdc_outbox')])"

    assert [name for name in run(code).split() if name != "cdc_outbox" and not name.startswith("cdc_outbox.app")] == []


def test_a_copy_of_the_folder_works_without_anything_installed(tmp_path: Path) -> None:
    shutil.copytree(APP, tmp_path / "shop" / "outbox")
    code = """
from shop.outbox import capture, emit
with capture(write=False) as events:
    emit(None, aggregate_type="order", aggregate_id=1, type="Placed", payload={"a": 1})
print(events[0].payload)
"""
    assert run(code, folder=tmp_path) == '{"a":1}\n'
