"""`slot recover --since`: which rows are sent, by the type of the column with their time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from tests.faults.acts import recover
from tests.plugins.outbox import ids

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

DAYS: Final = ("2026-01-01", "2026-01-02", "2026-01-03")


def with_times(outbox: Outbox, column_type: str, column: str = "created_at") -> list[str]:
    """One row at noon of each of `DAYS`, in UTC, and one without a time. Their ids."""
    outbox.create()
    outbox.database.execute(f"ALTER TABLE outbox ADD {column} {column_type}")
    outbox.create_slot()
    outbox.database.execute(f"ALTER DATABASE {outbox.database.name} SET timezone = 'Asia/Tokyo'")
    offset = "Z" if "time zone" in column_type or column_type == "timestamptz" else ""
    return [outbox.add(**{column: f"{day} 12:00{offset}"}) for day in DAYS] + [outbox.add(**{column: None})]


@pytest.mark.parametrize(
    ("column_type", "since", "sent"),
    [
        ("timestamptz", "2026-01-02T12:00Z", slice(1, 4)),
        ("timestamptz", "2026-01-02T12:00:01Z", slice(2, 4)),
        ("timestamptz", "2026-01-02T21:00+09:00", slice(1, 4)),
        ("timestamp", "2026-01-02T12:00", slice(1, 4)),
        ("timestamp", "2026-01-02T12:00:01Z", slice(2, 4)),
        ("date", "2026-01-02T23:59Z", slice(1, 4)),
        ("date", "2026-01-03", slice(2, 4)),
        ("timestamptz", "2030-01-01", slice(3, 4)),
        ("timestamptz", "99999d", slice(0, 4)),
    ],
)
def test_rows_of_that_time_or_later_are_sent_and_those_without_a_time(
    outbox: Outbox, column_type: str, since: str, sent: slice
) -> None:
    written = with_times(outbox, column_type)
    said = recover(outbox, "--since", since)
    assert ids(outbox.records()) == written[sent]
    assert f"{len(written[sent])} rows are sent, {4 - len(written[sent])} are older" in said
    behind = outbox.add(created_at=DAYS[0])
    outbox.drain()
    assert ids(outbox.records()) == [*written[sent], behind], "the stream is not concerned"


def test_the_time_is_that_of_the_column_that_is_named(outbox: Outbox) -> None:
    written = with_times(outbox, "timestamptz", "written")
    recover(outbox, "--timestamp-column", "written", "--since", "2026-01-03")
    assert ids(outbox.records()) == written[2:]


@pytest.mark.parametrize("column_type", [None, "bigint", "text"])
def test_a_table_without_a_time_is_a_usage_error_whose_cure_names_the_option(
    outbox: Outbox, column_type: str | None
) -> None:
    outbox.create()
    if column_type:
        outbox.database.execute(f"ALTER TABLE outbox ADD created_at {column_type}")
    outbox.create_slot()
    written = outbox.add()
    said = recover(outbox, "--since", "1d", code=2)
    assert "public.outbox" in said
    assert "--timestamp-column COLUMN" in said
    assert outbox.records() == []
    outbox.drain()
    assert ids(outbox.records()) == [written], "the old slot is unchanged"


@pytest.mark.parametrize("text", ["yesterday", "7 days", "-1d", "2026-13-01", "", "1e9d"])
def test_text_that_is_no_time_is_a_usage_error(outbox: Outbox, text: str) -> None:
    assert "Invalid value for '--since'" in recover(outbox, "--since", text, code=2)
