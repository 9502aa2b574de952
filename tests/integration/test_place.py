"""Where the servers of the tests keep their data, and what is done about data whose server is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.binaries import enterable_folder, unprivileged_account
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.servers import place
from tests.servers.place import LEFT_BEHIND_SECONDS, data_folder, sweep

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(place.ENVIRONMENT, raising=False)
    data_folder.cache_clear()
    yield
    data_folder.cache_clear()


def test_a_folder_that_is_named_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(place.ENVIRONMENT, str(tmp_path))
    assert data_folder() == tmp_path


@pytest.mark.parametrize("lacking", ["ROOM", "MEMORY"])
def test_where_memory_is_short_data_goes_to_the_usual_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    monkeypatch.setattr(place, lacking, 1 << 60)
    assert data_folder() is None


def test_without_shared_memory_data_goes_to_the_usual_temporary_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(place, "SHARED_MEMORY", tmp_path / "none")
    assert data_folder() is None


def test_where_there_is_enough_data_goes_to_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in (("SHARED_MEMORY", tmp_path), ("ROOM", 1), ("MEMORY", 1)):
        monkeypatch.setattr(place, name, value)
    assert data_folder() == tmp_path


def test_a_server_keeps_its_data_there_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, postgres_binaries: Path
) -> None:
    account = unprivileged_account()
    with tempfile.TemporaryDirectory(dir=enterable_folder(account)) as name:
        folder = Path(name)
        folder.chmod(0o711)  # for the account that root's server runs as
        monkeypatch.setenv(place.ENVIRONMENT, name)
        with EmbeddedPostgres(bin_dir=postgres_binaries, parent=data_folder()) as server:
            assert server.data_dir.is_relative_to(folder)
        assert not list(folder.iterdir())


def test_what_a_server_left_is_removed_when_it_is_old_and_unused(tmp_path: Path) -> None:
    left, young, other, used = (tmp_path / name for name in ("cdc-outbox-1", "cdc-outbox-2", "x", "cdc-outbox-3"))
    for folder in (left, young, other, used):
        (folder / "data").mkdir(parents=True)
    long_ago = time.time() - 2 * LEFT_BEHIND_SECONDS
    for folder in (left, other, used):
        os.utime(folder, (long_ago, long_ago))
    with subprocess.Popen([sys.executable, "-c", "input()", f"{used}/data"], stdin=subprocess.PIPE) as worker:
        sweep(tmp_path)
        worker.communicate(b"\n")
    assert {each.name for each in tmp_path.iterdir()} == {young.name, other.name, used.name}
