"""A real Apache Kafka: one broker for the session, and brokers of a test's own.

`CDC_OUTBOX_TEST_BROKERS` names a broker that runs already (plain, topics made on demand, six partitions by default);
without it one is started (Java and Maven).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

import confluent_kafka
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from cdc_outbox.demo.ports import free_port
from tests.plugins.absence import absent
from tests.servers.kafka import BRIEF, VERSION, Kafka, KafkaUnavailable, fetch_jars
from tests.servers.place import data_folder
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

ENVIRONMENT: Final = "CDC_OUTBOX_TEST_BROKERS"
DISCOVERY_SECONDS: Final = 0.2
"""How often a reader looks for topics that did not exist before."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a consumer sees. `timestamp` in milliseconds since 1970, as the producer set it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    timestamp: int

    def header(self, name: str) -> bytes | None:
        """The one header of that name; KeyError when there is none, or another."""
        values = [value for key, value in self.headers if key == name]
        if len(values) != 1:
            raise KeyError(f"{len(values)} headers {name!r} among {[key for key, _ in self.headers]}")
        return values[0]


class KafkaCluster:
    """A broker seen from outside: make topics, read records."""

    def __init__(self, brokers: str, server: Kafka | None = None, proxy: Proxy | None = None) -> None:
        self.brokers = brokers
        self.server = server
        self.proxy = proxy
        self._direct = server.internal_brokers if server else brokers
        self.admin = AdminClient({"bootstrap.servers": self._direct, "log_level": 0})

    def unique_topic_prefix(self) -> str:
        """A beginning for topic names that no other test has: `t3f2a90b1.`."""
        return f"t{uuid.uuid4().hex[:8]}."

    def create_topic(self, name: str, partitions: int = 6, config: Mapping[str, str] | None = None) -> str:
        """Make a topic and wait until it has its leaders. Returns its name."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(config or {}))
        self.admin.create_topics([topic])[name].result(timeout=30)
        deadline = time.monotonic() + 10.0
        while not _has_leaders(self.admin.list_topics(name, timeout=5).topics[name], partitions):
            assert time.monotonic() < deadline, f"topic {name} has no leaders"
            time.sleep(0.02)
        return name

    def topics(self) -> set[str]:
        """Names of all topics, Kafka's own left out."""
        return {name for name in self.admin.list_topics(timeout=10).topics if not name.startswith("__")}

    def delete_topics(self, names: Iterable[str]) -> None:
        """Delete, and wait until the controller has."""
        for future in self.admin.delete_topics(list(names)).values() if names else ():
            future.result(timeout=30)

    def consume(
        self,
        topics: str | Iterable[str],
        until: int | Callable[[list[Record]], bool],
        *,
        timeout: float = 30.0,
        isolation: str = "read_committed",
    ) -> list[Record]:
        """All records from the beginning, until there are so many, or `until(records)`, and on to the present end of each
        partition, so that a surplus is seen. Topics are names, or regular expressions that begin with `^`; they may appear
        meanwhile. `until=0` reads what is there. AssertionError after `timeout` seconds.
        """
        with _Reader(self._direct, [topics] if isinstance(topics, str) else list(topics), isolation) as reader:
            return reader.read(until, time.monotonic() + timeout)


NO_LEADER_YET: Final = frozenset(
    {
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._NOENT,
        KafkaError._UNKNOWN_PARTITION,
    }
)


class _Reader:
    """Assigns every partition from its beginning: no group, so nobody waits for a rebalance."""

    def __init__(self, brokers: str, wanted: list[str], isolation: str) -> None:
        self._wanted = [re.compile(each if each.startswith("^") else f"^{re.escape(each)}$") for each in wanted]
        self._ends: dict[tuple[str, int], int] = {}
        self._records: list[Record] = []
        self._next_discovery = 0.0
        self._consumer = Consumer(
            {
                "bootstrap.servers": brokers,
                "group.id": f"tests-{uuid.uuid4().hex}",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "fetch.wait.max.ms": 5,  # the end of a partition is told by an empty fetch, one after another
                "log_level": 0,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def read(self, until: int | Callable[[list[Record]], bool], deadline: float) -> list[Record]:
        enough = until if callable(until) else lambda records: len(records) >= until
        self._discover()
        while not enough(self._records):
            self._turn(deadline)
        self._next_discovery = 0.0
        self._discover()
        highs = {at: self._high(TopicPartition(*at), deadline) for at in self._ends}
        while any(self._ends[at] < high for at, high in highs.items()):
            self._turn(deadline)
        return self._records

    def _high(self, at: TopicPartition, deadline: float) -> int:
        """The end of a partition. One that was made a moment ago may not have its leader yet."""
        while True:
            try:
                return self._consumer.get_watermark_offsets(at, timeout=10)[1]
            except KafkaException as error:
                if error.args[0].code() not in NO_LEADER_YET or time.monotonic() > deadline:
                    raise
            time.sleep(0.02)

    def _turn(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            counted = dict(Counter(record.topic for record in self._records))
            msg = f"only {len(self._records)} records came in time: {counted or 'no topic has any'}"
            raise AssertionError(msg)
        self._discover()
        for message in self._consumer.consume(1000, timeout=0.05):
            self._take(message)

    def _discover(self) -> None:
        if time.monotonic() < self._next_discovery:
            return
        self._next_discovery = time.monotonic() + DISCOVERY_SECONDS
        found = self._consumer.list_topics(timeout=10).topics.values()
        fresh = [
            TopicPartition(topic.topic, partition, OFFSET_BEGINNING)
            for topic in found
            if any(pattern.search(topic.topic) for pattern in self._wanted)
            for partition in topic.partitions
            if (topic.topic, partition) not in self._ends
        ]
        if fresh:
            self._ends.update({(each.topic, each.partition): 0 for each in fresh})
            self._consumer.incremental_assign(fresh)

    def _take(self, message: Message) -> None:
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        assert topic is not None
        assert partition is not None
        assert offset is not None
        error = message.error()
        if error is None:
            self._records.append(_record(message, topic, partition, offset))
        elif error.code() == KafkaError._PARTITION_EOF:
            self._ends[topic, partition] = offset
        elif error.fatal():
            raise AssertionError(f"the reader failed: {error}")


def _record(message: Message, topic: str, partition: int, offset: int) -> Record:
    headers: Any = message.headers() or []
    return Record(topic, partition, offset, message.key(), message.value(), list(headers), message.timestamp()[1])


def _has_leaders(topic: Any, partitions: int) -> bool:
    return len(topic.partitions) == partitions and all(each.leader >= 0 for each in topic.partitions.values())


def _broker(**options: Any) -> Kafka:
    try:
        return Kafka(heap=BRIEF, parent=data_folder(), **options)
    except KafkaUnavailable as error:
        reason = f"{error} (or brokers in {ENVIRONMENT})"
    return absent(reason)


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[KafkaCluster]:
    """The session's broker. Tests that stop it, freeze it or change its properties take `own_kafka`."""
    if brokers := os.environ.get(ENVIRONMENT):
        yield KafkaCluster(brokers)
        return
    with _broker() as server:
        yield KafkaCluster(server.brokers, server)


@pytest.fixture
def kafka(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """The session's broker; on one of ours the topics that the test made go with the test."""
    before = kafka_cluster.topics()
    yield kafka_cluster
    if kafka_cluster.server is not None:
        kafka_cluster.delete_topics(kafka_cluster.topics() - before)


@pytest.fixture
def own_kafka() -> Iterator[Callable[..., KafkaCluster]]:
    """Starts brokers of the test's own: `own_kafka(properties={...})`. Three seconds each.

    `own_kafka(proxied=True)`: clients find the broker only behind `proxy`; `consume` and the like still go there directly.
    """
    with contextlib.ExitStack() as servers:

        def start(*, proxied: bool = False, **options: Any) -> KafkaCluster:
            port = free_port() if proxied else None
            server = servers.enter_context(_broker(advertised_port=port, **options))
            proxy = servers.enter_context(Proxy(("127.0.0.1", server.port), port=port)) if port else None
            return KafkaCluster(server.brokers, server, proxy)

        yield start


def pytest_report_header() -> list[str]:
    """Which broker and which librdkafka are under test."""
    named = os.environ.get(ENVIRONMENT)
    server = f"brokers {named} by {ENVIRONMENT}" if named else f"Apache Kafka {VERSION}, started when needed"
    return [f"kafka: {server}, librdkafka {confluent_kafka.libversion()[0]} ({confluent_kafka.__version__})"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes a broker is marked by it."""
    for item in items:
        if {"kafka_cluster", "own_kafka"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.kafka)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fetch the broker's jars now, where no test's time-out runs. What is missing, the fixtures say."""
    wanted = any(item.get_closest_marker("kafka") for item in session.items)
    if wanted and not session.config.option.collectonly and not os.environ.get(ENVIRONMENT):
        with contextlib.suppress(KafkaUnavailable):
            fetch_jars()
