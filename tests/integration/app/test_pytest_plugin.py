"""The pytest plugin in a project of its own: installed as a wheel, found by pytest, used as its page shows."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import ROOT, read
from tests.integration.app.adapters import ADAPTERS
from tests.plugins.command import environment

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.postgres import Database

PAGE: Final = "docs/how-to/test-events.md"
DISTRIBUTIONS: Final = {"cdc-outbox": ROOT, "cdc-outbox-app": ROOT / "packaging" / "cdc-outbox-app"}


def unpacked(distribution: str, folder: Path) -> Path:
    """The files of the wheel, as an installation has them."""
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=DISTRIBUTIONS[distribution], check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture(scope="module")
def relay_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("cdc-outbox", tmp_path_factory.mktemp("relay"))


@pytest.fixture(scope="module")
def app_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked("cdc-outbox-app", tmp_path_factory.mktemp("app"))


def run_tests(installed: Path, folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """pytest in a project that has only the wheel and its dependencies."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments],
        cwd=folder,
        env=environment({"PYTHONPATH": str(installed), **variables}),
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )


def outcome(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout.rstrip().rpartition("\n")[2].strip("= ")


def page_block(beginning: str) -> str:
    (found,) = [each for each in read(PAGE).blocks if each.first_line == beginning]
    return found.text


def test_the_page_followed_in_a_new_project(relay_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(page_block("# test_orders.py"))

    done = run_tests(relay_wheel, tmp_path)

    assert outcome(done).startswith("3 passed"), done.stdout


def test_the_fixtures_in_a_service_that_only_emits(app_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(page_block("# test_orders.py"))

    done = run_tests(app_wheel, tmp_path)

    assert "2 passed, 1 error" in outcome(done), done.stdout
    assert "install 'cdc-outbox[testing]' in place of cdc-outbox-app" in " ".join(done.stdout.split())


def test_a_database_of_the_readers_own(relay_wheel: Path, tmp_path: Path, shop: Database) -> None:
    (tmp_path / "conftest.py").write_text(page_block("# conftest.py"))
    text = page_block("# test_orders.py")
    (tmp_path / "test_orders.py").write_text(
        text.replace("(outbox_postgres)", "(outbox_dsn)").replace("outbox_postgres.dsn", "outbox_dsn")
    )
    shop.execute("INSERT INTO outbox (aggregatetype, type) VALUES ('order', 'Earlier')")

    done = run_tests(relay_wheel, tmp_path, TEST_DSN=shop.dsn)

    assert outcome(done).startswith("3 passed"), done.stdout
    assert shop.execute("SELECT count(*) FROM outbox") == [(3,)], "the earlier one, and those of two tests"
    assert shop.execute("SELECT slot_name FROM pg_replication_slots WHERE database = current_database()") == []


EVERY_DRIVER: Final = """
import os, sys
import pytest
sys.path.insert(0, os.environ["ROOT"])
from cdc_outbox.app import Outbox
from tests.integration.app.adapters import ADAPTERS
import cdc_outbox

ORDER = {"aggregate_type": "order", "aggregate_id": 42, "type": "Placed", "payload": {}}


@pytest.mark.parametrize("name", ADAPTERS)
def test_committed_rolled_back_and_to_a_savepoint(name, outbox_events):
    assert cdc_outbox.__file__.startswith(os.environ["PYTHONPATH"])
    with ADAPTERS[name](os.environ["TEST_DSN"]) as adapter:
        with adapter.transaction():
            kept = adapter.emit(**ORDER)
            with pytest.raises(ZeroDivisionError), adapter.transaction():
                adapter.emit(**ORDER)
                1 / 0
            assert [event.id for event in outbox_events] == []
        with pytest.raises(ZeroDivisionError), adapter.transaction():
            adapter.emit(**ORDER)
            1 / 0
        assert [event.id for event in outbox_events] == [kept]
        assert len(outbox_events.uncommitted) == 2
    assert [event.id for event in outbox_events] == [kept], "after the connection is closed"
    assert outbox_events == [outbox_events[0]]
    assert "2 not committed" in repr(outbox_events)
    outbox_events.clear()
    assert outbox_events == []


def test_other_columns(outbox_events):
    import psycopg
    outbox = Outbox(table="events", columns={"id": "event id"})
    with psycopg.connect(os.environ["TEST_DSN"]) as connection:
        outbox.emit(connection, **ORDER)
    assert [event.table for event in outbox_events] == ["events"]
"""


def test_each_driver_in_its_own_way_of_committing(relay_wheel: Path, tmp_path: Path, shop: Database) -> None:
    (tmp_path / "test_drivers.py").write_text(EVERY_DRIVER)
    shop.execute('CREATE TABLE events (LIKE outbox INCLUDING ALL); ALTER TABLE events RENAME id TO "event id"')

    done = run_tests(relay_wheel, tmp_path, "-x", TEST_DSN=shop.dsn, ROOT=str(ROOT))

    assert outcome(done).startswith(f"{len(ADAPTERS) + 1} passed"), done.stdout


def test_a_project_that_does_not_use_it_imports_the_plugin_alone(relay_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\n"
        "def test_other():\n"
        "    ours = sorted(name for name in sys.modules if name.startswith('cdc_outbox'))\n"
        "    assert ours == ['cdc_outbox', 'cdc_outbox.testing', 'cdc_outbox.testing.plugin']\n"
        "    assert not {'psycopg', 'confluent_kafka', 'click'} & set(sys.modules)\n"
    )

    done = run_tests(relay_wheel, tmp_path)

    assert outcome(done).startswith("1 passed"), done.stdout


def test_without_a_server_it_names_what_to_install(relay_wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "test_orders.py").write_text(page_block("# test_orders.py"))

    done = run_tests(relay_wheel, tmp_path, "-k", "announced", CDC_OUTBOX_POSTGRES_BIN=os.devnull)

    assert "1 error" in outcome(done)
    assert "No PostgreSQL server in" in done.stdout
