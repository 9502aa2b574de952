"""The pages for those who operate it: their queries run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.docs.pages import block

if TYPE_CHECKING:
    from tests.plugins.postgres import Database


@pytest.mark.parametrize(
    ("page", "beginning"),
    [
        ("docs/runbook.md", "SELECT pid, usename, state, xact_start, left(query, 60) AS query"),
        (
            "docs/how-to/size-wal.md",
            "SELECT now(), pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') AS bytes_written_since_initdb;",
        ),
    ],
)
def test_the_queries_run(database: Database, page: str, beginning: str) -> None:
    with database.connect(autocommit=False) as other:
        other.execute("SELECT pg_current_xact_id()")
        assert database.execute(block(page, beginning).text)
