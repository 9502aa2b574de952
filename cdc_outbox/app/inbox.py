"""`once`: a message takes effect once, however often it comes. Claim and effect commit together, or neither.

In: a connection or session of the caller's, a consumer's name, a message's id. Out: whether this is the first time.
Never: a commit of anything that was begun before. The claim is a row of the inbox table (`cdc-outbox sql consumer`).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Final, overload
from uuid import UUID

from .calls import Statement, explain, function_call, function_of
from .driver import AsyncDriver, AsyncTarget, Driver, Target
from .drivers import driver_for
from .errors import OutboxUsageError

_CURE: Final = "Run `cdc-outbox sql consumer --apply` on the consumer's database."


@overload
def once(
    connection: AsyncTarget,
    /,
    *,
    consumer: str,
    message_id: str | bytes | UUID,
    nested: bool = False,
    table: str = "public.inbox",
) -> AbstractAsyncContextManager[bool]: ...


@overload
def once(
    connection: Target,
    /,
    *,
    consumer: str,
    message_id: str | bytes | UUID,
    nested: bool = False,
    table: str = "public.inbox",
) -> AbstractContextManager[bool]: ...


def once(
    connection: Target | AsyncTarget,
    /,
    *,
    consumer: str,
    message_id: str | bytes | UUID,
    nested: bool = False,
    table: str = "public.inbox",
) -> AbstractContextManager[bool] | AbstractAsyncContextManager[bool]:
    """Begin a transaction, claim the message, and give whether that is the first time; commit at the end of the block.

        with once(connection, consumer="mailer", message_id=record_id) as first:
            if first:
                ...  # on the same connection

    When the block has ended, claim and effect are committed; commit the offset to Kafka only then. An
    exception in the block rolls both back, and the message may come again. With a connection for asyncio: `async with`.

    `connection`: as for `emit`. `consumer`: each that does something of its own with a message has a name of its own.
    `message_id`: the header `id` of the record. `table`: that of `cdc-outbox sql consumer`.

    A connection that is in a transaction already is refused, since the end of the block would commit nothing. With
    `nested=True` it is taken: the block is a savepoint then, and the transaction must be committed by its owner.

    Raises OutboxUsageError for that, and for a name or an id that is none.
    """
    claim = function_call(
        function_of(table, "_claim"),
        ("text", "text"),
        (_text("consumer", consumer), _text("message_id", message_id)),
        _CURE,
    )
    driver = driver_for(connection)
    if isinstance(driver, AsyncDriver):
        return _once_async(driver, claim, nested=nested)
    return _once(driver, claim, nested=nested)


def _text(name: str, given: object) -> str:
    text = str(given) if isinstance(given, UUID) else given
    if isinstance(given, bytes):
        with contextlib.suppress(UnicodeDecodeError):
            text = given.decode()
    if not isinstance(text, str) or not text:
        raise OutboxUsageError(f"{name} must be a text that is not empty, not {given!r}")
    return text


@contextlib.contextmanager
def _once(driver: Driver, claim: Statement, *, nested: bool) -> Iterator[bool]:
    with driver.transaction(nested=nested):
        try:
            first = bool(driver.ask(claim))
        except Exception as error:
            explain(error, claim)
            raise
        yield first


@contextlib.asynccontextmanager
async def _once_async(driver: AsyncDriver, claim: Statement, *, nested: bool) -> AsyncIterator[bool]:
    async with driver.transaction(nested=nested):
        try:
            first = bool(await driver.ask(claim))
        except Exception as error:
            explain(error, claim)
            raise
        yield first
