"""`consume`: a consumer group's loop in which every event takes effect once, in order of its key.

In: a handler, a way to connect to the handler's database, Kafka's brokers and topics. Out: calls of the handler.
Never: an effect without its claim, an offset committed before both, a second event of a key before the first has taken effect.

One turn: read what Kafka has, at most a batch; in one transaction claim the ids of all events in the inbox table
(`cdc-outbox sql consumer`) and call the handler for those that are claimed for the first time; commit; then commit the offsets.
If that fails, the events of the batch are tried one by one, each in a transaction of its own; one that fails again is tried
with growing pauses, and after the last try goes to the dead-letter topic, or ends the loop. A kill, or a rebalance in
mid-batch, brings events again; their claims are there, or neither claim nor effect is.

Needs confluent-kafka (the extra `[consumer]`) and a driver of PostgreSQL.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import logging
import random
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Final, TypeVar, Unpack

from .calls import claim_each, function_of
from .consumer_io import Asyncio, Blocking, Io, Misused
from .consumer_kafka import ConsumeOptions, KafkaConsumer, Options
from .errors import OutboxUsageError
from .mistakes import require_callables, require_options
from .received import ConsumerStats, ReceivedEvent

T = TypeVar("T")

log: Final = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 30.0
"""Pauses between tries double from the first to the longest; a quarter is added at random."""

CONNECTIONS: Final = 5
"""Connections that one transaction may lose, each of which could be made: then the handler is taken to be the cause."""

_CURE: Final = "Run `cdc-outbox sql consumer --apply` on the consumer's database."


class HandlerFailed(Exception):
    """The handler raised an exception at every try of one event, and there is no dead-letter topic. Its cause is the last."""

    def __init__(self, event: ReceivedEvent, attempts: int) -> None:
        super().__init__(
            f"event {event.id} ({event.type}, key {event.key}, {event.topic}/{event.partition}/{event.offset}) failed "
            f"{attempts} times; correct the handler and start again, or name a dead_letter_topic"
        )
        self.event = event


class _Stopped(Exception):
    """A stop was requested while an event was being retried. It is not consumed; Kafka delivers it again."""


def consume(
    handler: Callable[[ReceivedEvent, Any], object],
    *,
    connect: Callable[[], Any],
    stop: threading.Event | None = None,
    stats: ConsumerStats | None = None,
    **options: Unpack[ConsumeOptions],
) -> None:
    """Consume until stopped; call `handler(event, connection)` once for each event, in the transaction that claims it.

    `connect` makes the connection or session, as for `emit`; it is called again when one is lost. The handler works on that
    connection and does not commit. `options`: those of `Options`; `brokers`, `group` and `topics` are required.

    An event that fails is tried `attempts` times; then it goes to `dead_letter_topic` with the reason in its headers, or
    without one HandlerFailed is raised. While the database cannot be reached nothing counts as a try.

    `stop`: ends the loop after the present batch; without it SIGTERM and SIGINT do, in the main thread, and a second one
    ends at once, by KeyboardInterrupt. `stats`: the counters; `ConsumerStats.openmetrics` shows it to Prometheus.

    Raises HandlerFailed, OutboxUsageError for invalid arguments, and Kafka's KafkaException for a fatal error of its
    client.
    """
    if inspect.iscoroutinefunction(handler):
        raise OutboxUsageError("the handler is a coroutine function: await consume_async(...)")
    require_callables(handler, connect)
    require_options(options, Options)
    chosen = Options(**options)
    with _stop_or_signals(stop) as event, contextlib.closing(KafkaConsumer(chosen, event)) as kafka:
        loop = _Loop(chosen, kafka, Blocking(handler, connect), stats or ConsumerStats())
        _finish(loop.run())


async def consume_async(
    handler: Callable[[ReceivedEvent, Any], Awaitable[object]],
    *,
    connect: Callable[[], Awaitable[Any]],
    stop: threading.Event | None = None,
    stats: ConsumerStats | None = None,
    **options: Unpack[ConsumeOptions],
) -> None:
    """`consume` for asyncio: `handler` and `connect` are awaited. Cancelling the task ends the loop; so does `stop`."""
    require_callables(handler, connect)
    require_options(options, Options)
    chosen = Options(**options)
    kafka = KafkaConsumer(chosen, stop or threading.Event())
    try:
        await _Loop(chosen, kafka, Asyncio(handler, connect), stats or ConsumerStats()).run()
    finally:
        await asyncio.shield(asyncio.to_thread(kafka.close))


class _Loop:
    """The loop. Every wait is awaited, so that the same code serves threads and asyncio."""

    def __init__(self, options: Options, kafka: KafkaConsumer, io: Io, stats: ConsumerStats) -> None:
        self._options = options
        self._kafka = kafka
        self._io = io
        self._stats = stats
        self._claim = function_of(options.table, "_claim")

    async def run(self) -> None:
        """Run until stopped."""
        try:
            while not self._kafka.stopped:
                events = await self._io.wait(self._kafka.read)
                if events:
                    self._stats.received += len(events)
                    await self._take(events)
                    await self._io.wait(functools.partial(self._kafka.commit, events))
        except _Stopped:
            log.info("stopped while an event was being retried; it comes again")
        finally:
            await self._io.disconnect()

    async def _take(self, events: list[ReceivedEvent]) -> None:
        if len(events) > 1:
            with contextlib.suppress(_Failed):
                await self._transaction(events)
                return
        for event in events:
            await self._take_one(event)

    async def _take_one(self, event: ReceivedEvent) -> None:
        attempts = self._options.attempts
        for attempt in range(1, attempts + 1):
            try:
                await self._transaction([event])
                return
            except _Failed as failed:
                self._stats.failures += 1
                log.warning("event %s (%s) failed, try %d: %r", event.id, event.type, attempt, failed.error)
                if attempt < attempts:
                    await self._pause(attempt)
                elif self._options.dead_letter_topic is None:
                    raise HandlerFailed(event, attempts) from failed.error
                else:
                    await self._give_up(event, failed.error)

    async def _give_up(self, event: ReceivedEvent, error: Exception) -> None:
        """Send the event to the dead-letter topic, then claim it. A kill in between repeats it, with the same id."""
        await self._io.wait(lambda: self._kafka.dead_letter(event, error))
        log.error("event %s (%s) is in %s: %r", event.id, event.type, self._options.dead_letter_topic, error)
        self._stats.dead_lettered += 1
        await self._transaction([event], handled=False)

    async def _transaction(self, events: list[ReceivedEvent], *, handled: bool = True) -> None:
        """Claim and handle. Raises _Failed if the handler failed; waits while the database cannot be reached."""
        statement = claim_each(self._claim, self._options.inbox_name, sorted({event.id for event in events}), _CURE)
        lost = 0
        while True:
            connection = await self._connected()
            try:
                new = await self._io.handle(connection, statement, events, handled=handled)
            except Misused:
                raise
            except Exception as error:
                if await self._io.works(connection):
                    raise _Failed(error) from error
                log.warning("the connection to the database was lost: %r", error)
                await self._io.disconnect()
                self._stats.reconnects += 1
                lost += 1
                if lost >= CONNECTIONS:
                    raise _Failed(error) from error
                await self._pause(lost)
            else:
                self._stats.transactions += 1
                self._stats.handled += new if handled else 0
                self._stats.duplicates += len(events) - new
                return

    async def _connected(self) -> Any:
        """The connection, or a new one, with retries until it is made or a stop is requested."""
        attempt = 0
        while True:
            try:
                return await self._io.connected()
            except OutboxUsageError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever the driver raises
                attempt += 1
                log.warning("cannot connect to the database, try %d: %r", attempt, error)
                await self._pause(attempt)

    async def _pause(self, attempt: int) -> None:
        seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)) * random.uniform(1, 1.25)  # noqa: S311
        await self._io.wait(lambda: self._kafka.idle(seconds))
        if self._kafka.stopped:
            raise _Stopped


class _Failed(Exception):
    """The transaction failed although the database is reachable, so an event is the cause."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _finish(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the loop in a thread waited")


@contextlib.contextmanager
def _stop_or_signals(stop: threading.Event | None) -> Iterator[threading.Event]:
    """The given event, or one that SIGTERM and SIGINT set, where this thread may handle signals."""
    if stop is not None:
        yield stop
        return
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def request(*_: object) -> None:
        if event.is_set():  # the handler does not end: the second signal interrupts it
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
