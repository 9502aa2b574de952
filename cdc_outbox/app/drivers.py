"""The operations of `emit` and `once` for each driver: check for a transaction, call a function, begin and commit.

In: an object of the application's, known by the module and name of its class. Out: a `Driver` or an `AsyncDriver` around it.
Never: an import of a driver. Its classes are taken from `sys.modules`: a module with instances is loaded.

What counts as a transaction, where it can be seen:

    psycopg      not in autocommit (it begins one by itself), or inside `connection.transaction()`
    asyncpg      inside `connection.transaction()`
    SQLAlchemy   not in autocommit: sessions and connections begin one by themselves
    Django       inside `transaction.atomic()`, or not in autocommit
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

from .calls import Statement, colon, dollar, percent
from .driver import AsyncDriver, Driver, inside, is_a, outside
from .errors import OutboxUsageError
from .mistakes import not_a_connection, not_an_alias

# --- psycopg -----------------------------------------------------------------------------------------------------------

_IDLE: Final = 0
"""psycopg.pq.TransactionStatus.IDLE: not in a transaction."""

_ACTIVE: Final = 1
"""psycopg.pq.TransactionStatus.ACTIVE: a command is in progress."""

_BLOCK: Final = "Put it into `with connection.transaction():`, together with the change."


def _psycopg_connection(target: Any) -> Any:
    """A cursor's connection, or the connection itself."""
    return target.connection if is_a(target, "Cursor", "AsyncCursor") else target


def _idle(connection: Any) -> bool:
    return bool(connection.info.transaction_status == _IDLE)


def _commits_each(connection: Any) -> bool:
    """Whether it is in autocommit, and in no transaction.

    In a pipeline the status is ACTIVE as soon as anything is sent, whether a transaction was begun or not: then only
    psycopg's own count of the blocks is reliable. It does not include a BEGIN that was sent as text.
    """
    if not connection.autocommit:
        return False
    blocks = getattr(connection, "_num_transactions", None)
    if connection.info.transaction_status == _ACTIVE and isinstance(blocks, int):
        return not blocks
    return _idle(connection)


class Psycopg(Driver):
    """`psycopg.Connection`, or a cursor of it. Statements run on a cursor of their own: no factory of the caller's."""

    def __init__(self, target: Any) -> None:
        super().__init__(_psycopg_connection(target))

    def require_transaction(self) -> None:
        if _commits_each(self._target):
            raise outside(_BLOCK)

    def run(self, statement: Statement) -> None:
        self._execute(statement)

    def ask(self, statement: Statement) -> Any:
        return self._execute(statement).fetchone()[0]

    def _execute(self, statement: Statement) -> Any:
        psycopg = sys.modules["psycopg"]
        cursor = psycopg.Cursor(self._target, row_factory=psycopg.rows.tuple_row)
        return cursor.execute(statement.sql(percent), statement.arguments)

    @contextlib.contextmanager
    def transaction(self, *, nested: bool) -> Iterator[None]:
        if not nested and not _idle(self._target):
            raise inside()
        with self._target.transaction():
            yield

    def pipeline(self) -> contextlib.AbstractContextManager[object]:
        pipeline: contextlib.AbstractContextManager[object] = self._target.pipeline()
        return pipeline


class PsycopgAsync(AsyncDriver):
    """`psycopg.AsyncConnection`, or a cursor of it."""

    def __init__(self, target: Any) -> None:
        super().__init__(_psycopg_connection(target))

    async def require_transaction(self) -> None:
        if _commits_each(self._target):
            raise outside(_BLOCK.replace("with", "async with"))

    async def run(self, statement: Statement) -> None:
        await self._execute(statement)

    async def ask(self, statement: Statement) -> Any:
        return (await (await self._execute(statement)).fetchone())[0]

    async def _execute(self, statement: Statement) -> Any:
        psycopg = sys.modules["psycopg"]
        cursor = psycopg.AsyncCursor(self._target, row_factory=psycopg.rows.tuple_row)
        return await cursor.execute(statement.sql(percent), statement.arguments)

    @contextlib.asynccontextmanager
    async def transaction(self, *, nested: bool) -> AsyncIterator[None]:
        if not nested and not _idle(self._target):
            raise inside()
        async with self._target.transaction():
            yield

    def pipeline(self) -> contextlib.AbstractAsyncContextManager[object]:
        pipeline: contextlib.AbstractAsyncContextManager[object] = self._target.pipeline()
        return pipeline


# --- asyncpg -----------------------------------------------------------------------------------------------------------


class Asyncpg(AsyncDriver):
    """`asyncpg.Connection`, or what a pool lends."""

    async def require_transaction(self) -> None:
        if not (self._target.is_in_transaction() or self._target.is_closed()):
            raise outside("Put it into `async with connection.transaction():`, together with the change.")

    async def run(self, statement: Statement) -> None:
        await self._target.execute(statement.sql(dollar), *statement.arguments)

    async def ask(self, statement: Statement) -> Any:
        return await self._target.fetchval(statement.sql(dollar), *statement.arguments)

    @contextlib.asynccontextmanager
    async def transaction(self, *, nested: bool) -> AsyncIterator[None]:
        if not nested and self._target.is_in_transaction():
            raise inside()
        async with self._target.transaction():
            yield


# --- SQLAlchemy --------------------------------------------------------------------------------------------------------


def _text_of(statement: Statement) -> tuple[Any, dict[str, Any]]:
    arguments = {f"p{number}": argument for number, argument in enumerate(statement.arguments, start=1)}
    return sys.modules["sqlalchemy"].text(statement.sql(colon)), arguments


def _require_ours(connection: Any, raw: Any) -> None:
    """Require PostgreSQL, and a connection (`raw` is the pool's) that is not in autocommit."""
    if connection.dialect.name != "postgresql":
        raise OutboxUsageError(f"this is a database of {connection.dialect.name}; the outbox needs PostgreSQL")
    if getattr(raw.dbapi_connection, "autocommit", False):
        raise outside("Use an engine, or a connection, without isolation_level AUTOCOMMIT.")


def _session(target: Any) -> Any:
    """A registry's session of now, or the session (or connection) itself."""
    return target() if is_a(target, "scoped_session", "async_scoped_session") else target


@contextlib.contextmanager
def _without_commit(target: Any) -> Iterator[None]:
    """Refuse a commit of a session inside the block, but of a savepoint: it would commit a claim without its effect."""
    if not is_a(target, "Session"):
        yield
        return

    def refuse(session: Any) -> None:
        if not session.in_nested_transaction():
            raise OutboxUsageError("the transaction is committed at the end of the block: leave out session.commit()")

    event = sys.modules["sqlalchemy"].event
    event.listen(target, "before_commit", refuse)
    try:
        yield
    finally:
        event.remove(target, "before_commit", refuse)


class Sqlalchemy(Driver):
    """`Session`, `scoped_session`, `Connection`."""

    def __init__(self, target: Any) -> None:
        super().__init__(_session(target))

    def _connection(self) -> Any:
        """Of a session: the one that it works on. Asking for it begins the session's transaction."""
        return self._target.connection() if is_a(self._target, "Session") else self._target

    def require_transaction(self) -> None:
        connection = self._connection()
        _require_ours(connection, connection.connection)

    def run(self, statement: Statement) -> None:
        self._connection().execute(*_text_of(statement))

    def ask(self, statement: Statement) -> Any:
        return self._connection().execute(*_text_of(statement)).scalar()

    @contextlib.contextmanager
    def transaction(self, *, nested: bool) -> Iterator[None]:
        begun = self._target.in_transaction()
        if begun and not nested:
            raise inside()
        with self._target.begin_nested() if begun else self._target.begin():
            self.require_transaction()
            with _without_commit(self._target):
                yield


class SqlalchemyAsync(AsyncDriver):
    """`AsyncSession`, `async_scoped_session`, `AsyncConnection`."""

    def __init__(self, target: Any) -> None:
        super().__init__(_session(target))

    async def _connection(self) -> Any:
        return await self._target.connection() if is_a(self._target, "AsyncSession") else self._target

    async def require_transaction(self) -> None:
        connection = await self._connection()
        _require_ours(connection, await connection.get_raw_connection())

    async def run(self, statement: Statement) -> None:
        await (await self._connection()).execute(*_text_of(statement))

    async def ask(self, statement: Statement) -> Any:
        return (await (await self._connection()).execute(*_text_of(statement))).scalar()

    @contextlib.asynccontextmanager
    async def transaction(self, *, nested: bool) -> AsyncIterator[None]:
        begun = self._target.in_transaction()
        if begun and not nested:
            raise inside()
        async with self._target.begin_nested() if begun else self._target.begin():
            await self.require_transaction()
            with _without_commit(getattr(self._target, "sync_session", self._target)):
                yield


# --- Django ------------------------------------------------------------------------------------------------------------


class Django(Driver):
    """A database's alias, or its connection."""

    def __init__(self, target: Any) -> None:
        if isinstance(target, str) and ("django" not in sys.modules or "=" in target or "://" in target):
            raise not_an_alias(target)
        from django.db import connections  # noqa: PLC0415 - imported only where it is used

        super().__init__(connections[target] if isinstance(target, str) else target)
        if self._target.vendor != "postgresql":
            raise OutboxUsageError(f"this is a database of {self._target.vendor}, and the outbox is PostgreSQL's")

    def require_transaction(self) -> None:
        if self._target.get_autocommit():
            raise outside("Put it into `with transaction.atomic():`, together with the change.")

    def run(self, statement: Statement) -> None:
        with self._target.cursor() as cursor:
            cursor.execute(statement.sql(percent), statement.arguments)

    def ask(self, statement: Statement) -> Any:
        with self._target.cursor() as cursor:
            cursor.execute(statement.sql(percent), statement.arguments)
            return cursor.fetchone()[0]

    @contextlib.contextmanager
    def transaction(self, *, nested: bool) -> Iterator[None]:
        """`atomic`, durable unless nested: Django's own check, which recognizes the transactions of its tests."""
        from django.db import transaction  # noqa: PLC0415

        if not nested and not self._target.in_atomic_block and not self._target.get_autocommit():
            raise inside()
        with contextlib.ExitStack() as block:
            try:
                block.enter_context(transaction.atomic(using=self._target.alias, durable=not nested))
            except RuntimeError:
                raise inside() from None
            yield


# --- which -------------------------------------------------------------------------------------------------------------

_DRIVERS: Final[dict[tuple[str, str], Callable[[Any], Driver | AsyncDriver]]] = {
    ("psycopg", "Connection"): Psycopg,
    ("psycopg", "Cursor"): Psycopg,
    ("psycopg", "AsyncConnection"): PsycopgAsync,
    ("psycopg", "AsyncCursor"): PsycopgAsync,
    ("asyncpg", "Connection"): Asyncpg,
    ("asyncpg", "PoolConnectionProxy"): Asyncpg,
    ("sqlalchemy", "Session"): Sqlalchemy,
    ("sqlalchemy", "scoped_session"): Sqlalchemy,
    ("sqlalchemy", "Connection"): Sqlalchemy,
    ("sqlalchemy", "AsyncSession"): SqlalchemyAsync,
    ("sqlalchemy", "async_scoped_session"): SqlalchemyAsync,
    ("sqlalchemy", "AsyncConnection"): SqlalchemyAsync,
    ("django", "BaseDatabaseWrapper"): Django,
    ("django", "ConnectionProxy"): Django,
    ("builtins", "str"): Django,
}
"""Drivers by package and name of a class or of one of its base classes."""


def driver_for(target: object) -> Driver | AsyncDriver:
    """Find the driver of a connection, cursor or session. Raises OutboxUsageError for any other object."""
    make = _find(target)
    if make is None:
        raise not_a_connection(target)
    return make(target)


def is_async(target: object) -> bool:
    """Whether `target` is one for asyncio; for an unknown object: whether its `execute` is a coroutine function."""
    make = _find(target)
    if make is None:
        return inspect.iscoroutinefunction(getattr(target, "execute", None))
    return make in {PsycopgAsync, Asyncpg, SqlalchemyAsync}


def is_connection(target: object) -> bool:
    """Whether `emit` can write to it. A text may be the alias of a Django database."""
    return _find(target) is not None


def identity(target: object) -> object:
    """The identity of a target: a cursor's connection, the session of a scoped one, the alias of a Django database."""
    make = _find(target)
    if make in {Sqlalchemy, SqlalchemyAsync}:
        return _session(target)
    if make in {Psycopg, PsycopgAsync}:
        return _psycopg_connection(target)
    if make is Django:
        return getattr(target, "alias", target)
    return target


def _find(target: object) -> Callable[[Any], Driver | AsyncDriver] | None:
    """`__class__` and not `type()`: for proxies and mocks of a connection it is the class that they represent."""
    for kind in target.__class__.__mro__:
        found = _DRIVERS.get((kind.__module__.partition(".")[0], kind.__name__))
        if found is not None:
            return found
    return None
