"""examples/consumers: each program on a real Kafka and a real PostgreSQL, killed in full flow: each effect once."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import pytest
from confluent_kafka import Producer

from cdc_outbox.commands.install import apply_consumer
from tests.docs.pages import ROOT, read
from tests.docs.test_application_pages import url
from tests.examples.toolchains import Program, go, java, node
from tests.plugins.command import environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

HERE: Final = ROOT / "examples" / "consumers"
PAGE: Final = "docs/how-to/consume-once-in-other-languages.md"
EVENTS: Final = 3000

PROGRAMS: Final[dict[str, Callable[[], Program]]] = {
    "go": lambda: go(HERE / "go"),
    "node": lambda: node(HERE / "node", "rewards.js"),
    "java": lambda: java(HERE / "java", "shop.Rewards", "-parameters"),
}
SOURCES: Final = {"go": "go/main.go", "js": "node/rewards.js", "java": "java/Rewards.java"}


def send(kafka: KafkaCluster, topic: str) -> None:
    """The events, each twice, as after a crash of the relay."""
    producer = Producer({"bootstrap.servers": kafka.brokers, "enable.idempotence": True})
    events = [str(uuid.uuid4()) for _ in range(EVENTS)]
    for number in (0, 1):
        for place, event in enumerate(events):
            headers = {"id": event, "type": "OrderPaid"}
            producer.produce(topic, f"{number}", f"{place % 7}", headers=headers)
            producer.poll(0)
    assert producer.flush(60) == 0


@contextlib.contextmanager
def running(program: Program, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The consumer, killed at the end of the block."""
    with subprocess.Popen(
        program, env=environment(variables), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()
            if process.stdout:
                print(process.stdout.read()[-3000:])


@pytest.mark.nightly
@pytest.mark.timeout(400)
@pytest.mark.parametrize("language", PROGRAMS)
def test_each_event_has_its_effect_once_through_a_kill(language: str, database: Database, kafka: KafkaCluster) -> None:
    program = PROGRAMS[language]()
    apply_consumer(database.dsn, pytest.fail)
    database.execute("CREATE TABLE accounts (id text PRIMARY KEY, points int NOT NULL)")
    database.execute("INSERT INTO accounts SELECT n::text, 0 FROM generate_series(0, 6) n")
    topic = kafka.create_topic(f"{kafka.unique_topic_prefix()}order", partitions=3)
    send(kafka, topic)
    where = url(database)
    if language == "java":
        login, _, server = where.removeprefix("postgresql://").partition("@")
        user, _, password = login.partition(":")
        where = f"jdbc:postgresql://{server}?user={user}&password={password}"
    settings = {"DATABASE_URL": where, "BROKERS": kafka.brokers, "TOPIC": topic, "GROUP": f"g-{uuid.uuid4()}"}

    def points() -> int:
        return int(database.execute("SELECT sum(points) FROM accounts")[0][0])

    with running(program, **settings) as consumer:
        eventually(lambda: consumer.poll() is not None or points() > 1000, "the first effects", seconds=60)
        assert consumer.poll() is None
    with running(program, **settings) as consumer:
        eventually(lambda: consumer.poll() is not None or points() >= 10 * EVENTS, "all effects", seconds=120)
        eventually(lambda: consumed(kafka, topic, settings["GROUP"]) == 2 * EVENTS, "all offsets", seconds=60)
        assert consumer.poll() is None

    assert points() == 10 * EVENTS
    assert database.execute("SELECT count(*) FROM inbox WHERE consumer = 'rewards'") == [(EVENTS,)]


def consumed(kafka: KafkaCluster, topic: str, group: str) -> int:
    """The sum of the group's committed offsets."""
    from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition

    asked = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition) for partition in range(3)])
    found = kafka.admin.list_consumer_group_offsets([asked])[group].result(timeout=10)
    return sum(max(0, each.offset) for each in found.topic_partitions)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("language", SOURCES)
def test_the_page_shows_what_is_run(language: str) -> None:
    (shown,) = [each for each in read(PAGE).blocks if each.language == language]
    assert words(shown.text) in words((HERE / SOURCES[language]).read_text(encoding="utf-8"))


def test_the_page_shows_the_properties_of_spring() -> None:
    (shown,) = [each for each in read(PAGE).blocks if each.language == "properties"]
    assert shown.text in (HERE / "java" / "application.properties").read_text(encoding="utf-8")
