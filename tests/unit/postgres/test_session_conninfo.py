"""Which options a session asks for: those of the user, then the pinned ones, which win."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.postgres.conninfo import KEEPALIVES, PINNED, SERVER_KEEPALIVES, session_conninfo

if TYPE_CHECKING:
    from pathlib import Path


def options(dsn: str) -> str:
    """All but those that the user may override: they come first."""
    found = str(conninfo_to_dict(session_conninfo(dsn))["options"])
    assert found.startswith(SERVER_KEEPALIVES)
    return found.removeprefix(SERVER_KEEPALIVES).lstrip()


def test_options_of_the_connection_string_come_before_the_pinned_ones() -> None:
    given = options("options='-c wal_sender_timeout=5s'")
    assert given.startswith("-c wal_sender_timeout=5s -c ")
    assert all(f"-c {name}=" in given for name in PINNED)


def test_pgoptions_is_merged_and_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    assert options("dbname=shop").startswith("-c work_mem=8MB -c ")


@pytest.fixture
def service_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A service file that libpq finds: [shop] has options, [plain] has none."""
    file = tmp_path / "pg_service.conf"
    file.write_text("[plain]\ndbname=plain\n\n[shop]\nhost=db.example\nport=5433\noptions=-c work_mem=2MB\n")
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    return file


@pytest.mark.usefixtures("service_file")
@pytest.mark.parametrize("by", ["the connection string", "the environment", "a URL"])
def test_options_of_a_service_file_are_merged_and_not_dropped(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "the environment":
        monkeypatch.setenv("PGSERVICE", "shop")
    dsn = {"the connection string": "service=shop", "the environment": "", "a URL": "postgresql://?service=shop"}[by]
    assert options(dsn).startswith("-c work_mem=2MB -c ")


@pytest.mark.usefixtures("service_file")
def test_options_of_every_source_are_merged_and_libpqs_order_of_precedence_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """PostgreSQL applies them in order: the last one counts."""
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    given = options("service=shop options='-c work_mem=1MB'")
    assert given.startswith("-c work_mem=8MB -c work_mem=2MB -c work_mem=1MB -c ")
    assert options("service=plain").count("work_mem") == 1


@pytest.mark.usefixtures("service_file")
def test_all_else_of_a_service_is_left_to_libpq() -> None:
    assert "host" not in conninfo_to_dict(session_conninfo("service=shop"))
    assert options("service=unknown").startswith("-c search_path=")


def test_a_dead_peer_is_noticed_and_the_user_may_choose_when() -> None:
    chosen = conninfo_to_dict(session_conninfo("dbname=shop"))
    assert {name: chosen[name] for name in KEEPALIVES} == KEEPALIVES
    assert int(KEEPALIVES["tcp_user_timeout"]) <= 60_000
    assert conninfo_to_dict(session_conninfo("keepalives_idle=5"))["keepalives_idle"] == "5"


@pytest.mark.parametrize(
    "text", ["host=h dbname=\udcff", "postgresql://h/d\udcff", "host=h dbname=d\0 sslmode=disable"]
)
def test_text_that_libpq_would_not_take_as_it_is_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError) as refused:
        session_conninfo(text)
    assert refused.value.code == "dsn-invalid"
    monkeypatch.setenv("PGOPTIONS", "-c application_name=\udcff")
    with pytest.raises(ConfigurationError):
        session_conninfo("host=h")
