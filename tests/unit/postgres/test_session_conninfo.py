"""Which options a session asks for: those of the user, then the pinned ones, which win."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from cdc_outbox.postgres.conninfo import PINNED, session_conninfo


def options(dsn: str) -> str:
    return str(conninfo_to_dict(session_conninfo(dsn))["options"])


def test_options_of_the_connection_string_come_before_the_pinned_ones() -> None:
    given = options("options='-c wal_sender_timeout=5s'")
    assert given.startswith("-c wal_sender_timeout=5s -c ")
    assert all(f"-c {name}=" in given for name in PINNED)


def test_pgoptions_is_merged_and_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    assert options("dbname=shop").startswith("-c work_mem=8MB -c ")
    assert options("options='-c work_mem=1MB'").startswith("-c work_mem=1MB -c ")


def test_a_dead_peer_is_noticed_and_the_user_may_choose_when() -> None:
    assert conninfo_to_dict(session_conninfo("dbname=shop"))["keepalives_idle"] == "30"
    assert conninfo_to_dict(session_conninfo("keepalives_idle=5"))["keepalives_idle"] == "5"
