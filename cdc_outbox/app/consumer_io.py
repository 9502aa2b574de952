"""The handler's connection, in a thread or in asyncio: one transaction claims a batch and handles it.

In: `connect` and the handler of the application; events and the statement that claims them. Out: how many are new.
Never: a claim that is committed without its effect while the loop goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

from .calls import Statement, explain
from .driver import AsyncDriver, Driver
from .drivers import driver_for
from .errors import OutboxUsageError
from .received import ReceivedEvent

T = TypeVar("T")


class Misused(OutboxUsageError):
    """`connect`, the handler or the inbox cannot work, whatever the event: the loop ends, and no event counts as tried."""


class Io(Protocol):
    """Waits and uses a connection, in this thread or in asyncio."""

    async def wait(self, blocking: Callable[[], T]) -> T:
        """Call a blocking function."""

    async def connected(self) -> Any:
        """The connection; a new one if there is none."""

    async def disconnect(self) -> None:
        """Close it, if there is one. Never raises."""

    async def works(self, connection: Any) -> bool:
        """Whether the connection can still be used after a failure. Raises Misused if the handler has committed the claims."""

    async def handle(self, connection: Any, claim: Statement, events: list[ReceivedEvent], *, handled: bool) -> int:
        """In one transaction: claim, then call the handler for the events that are new. Returns how many these are."""


def _new_events(events: list[ReceivedEvent], claimed: str) -> Iterator[ReceivedEvent]:
    """The claimed events, in their order, each once. `claimed`: a JSON array of ids."""
    new = set(json.loads(claimed))
    for event in events:
        if event.id in new:
            new.discard(event.id)
            yield event


class Blocking:
    """In this thread: the coroutines block and never suspend."""

    def __init__(self, handler: Callable[[ReceivedEvent, Any], object], connect: Callable[[], Any]) -> None:
        self._handler = handler
        self._connect = connect
        self._connection: Any = None
        self._claimed_in: str | None = None
        """The id of the last transaction that claimed."""

    async def wait(self, blocking: Callable[[], T]) -> T:
        return blocking()

    async def connected(self) -> Any:
        if self._connection is None:
            made = self._connect()
            _require_no_awaitable(made, "connect")
            _blocking_driver(made)
            self._connection = made
        return self._connection

    async def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            connection.close()

    async def works(self, connection: Any) -> bool:
        try:
            driver = _blocking_driver(connection)
            with driver.transaction(nested=False):
                status = driver.ask(_status_of(self._claimed_in))
        except Exception:  # noqa: BLE001 - whatever the driver raises: it cannot be used
            return False
        _require_undone(status, self._claimed_in)
        return True

    async def handle(self, connection: Any, claim: Statement, events: list[ReceivedEvent], *, handled: bool) -> int:
        self._claimed_in = None
        driver = _blocking_driver(connection)
        with driver.transaction(nested=False):
            with _inbox_errors(claim):
                claimed = driver.ask(claim)
            new = list(_new_events(events, claimed))
            if handled and new:
                self._claimed_in = driver.ask(_TRANSACTION)
                with driver.pipeline() if len(new) > 1 else contextlib.nullcontext():
                    for event in new:
                        _require_no_awaitable(self._handler(event, connection), "the handler")
                _require_same(self._claimed_in, driver.ask(_TRANSACTION))
        return len(new)


class Asyncio:
    """In asyncio; Kafka's client blocks in a separate thread."""

    def __init__(
        self, handler: Callable[[ReceivedEvent, Any], Awaitable[object]], connect: Callable[[], Awaitable[Any]]
    ) -> None:
        self._handler = handler
        self._connect = connect
        self._connection: Any = None
        self._claimed_in: str | None = None
        """The id of the last transaction that claimed."""

    async def wait(self, blocking: Callable[[], T]) -> T:
        return await asyncio.to_thread(blocking)

    async def connected(self) -> Any:
        if self._connection is None:
            made = await _require_awaitable(self._connect(), "connect")
            _asyncio_driver(made)
            self._connection = made
        return self._connection

    async def disconnect(self) -> None:
        connection, self._connection = self._connection, None
        with contextlib.suppress(Exception):
            await connection.close()

    async def works(self, connection: Any) -> bool:
        try:
            driver = _asyncio_driver(connection)
            async with driver.transaction(nested=False):
                status = await driver.ask(_status_of(self._claimed_in))
        except Exception:  # noqa: BLE001 - whatever the driver raises: it cannot be used
            return False
        _require_undone(status, self._claimed_in)
        return True

    async def handle(self, connection: Any, claim: Statement, events: list[ReceivedEvent], *, handled: bool) -> int:
        self._claimed_in = None
        driver = _asyncio_driver(connection)
        async with driver.transaction(nested=False):
            with _inbox_errors(claim):
                claimed = await driver.ask(claim)
            new = list(_new_events(events, claimed))
            if handled and new:
                self._claimed_in = await driver.ask(_TRANSACTION)
                async with driver.pipeline() if len(new) > 1 else contextlib.nullcontext():
                    for event in new:
                        await _require_awaitable(self._handler(event, connection), "the handler")
                _require_same(self._claimed_in, await driver.ask(_TRANSACTION))
        return len(new)


_TRANSACTION: Final = Statement(("SELECT CAST(pg_catalog.pg_current_xact_id_if_assigned() AS text)",), (), "", "")
"""The id of the transaction; NULL if it has not written (PostgreSQL manual, 9.27.9)."""


def _require_same(before: str | None, after: str | None) -> None:
    """Raise RuntimeError if the handler has ended the transaction."""
    if before != after:
        raise RuntimeError("the handler has committed or rolled back the transaction: leave both to consume")


def _status_of(transaction: str | None) -> Statement:
    """Ask for the status of a transaction by its id; NULL for None (PostgreSQL manual, 9.27.9)."""
    pieces = ("SELECT pg_catalog.pg_xact_status(CAST(CAST(", " AS text) AS pg_catalog.xid8))")
    return Statement(pieces, (transaction,), "", "")


def _require_undone(status: str | None, transaction: str | None) -> None:
    """Raise Misused if the claims of a failed transaction are committed: the next try would take its events for duplicates."""
    if status == "committed":
        raise Misused(
            "the handler has committed the transaction of a batch that failed: events are claimed that may have no effect. "
            f"Correct the handler, and delete the rows of the inbox whose xmin is {int(transaction or 0) % 2**32}: "
            "their events come again"
        )


@contextlib.contextmanager
def _inbox_errors(claim: Statement) -> Iterator[None]:
    """Raise Misused for a claim that the database cannot run: no event is the reason."""
    try:
        yield
    except Exception as error:
        if explain(error, claim):
            raise Misused("; ".join([str(error), *error.__notes__])) from error
        raise


def _require_no_awaitable(result: object, what: str) -> None:
    """Raise Misused for a coroutine, which would never run: its event would be claimed without an effect."""
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise Misused(f"{what} returned an awaitable, which consume does not await: await consume_async(...)")


def _require_awaitable(result: Any, what: str) -> Any:
    """The result. Raises Misused for one that cannot be awaited."""
    if inspect.isawaitable(result):
        return result
    raise Misused(f"consume_async awaits {what}, and it returned no awaitable: write async def, or use consume(...)")


def _blocking_driver(connection: Any) -> Driver:
    driver = driver_for(connection)
    if isinstance(driver, AsyncDriver):
        raise OutboxUsageError("connect makes a connection for asyncio: await consume_async(...)")
    return driver


def _asyncio_driver(connection: Any) -> AsyncDriver:
    driver = driver_for(connection)
    if isinstance(driver, Driver):
        raise OutboxUsageError("connect makes a connection that blocks: use consume(...)")
    return driver
