"""A replication stream and a Kafka without servers behind them, and a clock that only waiting moves.

The publisher is the real one on a scripted librdkafka; the stream is the real class with its wire cut, its methods checked
against the real signatures. Nothing here sleeps, and the same script gives the same run.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Final, NamedTuple

import pytest
from confluent_kafka import KafkaError, KafkaException, Message
from structlog.testing import capture_logs

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConnectionLost, Unreachable
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.producer import Publisher, Report
from cdc_outbox.lsn import UNSET, Lsn, LsnRange
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.records.router import Headers, KafkaRecord
from cdc_outbox.relay.loop import StreamLoop
from cdc_outbox.relay.poison import PoisonPolicy
from cdc_outbox.relay.session import SessionParams
from cdc_outbox.shutdown import Stop
from tests.plugins import wire_builder as build

PATIENCE: Final = 2000
"""Turns without anything to read, after which a script ends by itself: what was to happen has not."""


class Clock:
    """Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_794_000_000.0 + self.now


class ScriptedStop(Stop):
    """A stop without a file descriptor."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.requested_at = None

    def request(self) -> None:
        if self.requested_at is None:
            self.requested_at = self._clock.now

    def wait(self, seconds: float) -> bool:
        if not self.requested:
            self._clock.now += seconds
        return self.requested


class Told(NamedTuple):
    """A standby status update as the server hears it, and when."""

    write: int
    flush: int
    reply_requested: bool
    at: float


class ScriptedStream(ReplicationStream):
    """Messages in, status updates out. An exception in the script is raised when its turn comes."""

    def __init__(self, clock: Clock, script: Iterable[bytes | Exception], *, wal_sender_timeout: float = 60.0) -> None:
        self._clock = clock
        self.script = deque(script)
        self.wal_sender_timeout = wal_sender_timeout
        self.last_received = clock.now
        self.empty = True
        self.told: list[Told] = []
        self.ended: str | None = None
        self.portion: Callable[[], int] = lambda: 1000
        """How many messages arrive at a time, at most."""
        self.on_empty: Callable[[], None] = lambda: None
        """Called when there is nothing to read."""
        self.on_status: Callable[[Told], None] = lambda _told: None
        self.broken = False
        """Whether the wire takes nothing more."""
        self.last_status_is_read = True
        self._empty = 0

    def wait(self, seconds: float) -> bool:
        assert seconds >= 0
        if not self.script:
            self._clock.now += seconds
        return bool(self.script)

    def receive(self, limit: int) -> list[bytes]:
        messages: list[bytes] = []
        for _ in range(min(limit, self.portion(), len(self.script))):
            message = self.script[0]
            if isinstance(message, Exception):
                if messages:
                    break
                raise self.script.popleft()  # type: ignore[misc]  # it is one
            self.script.popleft()
            messages.append(message)
        self.empty = len(messages) < limit
        if messages:
            self.last_received = self._clock.now
        elif not self.script:
            self._empty += 1
            assert self._empty < PATIENCE, "what was to happen has not"
            self.on_empty()
        return messages

    def send_status(self, *, write: int, flush: int, reply_requested: bool = False) -> None:
        assert self.ended is None
        if self.broken:
            raise ConnectionLost("the replication connection broke")
        self.told.append(Told(write, flush, reply_requested, self._clock.now))
        self.on_status(self.told[-1])

    def flush(self) -> None:
        assert self.ended is None

    def close(self) -> bool:
        self.ended = self.ended or "closed"
        return self.last_status_is_read

    def abandon(self) -> None:
        self.ended = self.ended or "abandoned"


class ScriptedKafka:
    """Stands in for librdkafka's producer: a queue of limited size whose records are delivered when, and in the order in which,
    the script wants it."""

    def __init__(self, clock: Clock, *, capacity: int = 1000) -> None:
        self._clock = clock
        self.capacity = capacity
        self.queue: list[tuple[KafkaRecord, Report]] = []
        self.accepted: list[KafkaRecord] = []
        """All that was ever taken, in order."""
        self.log: list[KafkaRecord] = []
        """What Kafka has."""
        self.choose: Callable[[int], Sequence[int]] = range
        """Of so many in flight, which are reported now; by default all."""
        self.refuse: Callable[[KafkaRecord], int | None] = lambda _record: None
        """The error code with which the broker refuses a record, or None."""
        self.refuse_at_once: Callable[[KafkaRecord], int | None] = lambda _record: None
        """The error code with which librdkafka itself refuses a record that there is room for, or None."""
        self.infer: Callable[[KafkaRecord], bool] = lambda _record: False
        """Whether librdkafka infers a record's delivery from a later one, which is all it says. Kafka does not have it."""
        self.fatal: KafkaError | None = None
        """What every poll raises, in the binding's way."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        _callback: Report,
        on_delivery: Report,
        timestamp: int,
        headers: Headers,
    ) -> None:
        record = KafkaRecord(topic, key, value, headers, timestamp, partition)
        if len(self.queue) >= self.capacity:
            raise BufferError
        code = self.refuse_at_once(record)
        if code is not None:
            raise KafkaException(KafkaError(code))
        self.queue.append((record, on_delivery))
        self.accepted.append(record)

    def poll(self, seconds: float) -> int:
        if self.fatal is not None:
            raise SystemError("returned a result with an exception set") from KafkaException(self.fatal)
        chosen = [self.queue[position] for position in self.choose(len(self.queue))]
        for record, report in chosen:
            self.queue.remove((record, report))
            self._report(record, report, self.refuse(record))
        if not chosen:
            self._clock.now += seconds
        return len(chosen)

    def flush(self, seconds: float) -> int:
        self.poll(seconds)
        return len(self.queue)

    def purge(self, *, in_flight: bool = True) -> None:
        """Failures, by their reports, for all that waits; it is all on its way to Kafka."""
        while in_flight and self.queue:
            self._report(*self.queue.pop(0), KafkaError._PURGE_QUEUE)

    def __len__(self) -> int:
        return len(self.queue)

    def _report(self, record: KafkaRecord, report: Report, code: int | None) -> None:
        inferred = self.infer(record)
        if code is None and not inferred:
            self.log.append(record)
        offset = None if inferred or code is not None else len(self.log) - 1
        message = Message(
            topic=record.topic, value=record.value, key=record.key, offset=-1001 if offset is None else offset
        )
        report(None if code is None else KafkaError(code), message)


class ScriptedPublisher(Publisher):
    """The real one, on a scripted Kafka."""

    def __init__(self, kafka: ScriptedKafka, counters: Counters, *, limit: int = 1024**3) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cdc_outbox.kafka.producer.Producer", lambda _properties, **_rest: kafka)
            super().__init__({"bootstrap.servers": "b", "queue.buffering.max.kbytes": str(limit // 1024)}, counters)

    def _admits(self, topic: str) -> bool:  # noqa: ARG002
        return True

    def diagnose(self) -> Unreachable:
        return Unreachable("Kafka confirms nothing", cure="wait")

    def topic_limit(self, topic: str) -> int | str:
        return f"max.message.bytes of {topic}"


class Rig:
    """One relay and its surroundings: script the stream, run, look at what came out."""

    def __init__(self, script: Iterable[bytes | Exception] = (), *, policy: str = "stop", capacity: int = 1000) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.stop = ScriptedStop(self.clock)
        self.stream = ScriptedStream(self.clock, script)
        self.kafka = ScriptedKafka(self.clock, capacity=capacity)
        self.publisher = ScriptedPublisher(self.kafka, self.counters)
        letters = "dead-letters" if policy == "dead-letter" else None
        self.policy = PoisonPolicy(policy, letters, 1_000_000, self.counters)
        self.logged: list[MutableMapping[str, Any]] = []

    @property
    def flushed(self) -> int:
        """What the server was told last."""
        return self.stream.told[-1].flush if self.stream.told else 0

    @property
    def ids(self) -> list[str]:
        """Ids of what Kafka has, in its order."""
        return [event_id(record) for record in self.kafka.log]

    def relay(
        self,
        *,
        target: int | None = None,
        isolated_lsns: Iterable[int | LsnRange] = (),
        shutdown_timeout: float = 25.0,
        settings: Settings = Settings(brokers="b"),  # noqa: B008  # frozen
        raise_findings: Callable[[bool], None] = lambda _paused: None,
        max_delay: float = 0.002,
    ) -> StreamLoop:
        params = SessionParams(
            table_oids={build.OUTBOX_OID: TableName("public", "outbox")},
            looked_at=UNSET,
            confirmed=UNSET,
            shutdown_timeout=shutdown_timeout,
            policy=self.policy,
            target=None if target is None else Lsn(target),
            isolated_lsns=frozenset(
                each if isinstance(each, LsnRange) else LsnRange(Lsn(each), Lsn(each)) for each in isolated_lsns
            ),
            raise_findings=raise_findings,
            max_delay=max_delay,
        )
        return StreamLoop(self.stream, self.publisher, Mappings(settings), self.counters, self.stop, params)

    def run(self, relay: StreamLoop | None = None) -> None:
        """Run to the end, on this rig's clock."""
        with self.time_is_ours():
            (relay or self.relay()).run()

    @contextlib.contextmanager
    def time_is_ours(self) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch, capture_logs() as self.logged:
            for module in [each for name, each in sys.modules.items() if name.startswith("cdc_outbox.")]:
                if getattr(module, "time", None) is time:
                    patch.setattr(module, "time", self.clock)
            yield

    def stop_when(self, reached: Callable[[], bool]) -> None:
        """Ask for a stop as soon as there is nothing to read and `reached()`."""

        def look() -> None:
            if reached():
                self.stop.request()

        self.stream.on_empty = look


def event_id(record: KafkaRecord) -> str:
    value = dict(record.headers)["id"]
    assert isinstance(value, bytes)
    return value.decode()


# Messages of an outbox

COMMITTED: Final = 1_794_000_000.25
"""Unix seconds."""

RELATION: Final = build.xlogdata(build.relation())


def begin(commit_lsn: int, *, commit_time: float = COMMITTED) -> bytes:
    return build.xlogdata(build.begin(commit_lsn, commit_time=build.clock(commit_time)))


def insert(event: str, *, key: str = "k", topic: str = "order", headers: bytes | None = None) -> bytes:
    row = build.outbox_row(event.encode(), key=key.encode(), topic=topic.encode(), headers=headers)
    return build.xlogdata(build.insert(build.OUTBOX_OID, row))


def commit(commit_lsn: int, end_lsn: int | None = None) -> bytes:
    return build.xlogdata(build.commit(commit_lsn, commit_lsn + 8 if end_lsn is None else end_lsn))


def transaction(commit_lsn: int, *events: str) -> list[bytes]:
    """It ends 8 bytes after its commit LSN."""
    return [begin(commit_lsn), *map(insert, events), commit(commit_lsn)]


def nothing(_in_flight: int) -> Sequence[int]:
    """Kafka takes its time."""
    return ()
