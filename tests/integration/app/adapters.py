"""Every kind of connection that an application may hold, behind one face, so that one test is asked of all of them.

`open_adapter(name, dsn)` gives an `Adapter`: its `target` is what goes into `emit` and `once`. Those for asyncio run in a
loop that stands still between calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from cdc_outbox.app import emit, once
from tests.integration.app import django_project

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from uuid import UUID


class Adapter:
    """A connection, and the three things that an application does with it."""

    def __init__(self, target: Any, execute: Callable[[str], Any], transaction: Callable[[], Any]) -> None:
        self.target = target
        self._execute = execute
        self._transaction = transaction

    def emit(self, **event: Any) -> UUID:
        return emit(self.target, **event)

    def call(self, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        """Call a method of an `Outbox`, or `emit_many`, with this connection; wait for it where it is for asyncio."""
        return method(self.target, *arguments, **more)

    def execute(self, query: str) -> None:
        """The application's own statement."""
        self._execute(query)

    def transaction(self) -> AbstractContextManager[object]:
        """As the application would begin it: a savepoint inside another."""
        return self._transaction()

    def once(self, **message: Any) -> AbstractContextManager[bool]:
        return once(self.target, **message)


class AsyncAdapter(Adapter):
    """The same, each step run to its end."""

    def __init__(self, runner: asyncio.Runner, target: Any, execute: Any, transaction: Any) -> None:
        super().__init__(target, execute, transaction)
        self._runner = runner

    def emit(self, **event: Any) -> UUID:
        async def run() -> UUID:
            return await emit(self.target, **event)

        return self._runner.run(run())

    def call(self, method: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        async def run() -> Any:
            return await method(self.target, *arguments, **more)

        return self._runner.run(run())

    def execute(self, query: str) -> None:
        async def run() -> None:
            await self._execute(query)

        self._runner.run(run())

    def transaction(self) -> AbstractContextManager[object]:
        return in_steps(self._runner, self._transaction())

    def once(self, **message: Any) -> AbstractContextManager[bool]:
        return in_steps(self._runner, once(self.target, **message))


@contextlib.contextmanager
def in_steps(runner: asyncio.Runner, block: AbstractAsyncContextManager[Any]) -> Iterator[Any]:
    """An `async with` whose body is not asynchronous."""

    async def enter() -> Any:
        return await block.__aenter__()

    async def leave(*error: Any) -> Any:
        return await block.__aexit__(*error)

    value = runner.run(enter())
    try:
        yield value
    except BaseException as error:
        if not runner.run(leave(type(error), error, error.__traceback__)):
            raise
    else:
        runner.run(leave(None, None, None))


# --- those that block --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def psycopg_connection(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    with contextlib.closing(psycopg.connect(dsn, autocommit=autocommit)) as connection:
        yield Adapter(connection, lambda query: connection.execute(query.encode()), connection.transaction)


@contextlib.contextmanager
def psycopg_cursor(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    with contextlib.closing(psycopg.connect(dsn, autocommit=autocommit)) as connection:
        cursor = connection.cursor()
        yield Adapter(cursor, lambda query: cursor.execute(query.encode()), connection.transaction)


def engine(dsn: str, *, autocommit: bool) -> sa.Engine:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    return sa.create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool, **options
    )


@contextlib.contextmanager
def sqlalchemy_connection(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    with engine(dsn, autocommit=autocommit).connect() as connection:
        yield Adapter(connection, lambda query: connection.execute(sa.text(query)), begins(connection))


@contextlib.contextmanager
def sqlalchemy_session(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    with Session(engine(dsn, autocommit=autocommit)) as session:
        yield Adapter(session, lambda query: session.execute(sa.text(query)), begins(session))


@contextlib.contextmanager
def sqlalchemy_scoped_session(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    session = scoped_session(sessionmaker(engine(dsn, autocommit=autocommit)))
    yield Adapter(session, lambda query: session.execute(sa.text(query)), begins(session()))
    session.remove()


def begins(connection: Any) -> Callable[[], Any]:
    return lambda: connection.begin_nested() if connection.in_transaction() else connection.begin()


@contextlib.contextmanager
def django_alias(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    with django_project.database(dsn) as alias:
        yield Adapter(alias, *django_steps(alias))


@contextlib.contextmanager
def django_connection(dsn: str, *, autocommit: bool = False) -> Iterator[Adapter]:
    from django.db import connection

    with django_project.database(dsn) as alias:
        yield Adapter(connection, *django_steps(alias))


def django_steps(alias: str) -> tuple[Callable[[str], Any], Callable[[], Any]]:
    from django.db import connections, transaction

    def execute(query: str) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute(query)

    return execute, lambda: transaction.atomic(using=alias)


# --- those for asyncio -------------------------------------------------------------------------------------------------


def parameters(dsn: str) -> dict[str, Any]:
    """As asyncpg names them."""
    found: dict[str, Any] = conninfo_to_dict(dsn)
    return {"database": found.pop("dbname"), **found}


@contextlib.contextmanager
def running(opened: Callable[[], AbstractAsyncContextManager[tuple[Any, Any, Any]]]) -> Iterator[Adapter]:
    with asyncio.Runner() as runner, in_steps(runner, opened()) as (target, execute, transaction):
        yield AsyncAdapter(runner, target, execute, transaction)


def psycopg_async(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit) as connection:
            yield connection, lambda query: connection.execute(query.encode()), connection.transaction

    return running(opened)


def psycopg_async_cursor(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=autocommit) as connection:
            cursor = connection.cursor()
            yield cursor, lambda query: cursor.execute(query.encode()), connection.transaction

    return running(opened)


def asyncpg_connection(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        connection = await asyncpg.connect(**parameters(dsn))
        yield connection, connection.execute, connection.transaction
        await connection.close()

    return running(opened)


def asyncpg_of_a_pool(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with asyncpg.create_pool(**parameters(dsn), min_size=1, max_size=1) as pool, pool.acquire() as connection:
            yield connection, connection.execute, connection.transaction

    return running(opened)


@contextlib.asynccontextmanager
async def async_engine(dsn: str, driver: str, *, autocommit: bool) -> AsyncIterator[Any]:
    async def connect() -> Any:
        if driver == "asyncpg":
            return await asyncpg.connect(**parameters(dsn))
        return await psycopg.AsyncConnection.connect(dsn)

    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
    made = create_async_engine(f"postgresql+{driver}://", async_creator=connect, poolclass=NullPool, **options)
    yield made
    await made.dispose()


def sqlalchemy_async_session(
    dsn: str, *, autocommit: bool = False, driver: str = "asyncpg"
) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with async_engine(dsn, driver, autocommit=autocommit) as made, AsyncSession(made) as session:
            yield session, lambda query: session.execute(sa.text(query)), begins(session)

    return running(opened)


def sqlalchemy_async_session_of_psycopg(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    return sqlalchemy_async_session(dsn, autocommit=autocommit, driver="psycopg_async")


def sqlalchemy_async_scoped_session(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with async_engine(dsn, "asyncpg", autocommit=autocommit) as made:
            session = async_scoped_session(lambda: AsyncSession(made), scopefunc=lambda: "the test")
            yield session, lambda query: session.execute(sa.text(query)), begins(session())
            await session.remove()

    return running(opened)


def sqlalchemy_async_connection(dsn: str, *, autocommit: bool = False) -> AbstractContextManager[Adapter]:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[tuple[Any, Any, Any]]:
        async with async_engine(dsn, "asyncpg", autocommit=autocommit) as made, made.connect() as connection:
            yield connection, lambda query: connection.execute(sa.text(query)), begins(connection)

    return running(opened)


ADAPTERS: Final[dict[str, Callable[..., AbstractContextManager[Adapter]]]] = {
    each.__name__: each
    for each in (
        psycopg_connection,
        psycopg_cursor,
        psycopg_async,
        psycopg_async_cursor,
        asyncpg_connection,
        asyncpg_of_a_pool,
        sqlalchemy_session,
        sqlalchemy_scoped_session,
        sqlalchemy_connection,
        sqlalchemy_async_session,
        sqlalchemy_async_session_of_psycopg,
        sqlalchemy_async_scoped_session,
        sqlalchemy_async_connection,
        django_alias,
        django_connection,
    )
}
