"""`consume` on a real Kafka and a real PostgreSQL: each effect once, in order of its key, whatever fails."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from cdc_outbox.app import OutboxUsageError
from cdc_outbox.app.consumer import HandlerFailed, consume, consume_async
from cdc_outbox.app.received import ConsumerStats, ReceivedEvent
from tests.integration.app.topic import Topic
from tests.plugins.command import environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

pytestmark = pytest.mark.kafka

INSERT: Final = "INSERT INTO effects (id, key, number) VALUES (%s, %s, %s)"


def record_effect(event: ReceivedEvent, connection: Any) -> None:
    connection.execute(INSERT, (event.id, event.key, event.json()))


def group() -> str:
    return f"g-{uuid.uuid4()}"


@contextlib.contextmanager
def consuming(
    topic: Topic, bank: Database, handler: Callable[..., object] = record_effect, **more: Any
) -> Iterator[Any]:
    """`consume` in a thread; stopped, and its exception raised, at the end."""
    stop, stats, raised = threading.Event(), ConsumerStats(), []
    options = {
        "connect": lambda: psycopg.connect(bank.dsn),
        "brokers": topic.kafka.brokers,
        "group": group(),
        "topics": [topic.name],
        **more,
    }

    def run() -> None:
        try:
            consume(handler, stop=stop, stats=stats, **options)
        except Exception as error:  # noqa: BLE001 - the test's thread raises it
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield stats
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


def effects(bank: Database) -> list[tuple[str, str, int]]:
    return bank.execute("SELECT id, key, number FROM effects ORDER BY n")


def require_each_once_in_order(bank: Database, topic: Topic) -> None:
    found = effects(bank)
    assert sorted(found) == sorted(topic.sent)
    for key in {event[1] for event in topic.sent}:
        assert [event for event in found if event[1] == key] == [event for event in topic.sent if event[1] == key]


def test_each_event_takes_effect_once_and_in_order_of_its_key(topic: Topic, bank: Database) -> None:
    topic.send(2000, repeat=0.2)
    with consuming(topic, bank) as stats:
        eventually(lambda: stats.handled == 2000, "all events took effect")

    require_each_once_in_order(bank, topic)
    assert stats.received > 2000
    assert stats.duplicates == stats.received - 2000


def test_it_starts_before_its_topic_exists(kafka: KafkaCluster, bank: Database) -> None:
    later = Topic(kafka, f"{kafka.unique_topic_prefix()}.later")
    with consuming(later, bank) as stats:
        kafka.create_topic(later.name)
        later.send(10)
        eventually(lambda: stats.handled == 10, "all events took effect", seconds=30)

    require_each_once_in_order(bank, later)


def test_what_was_consumed_is_not_delivered_to_the_next_member(topic: Topic, bank: Database) -> None:
    name = group()
    topic.send(50)
    with consuming(topic, bank, group=name) as stats:
        eventually(lambda: stats.handled == 50, "all events took effect")
    topic.send(1)
    with consuming(topic, bank, group=name) as stats:
        eventually(lambda: stats.handled == 1, "all events took effect")

    assert stats.received == 1


class Unlucky:
    """Fails on some events, as often as it is told."""

    def __init__(self, failures: dict[int, int]) -> None:
        self.failures = failures

    def __call__(self, event: ReceivedEvent, connection: Any) -> None:
        record_effect(event, connection)
        if self.failures.get(event.json(), 0) > 0:
            self.failures[event.json()] -= 1
            raise RuntimeError("out of luck")


def test_an_event_that_fails_is_tried_again_and_its_key_waits(topic: Topic, bank: Database) -> None:
    topic.send(20)
    with consuming(topic, bank, Unlucky({3: 3, 11: 2})) as stats:
        eventually(lambda: stats.handled == 20, "all events took effect", seconds=30)

    require_each_once_in_order(bank, topic)
    assert stats.failures >= 3


def test_after_the_last_try_it_goes_to_the_dead_letter_topic_and_the_rest_goes_on(topic: Topic, bank: Database) -> None:
    dead = topic.kafka.create_topic(f"{topic.name}.dead")
    topic.send(10)
    with consuming(topic, bank, Unlucky({4: 99}), attempts=2, dead_letter_topic=dead) as stats:
        eventually(lambda: stats.handled == 9 and stats.dead_lettered == 1, "all events took effect", seconds=30)

    (letter,) = topic.kafka.consume(dead, 1)
    assert letter.header("id") == topic.sent[4][0].encode()
    assert letter.header("outbox.error.reason") == b"handler-failed"
    assert letter.value == b"4"
    assert sorted(effects(bank)) == sorted(event for event in topic.sent if event[2] != 4)


def test_without_a_dead_letter_topic_it_ends_with_the_event_and_the_cause(topic: Topic, bank: Database) -> None:
    topic.send(3, keys=1)
    with pytest.raises(HandlerFailed) as refused, consuming(topic, bank, Unlucky({1: 99}), attempts=2) as stats:
        eventually(lambda: stats.failures == 2, "all events took effect", seconds=30)

    assert refused.value.event.id == topic.sent[1][0]
    assert isinstance(refused.value.__cause__, RuntimeError)
    assert [event[2] for event in effects(bank)] == [0]


def test_a_connection_that_is_lost_is_made_again_and_counts_as_no_try(topic: Topic, bank: Database) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
    with consuming(topic, bank, attempts=1) as stats:
        for _ in range(3):
            topic.send(100)
            handled = len(topic.sent)
            eventually(lambda: stats.handled == handled, "all events took effect", seconds=30)  # noqa: B023
            bank.execute(kill)
        topic.send(10)
        eventually(lambda: stats.handled == 310, "all events took effect", seconds=30)

    require_each_once_in_order(bank, topic)
    assert stats.reconnects >= 1
    assert stats.failures == 0


def test_a_session_of_sqlalchemy_is_a_connection_too(topic: Topic, bank: Database) -> None:
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(bank.dsn))

    def handle(event: ReceivedEvent, session: Session) -> None:
        values = {"id": event.id, "key": event.key, "number": event.json()}
        session.execute(sa.text("INSERT INTO effects (id, key, number) VALUES (:id, :key, :number)"), values)

    topic.send(100)
    with consuming(topic, bank, handle, connect=lambda: Session(engine)) as stats:
        eventually(lambda: stats.handled == 100, "all events took effect")
    engine.dispose()

    require_each_once_in_order(bank, topic)


def test_for_asyncio_it_is_awaited(topic: Topic, bank: Database) -> None:
    async def handle(event: ReceivedEvent, connection: Any) -> None:
        await connection.execute(INSERT, (event.id, event.key, event.json()))

    stop, stats = threading.Event(), ConsumerStats()
    topic.send(300, repeat=0.1)

    async def main() -> None:
        task = asyncio.create_task(
            consume_async(
                handle,
                connect=lambda: psycopg.AsyncConnection.connect(bank.dsn),
                brokers=topic.kafka.brokers,
                group=group(),
                topics=[topic.name],
                stop=stop,
                stats=stats,
            )
        )
        async with asyncio.timeout(30):
            while stats.handled < 300:
                await asyncio.sleep(0.05)
        stop.set()
        await task

    asyncio.run(main())
    require_each_once_in_order(bank, topic)


@pytest.mark.parametrize(
    "wrong",
    [{"topics": "events"}, {"topics": []}, {"attempts": 0}, {"batch_events": 0}, {"properties": {"group.id": "x"}}],
)
def test_arguments_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"connect": lambda: None, "brokers": "localhost:1", "group": "g", "topics": ["t"]}
    with pytest.raises(OutboxUsageError):
        consume(record_effect, **{**right, **wrong})


def test_the_numbers_are_shown_in_the_format_of_prometheus() -> None:
    text = ConsumerStats(handled=5).openmetrics('a"b')
    assert 'cdc_outbox_consumer_handled_total{consumer="a\\"b"} 5\n' in text


MEMBER: Final = """
import os, psycopg
from cdc_outbox.app.consumer import consume
def handle(event, connection):
    connection.execute("INSERT INTO effects (id, key, number) VALUES (%s, %s, %s)", (event.id, event.key, event.json()))
consume(handle, connect=lambda: psycopg.connect(os.environ["DSN"]), brokers=os.environ["BROKERS"], group=os.environ["GROUP"],
        topics=[os.environ["TOPIC"]], batch_events=50, properties={"session.timeout.ms": 6000})
"""

SEEDS: Final = int(os.environ.get("CONSUMER_SEEDS", "2"))


@pytest.mark.nightly
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_members_that_are_killed_and_join_have_each_effect_once_and_in_order(
    seed: int, topic: Topic, bank: Database
) -> None:
    chance = random.Random(seed)
    variables = {"DSN": bank.dsn, "BROKERS": topic.kafka.brokers, "GROUP": group(), "TOPIC": topic.name}
    members: list[subprocess.Popen[bytes]] = []

    def join() -> None:
        members.append(
            subprocess.Popen([sys.executable, "-c", MEMBER], env=environment(variables), stderr=subprocess.DEVNULL)
        )

    try:
        join()
        for _ in range(6):
            topic.send(chance.randrange(100, 400), repeat=0.1)
            wanted = len(effects(bank)) + chance.randrange(1, 100)
            eventually(lambda: len(effects(bank)) >= min(wanted, len(topic.sent)), "all events took effect", seconds=60)  # noqa: B023
            if chance.random() < 0.6:
                victim = members.pop(chance.randrange(len(members)))
                victim.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
                victim.wait(30)
            if not members or chance.random() < 0.5:
                join()
        eventually(lambda: len(effects(bank)) >= len(topic.sent), "all events took effect", seconds=90)
    finally:
        for member in members:
            member.kill()
            member.wait(10)

    require_each_once_in_order(bank, topic)


@pytest.mark.nightly
def test_thousands_of_events_a_second(
    topic: Topic, bank: Database, record_property: Callable[[str, object], None]
) -> None:
    topic.send(20_000)
    with consuming(topic, bank) as stats:
        eventually(lambda: stats.handled, "the member has joined the group")
        began, joined_at = time.monotonic(), stats.handled
        eventually(lambda: stats.handled == 20_000, "all events took effect", seconds=60)
        rate = (20_000 - joined_at) / (time.monotonic() - began)
    record_property("events per second", round(rate))
    assert rate > 2_000, "5,000 on two quiet cores; the bound leaves room for what runs beside it"
    require_each_once_in_order(bank, topic)
