"""The interface of a driver, which drivers.py implements for each kind of connection, and the two errors they share.

In: nothing. Out: `Driver`, `AsyncDriver`, the types that `emit` and `once` accept, and the errors about transactions.
Never: code for a specific driver.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeAlias

from .calls import Statement
from .errors import OutboxUsageError


class _Executes(Protocol):
    """psycopg's connections and cursors, SQLAlchemy's sessions and connections."""

    def execute(self, *args: Any, **kwargs: Any) -> Any:
        """Run a statement."""


class _HasCursor(Protocol):
    """Django's connections."""

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        """Make a cursor."""


class _ExecutesAsync(Protocol):
    """psycopg's and SQLAlchemy's classes for asyncio, and asyncpg's connections."""

    def execute(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Run a statement."""


Target: TypeAlias = _Executes | _HasCursor | str
AsyncTarget: TypeAlias = _ExecutesAsync


class Driver(ABC):
    """A connection that blocks."""

    def __init__(self, target: Any) -> None:
        self._target = target

    @abstractmethod
    def require_transaction(self) -> None:
        """Raise OutboxUsageError if a statement would be committed alone."""

    @abstractmethod
    def run(self, statement: Statement) -> None:
        """Run the statement."""

    @abstractmethod
    def ask(self, statement: Statement) -> Any:
        """Run the statement and return its one value."""

    @abstractmethod
    def transaction(self, *, nested: bool) -> AbstractContextManager[object]:
        """Begin, and commit at the end. OutboxUsageError inside a transaction, unless `nested`: a savepoint there."""

    def pipeline(self) -> AbstractContextManager[object]:
        """Send the statements of the block without waiting for each, where the driver can. Errors come by its end."""
        return contextlib.nullcontext()


class AsyncDriver(ABC):
    """A connection for asyncio."""

    def __init__(self, target: Any) -> None:
        self._target = target

    @abstractmethod
    async def require_transaction(self) -> None:
        """Raise OutboxUsageError if a statement would be committed alone."""

    @abstractmethod
    async def run(self, statement: Statement) -> None:
        """Run the statement."""

    @abstractmethod
    async def ask(self, statement: Statement) -> Any:
        """Run the statement and return its one value."""

    @abstractmethod
    def transaction(self, *, nested: bool) -> AbstractAsyncContextManager[object]:
        """Begin, and commit at the end. OutboxUsageError inside a transaction, unless `nested`: a savepoint there."""

    def pipeline(self) -> AbstractAsyncContextManager[object]:
        """Send the statements of the block without waiting for each, where the driver can. Errors come by its end."""
        return contextlib.nullcontext()


def is_a(target: Any, *names: str) -> bool:
    """Whether a class of one of these names is among those of `target`."""
    return any(kind.__name__ in names for kind in target.__class__.__mro__)


def outside(cure: str) -> OutboxUsageError:
    """Make the error for a connection outside a transaction; `cure`: how to begin one."""
    return OutboxUsageError(
        f"not in a transaction: the event would be committed alone, whatever becomes of the change. {cure}"
    )


def inside() -> OutboxUsageError:
    """Make the error for a connection that is already in a transaction, where a block begins one."""
    return OutboxUsageError(
        "in a transaction already, which the end of the block would not commit: commit or roll it back first, or pass"
        " nested=True if it is committed afterwards"
    )
