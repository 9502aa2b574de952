"""`capture`: the emitted events, for an application's tests. Without Kafka, and optionally without a database.

Captures belong to the process and not to a thread, because test clients may run the application in another thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias
from uuid import UUID

from .drivers import identity
from .event import Event


@dataclass(frozen=True, slots=True)
class Written:
    """The events of one call of `emit` or `emit_many`, and where their rows are."""

    events: list[Event]
    connection: object
    id_column: str
    """The column with the event's id, quoted."""


Note: TypeAlias = Callable[[Written], None]


@dataclass(frozen=True, slots=True, eq=False)
class _Capture:
    """One open block of `capture` or `observe`."""

    note: Note
    connection: object
    """Notes only events on this connection; None: on any."""
    write: bool
    rows_only: bool
    """Notes no event that another capture keeps from being written."""


_open: Final[list[_Capture]] = []


@contextlib.contextmanager
def capture(connection: object = None, /, *, write: bool = True) -> Iterator[list[Event]]:
    """Collect the events that are emitted inside the block, in order: `assert [event.type for event in events] == […]`.

    With `connection`, only events emitted on this connection or session. An event is in the list once its row was
    written, and stays there if the transaction is rolled back later: only the table shows a rollback.

    `write=False`: nothing is written, no connection is touched, no transaction asked for, and `emit` takes any object in
    its place: None, a mock, a fake session. It returns an awaitable if the object is one for asyncio, or has an `execute`
    that is a coroutine function.
    """
    events: list[Event] = []
    target = None if connection is None else identity(connection)
    with _opened(_Capture(lambda written: events.extend(written.events), target, write, rows_only=False)):
        yield events


def observe(note: Note) -> contextlib.AbstractContextManager[None]:
    """Call `note` after each write inside the block, while the transaction is still open."""
    return _opened(_Capture(note, None, write=True, rows_only=True))


@contextlib.contextmanager
def _opened(mine: _Capture) -> Iterator[None]:
    _open.append(mine)
    try:
        yield
    finally:
        _open.remove(mine)


@dataclass(frozen=True, slots=True)
class Recorder:
    """The captures that one call of `emit` concerns."""

    captures: tuple[_Capture, ...]
    connection: object
    id_column: str

    @property
    def write(self) -> bool:
        """Whether the event is written: no capture has `write=False`."""
        return all(capture.write for capture in self.captures)

    def record(self, events: list[Event]) -> list[UUID]:
        """Add the events to each capture. Returns their ids."""
        if self.captures:
            written = Written(events, self.connection, self.id_column)
            for each in self.captures:
                if self.write or not each.rows_only:
                    each.note(written)
        return [event.id for event in events]


def recorder_for(connection: object, id_column: str) -> Recorder:
    """The open captures for this connection or for any."""
    if not _open:
        return _NONE
    key = identity(connection)
    concerned = tuple(each for each in _open if each.connection is None or _same(each.connection, key))
    return Recorder(concerned, connection, id_column)


def _same(one: object, other: object) -> bool:
    """The same object, or the same alias."""
    return one is other or (isinstance(one, str) and one == other)


_NONE: Final = Recorder((), None, "")
