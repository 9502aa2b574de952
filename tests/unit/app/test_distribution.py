"""cdc-outbox-app: the application's part as a distribution of its own, built and used without anything else."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import cdc_outbox

ROOT = Path(__file__).parents[3]
LIMIT_BYTES = 1_000_000
"""Unpacked: what a service that only emits pays."""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files."""
    made = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(made)]
    subprocess.run(build, cwd=ROOT / "packaging/cdc-outbox-app", check=True, capture_output=True, timeout=60)
    (wheel,) = made.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(made / "site")
    return made / "site"


def test_the_wheel_has_the_files_of_the_package_and_its_version(unpacked: Path) -> None:
    def texts(folder: Path) -> dict[str, str]:
        return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*.py")}

    assert texts(unpacked / "cdc_outbox/app") == texts(ROOT / "cdc_outbox/app")
    (metadata,) = unpacked.glob("*.dist-info/METADATA")
    assert f"\nVersion: {cdc_outbox.__version__}\n" in metadata.read_text()
    required = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist:")]
    assert [line for line in required if "extra ==" not in line] == []


def test_the_wheel_is_smaller_than_a_megabyte(unpacked: Path) -> None:
    assert sum(file.stat().st_size for file in unpacked.rglob("*") if file.is_file()) < LIMIT_BYTES


def test_the_page_has_its_size(unpacked: Path) -> None:
    (wheel,) = unpacked.parent.glob("*.whl")
    page = (ROOT / "docs/how-to/register-events.md").read_text()
    shown = re.search(r"a wheel of (\d+) kB that takes\s+([\d.]+) MB on disk", page)
    assert shown is not None
    assert wheel.stat().st_size / 1000 == pytest.approx(int(shown[1]), rel=0.15)
    with zipfile.ZipFile(wheel) as archive:  # the folder may have bytecode of another test by now
        blocks = sum(-(-file.file_size // 4096) * 4096 for file in archive.infolist())
    assert blocks / 1e6 == pytest.approx(float(shown[2]), abs=0.15)


def test_an_event_is_emitted_with_nothing_else_installed(unpacked: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(unpacked)!r})\n"
        "from cdc_outbox.app import capture, emit\n"
        "with capture(write=False) as events:\n"
        "    emit(None, aggregate_type='order', aggregate_id=1, type='Placed', payload={'a': 1})\n"
        "print(events[0].payload)\n"
        "from cdc_outbox.app.__main__ import main; main(['schema', 'export', '--help'])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], check=True, capture_output=True, text=True, timeout=30
    )
    assert done.stdout.startswith('{"a":1}\nusage: cdc-outbox-app schema export')


def test_the_migrations_of_django_find_their_sql(unpacked: Path) -> None:
    for script in ("outbox.sql", "consumer.sql", "uninstall.sql"):
        assert (unpacked / "cdc_outbox/_sql" / script).read_bytes() == (ROOT / "sql" / script).read_bytes()


@pytest.mark.parametrize("project", [ROOT, ROOT / "packaging/cdc-outbox-app"])
def test_the_metadata_names_versions_frameworks_and_where_the_documentation_is(project: Path) -> None:
    described = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    wanted = {"Framework :: Django", "Typing :: Typed"}
    wanted |= {f"Programming Language :: Python :: 3.{minor}" for minor in range(11, 15)}
    assert wanted <= set(described["classifiers"])
    assert described["urls"]["Documentation"] == cdc_outbox.DOCUMENTATION
    assert all(url.startswith(cdc_outbox.DOCUMENTATION) for url in described["urls"].values())
    assert described["authors"]
