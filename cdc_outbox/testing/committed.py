"""`outbox_events`: the events of a test that the database has committed.

In: what `emit` writes while a test runs. Out: `CommittedEvents`, a list that asks the database at each use.
Never: a connection that stays open, because it would keep a test's database from being dropped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, overload

import psycopg
from psycopg import sql

from cdc_outbox.app.calls import table_of
from cdc_outbox.app.captures import Written, observe
from cdc_outbox.app.event import Event
from cdc_outbox.testing.address import conninfo_of

LOCK_SECONDS: Final = 10
"""A test that holds a lock on the whole table gets an error after this time, instead of a wait without end."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A table, on a server, and its column of ids; both names are quoted."""

    conninfo: str
    table: str
    id_column: str

    def present(self, ids: list[str]) -> set[str]:
        """Those of the ids that have a committed row."""
        query = f"SELECT {self.id_column}::text FROM {self.table} WHERE {self.id_column}::text = ANY (%s)"  # noqa: S608
        with psycopg.connect(self.conninfo, autocommit=True) as connection:
            connection.execute(sql.SQL("SET lock_timeout = {}").format(LOCK_SECONDS * 1000))
            return {found for (found,) in connection.execute(query.encode(), [ids])}


class CommittedEvents(Sequence[Event]):
    """The events as they are now. It compares with lists; `uncommitted` has those whose transaction is open or rolled back."""

    def __init__(self, conninfo: str | None) -> None:
        self._conninfo = conninfo
        self._written: list[tuple[_Place, Event]] = []

    def note(self, written: Written) -> None:
        """Add what was written."""
        conninfo = self._conninfo or conninfo_of(written.connection)
        self._written += [
            (_Place(conninfo, table_of(event.table), written.id_column), event) for event in written.events
        ]

    @property
    def uncommitted(self) -> list[Event]:
        """The events that were written and are not committed."""
        return self._split()[1]

    def clear(self) -> None:
        """Forget what was emitted so far."""
        self._written.clear()

    @overload
    def __getitem__(self, index: int) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Event]: ...

    def __getitem__(self, index: int | slice) -> Event | Sequence[Event]:
        return self._split()[0][index]

    def __iter__(self) -> Iterator[Event]:
        return iter(self._split()[0])

    def __len__(self) -> int:
        return len(self._split()[0])

    def __eq__(self, other: object) -> bool:
        return list(self) == (list(other) if isinstance(other, Sequence) else other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        committed, left = self._split()
        return f"{committed!r}" + (f" and {len(left)} not committed: {left!r}" if left else "")

    def _split(self) -> tuple[list[Event], list[Event]]:
        """The events that are committed, and the others, with one query for each table."""
        ids: dict[_Place, list[str]] = {}
        for place, event in self._written:
            ids.setdefault(place, []).append(str(event.id))
        present = {(place, found) for place, wanted in ids.items() for found in place.present(wanted)}
        parts: tuple[list[Event], list[Event]] = ([], [])
        for place, event in self._written:
            parts[(place, str(event.id)) not in present].append(event)
        return parts


@contextlib.contextmanager
def committed_events(conninfo: str | None) -> Iterator[CommittedEvents]:
    """Collect what is emitted inside the block. `conninfo`: where the tables are read; None: where the event was emitted."""
    events = CommittedEvents(conninfo)
    with observe(events.note):
        yield events
