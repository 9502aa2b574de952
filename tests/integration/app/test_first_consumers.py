"""What a developer of a consumer types first, and handlers that do what they should not: a plain error, and no event lost."""

from __future__ import annotations

import asyncio
import functools
import re
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from cdc_outbox.app import Outbox, OutboxUsageError, emit_many
from cdc_outbox.app.__main__ import main
from cdc_outbox.app.consumer import HandlerFailed, consume, consume_async
from tests.integration.app.test_consume import consuming, effects, group, record_effect, require_each_once_in_order
from tests.integration.app.topic import Topic
from tests.plugins.command import environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

anything: Any = consume
"""`consume` for calls that a type checker refuses."""

RIGHT: Final[dict[str, Any]] = {
    "connect": lambda: psycopg.connect("host=nowhere.invalid"),
    "brokers": "localhost:1",
    "group": "g",
    "topics": ["t"],
}


def without(*names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in RIGHT.items() if name not in names} | more


CALLS: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a connection as connect": (without(connect=object()), "connect is a function that makes a connection"),
    "a connection string as connect": (without(connect="password=secret"), "connect is a function"),
    "the brokers of kafka-python": (without("brokers", bootstrap_servers="x"), "'bootstrap_servers', write brokers"),
    "the group of kafka-python": (without("group", group_id="x"), "'group_id', write group"),
    "one topic": (without("topics", topic="t"), "'topic', write topics"),
    "a misspelt option": (without(atempts=3), "'atempts', write attempts"),
    "no brokers and no group": (without("brokers", "group"), "consume needs brokers and group"),
    "a list of brokers": (without(brokers=["a:1", "b:1"]), "brokers and group are texts"),
    "a topic in place of a list": (without(topics="t"), "topics is a list of names"),
}


@pytest.mark.parametrize("what", CALLS)
def test_a_call_that_is_nearly_right_is_refused_and_the_right_one_named(what: str) -> None:
    options, named = CALLS[what]
    with pytest.raises(OutboxUsageError, match=named) as refused:
        anything(record_effect, **options)
    with pytest.raises(OutboxUsageError, match=named):
        asyncio.run(consume_async(record_effect, **options))  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_a_handler_that_is_no_function_is_refused() -> None:
    with pytest.raises(OutboxUsageError, match="the handler is a function"):
        anything({"t": record_effect}, **RIGHT)


async def record_effect_later(event: Any, connection: Any) -> None:
    await connection.execute("SELECT 1")


class AsynchronousHandler:
    async def __call__(self, event: Any, connection: Any) -> None: ...


ASYNCHRONOUS: Final[dict[str, Callable[..., Any]]] = {
    "a bound function": functools.partial(record_effect_later),
    "an object": AsynchronousHandler(),
}


@pytest.mark.kafka
@pytest.mark.parametrize("what", ASYNCHRONOUS)
def test_a_handler_that_returns_an_awaitable_ends_the_loop_and_claims_nothing(
    what: str, topic: Topic, bank: Database
) -> None:
    topic.send(3)
    with pytest.raises(OutboxUsageError, match=r"await consume_async"):
        consume(
            ASYNCHRONOUS[what],
            connect=lambda: psycopg.connect(bank.dsn),
            brokers=topic.kafka.brokers,
            group=group(),
            topics=[topic.name],
            dead_letter_topic=f"{topic.name}.dead",
        )
    assert bank.execute("SELECT count(*) FROM inbox") == [(0,)]


@pytest.mark.kafka
def test_a_connection_of_the_other_kind_ends_the_loop(topic: Topic, bank: Database) -> None:
    topic.send(1)
    options: dict[str, Any] = {"brokers": topic.kafka.brokers, "group": group(), "topics": [topic.name]}
    with pytest.raises(OutboxUsageError, match="consume_async"):
        anything(record_effect, connect=lambda: psycopg.AsyncConnection.connect(bank.dsn), **options)
    blocking = psycopg.connect(bank.dsn)
    for connect, handler in (
        (lambda: blocking, record_effect_later),
        (lambda: psycopg.AsyncConnection.connect(bank.dsn), lambda *_: None),
    ):
        with pytest.raises(OutboxUsageError, match=r"it returned no awaitable.*use consume"):
            asyncio.run(consume_async(handler, connect=connect, **options))  # type: ignore[arg-type]
    blocking.close()
    assert bank.execute("SELECT count(*) FROM inbox") == [(0,)]


@pytest.mark.kafka
def test_without_an_inbox_it_ends_with_the_command_and_nothing_is_dead_lettered(
    topic: Topic, bank: Database, kafka: KafkaCluster
) -> None:
    bank.execute("DROP FUNCTION inbox_claim")
    topic.send(2)
    dead = f"{topic.name}.dead"
    with (
        pytest.raises(OutboxUsageError, match=r"cdc-outbox sql consumer --apply"),
        consuming(topic, bank, dead_letter_topic=dead) as stats,
    ):
        eventually(lambda: stats.received > 0, "one is read", seconds=30)
    assert stats.dead_lettered == 0


@pytest.mark.kafka
@pytest.mark.parametrize("act", ["close", "commit"])
def test_a_handler_that_ends_the_transaction_ends_the_loop_with_its_event(
    act: str, topic: Topic, bank: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_outbox.app.consumer.FIRST_PAUSE_SECONDS", 0.01)

    def handle(event: Any, connection: Any) -> None:
        record_effect(event, connection)
        getattr(connection, act)()

    topic.send(1)
    with pytest.raises(HandlerFailed, match="failed 2 times"), consuming(topic, bank, handle, attempts=2) as stats:
        eventually(lambda: stats.failures == 2, "both tries", seconds=30)
    assert effects(bank) == []


@pytest.mark.kafka
@pytest.mark.parametrize("act", ["close", "commit", "rollback"])
def test_a_handler_that_ends_the_transaction_of_its_session_loses_no_event(
    act: str, topic: Topic, bank: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdc_outbox.app.consumer.FIRST_PAUSE_SECONDS", 0.01)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(bank.dsn))

    def handle(event: Any, session: Session) -> None:
        session.execute(sa.text("INSERT INTO effects (id) VALUES (:id)"), {"id": event.id})
        getattr(session, act)()

    topic.send(3)
    with (
        pytest.raises(HandlerFailed, match="failed 2 times"),
        consuming(topic, bank, handle, attempts=2, connect=lambda: Session(engine)) as stats,
    ):
        eventually(lambda: stats.failures == 2, "both tries", seconds=30)
    engine.dispose()
    assert (effects(bank), bank.execute("SELECT count(*) FROM inbox")) == ([], [(0,)])


@pytest.mark.kafka
@pytest.mark.parametrize("fails", [False, True])
def test_a_handler_that_commits_in_sql_ends_the_loop_and_its_events_can_be_handled_again(
    fails: bool, topic: Topic, bank: Database
) -> None:
    """Its COMMIT has committed the claims of the whole batch: events without an effect would count as duplicates."""
    called: list[str] = []

    def handle(event: Any, connection: Any) -> None:
        called.append(event.id)
        if fails and len(called) > 1:
            raise RuntimeError("the second event fails")
        record_effect(event, connection)
        connection.execute("COMMIT")

    topic.send(3)
    with (
        pytest.raises(OutboxUsageError, match=r"has committed .* whose xmin is (\d+): ") as ended,
        consuming(topic, bank, handle, group=(name := group())) as stats,
    ):
        eventually(lambda: stats.received > 0, "one is read", seconds=30)
    assert stats.handled == 0
    (named,) = re.findall(r"xmin is (\d+)", str(ended.value))
    bank.execute(f"DELETE FROM inbox WHERE xmin = '{named}'; TRUNCATE effects")
    with consuming(topic, bank, group=name) as stats:
        eventually(lambda: stats.handled == 3, "each takes effect", seconds=30)
    require_each_once_in_order(bank, topic)


@pytest.mark.kafka
def test_in_asyncio_a_handler_that_commits_in_sql_ends_the_loop(topic: Topic, bank: Database) -> None:
    async def handle(_event: Any, connection: Any) -> None:
        await connection.execute("COMMIT")

    topic.send(1)
    connect = functools.partial(psycopg.AsyncConnection.connect, bank.dsn)
    with pytest.raises(OutboxUsageError, match="has committed"):
        asyncio.run(
            consume_async(handle, connect=connect, brokers=topic.kafka.brokers, group=group(), topics=[topic.name])
        )


@pytest.mark.kafka
def test_a_tombstone_and_a_record_without_an_id_are_events(topic: Topic, bank: Database, kafka: KafkaCluster) -> None:
    topic.producer.produce(topic.name, None, "k")
    assert topic.producer.flush(30) == 0
    seen: list[Any] = []
    with consuming(topic, bank, lambda event, _: seen.append(event)) as stats:
        eventually(lambda: stats.handled == 1, "it is handled", seconds=30)
    (event,) = seen
    assert (event.payload, event.key, event.type) == (None, "k", None)
    assert event.id == f"{topic.name}/{event.partition}/{event.offset}"
    with pytest.raises(TypeError, match="a tombstone has no payload"):
        event.json()


@pytest.mark.kafka
def test_more_members_than_partitions_wait_and_stop(topic: Topic, bank: Database) -> None:
    name = group()
    with (
        consuming(topic, bank, group=name) as one,
        consuming(topic, bank, group=name) as two,
        consuming(topic, bank, group=name) as three,
        consuming(topic, bank, group=name) as four,
    ):
        topic.send(30)
        members = (one, two, three, four)
        eventually(lambda: sum(each.handled for each in members) == 30, "all are handled", seconds=60)
    assert len(effects(bank)) == 30


@pytest.mark.kafka
def test_a_topic_that_is_added_later_is_found_by_its_pattern(bank: Database, kafka: KafkaCluster) -> None:
    prefix = kafka.unique_topic_prefix()
    first = Topic(kafka, kafka.create_topic(f"{prefix}.first"))
    with consuming(first, bank, topics=[f"^{prefix}.*"]) as stats:
        first.send(1)
        eventually(lambda: stats.handled == 1, "the first topic", seconds=30)
        later = Topic(kafka, kafka.create_topic(f"{prefix}.later"))
        later.send(1)
        eventually(lambda: stats.handled == 2, "the topic that came later", seconds=60)


HANGS: Final = """
import os, psycopg, time
from cdc_outbox.app.consumer import consume
def handle(event, connection):
    print("handling", flush=True)
    time.sleep(300)
consume(handler := handle, connect=lambda: psycopg.connect(os.environ["DSN"]), brokers=os.environ["BROKERS"], group="g",
        topics=[os.environ["TOPIC"]])
"""


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_a_handler_that_hangs(number: int, topic: Topic, bank: Database) -> None:
    topic.send(1)
    variables = {"DSN": bank.dsn, "BROKERS": topic.kafka.brokers, "TOPIC": topic.name}
    with subprocess.Popen(
        [sys.executable, "-c", HANGS],
        env=environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "handling\n"
            process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
            process.send_signal(number)
            assert process.wait(30) != 0
        finally:
            process.kill()
    assert bank.execute("SELECT count(*) FROM inbox") == [(0,)]


# --- what a service has once --------------------------------------------------------------------------------------------

OUTBOXES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "another payload type": ({"payload_type": "xml"}, "payload_type is one of json, jsonb, text, bytea"),
    "columns as a list": ({"columns": ["id", "type"]}, "columns is a preset or a dict"),
    "an encoder that is no function": ({"encoder": "avro"}, "encoder is a function"),
    "a default that is no function": ({"default": {}}, "default is a function"),
}


@pytest.mark.parametrize("what", OUTBOXES)
def test_an_outbox_that_cannot_work_is_refused_when_it_is_made(what: str) -> None:
    options, named = OUTBOXES[what]
    with pytest.raises(OutboxUsageError, match=named):
        Outbox(**options)


@pytest.mark.parametrize("events", [None, 5, object()], ids=["None", "a number", "an object"])
def test_what_is_no_list_of_events_is_refused(events: Any, shop: Database) -> None:
    with psycopg.connect(shop.dsn) as connection, pytest.raises(OutboxUsageError, match="takes a list of events"):
        emit_many(connection, events)


EXPORTS: Final[dict[str, tuple[str, str]]] = {
    "a file": ("shop/events.py:outbox", "a module and not a file: shop.events:outbox"),
    "a module alone": ("broken", "MODULE:NAME"),
    "a module that fails": ("broken:outbox", "KeyError: 'DSN_OF_THE_SHOP'"),
    "a module with an error of syntax": ("unreadable:outbox", "SyntaxError"),
    "another object": ("silent:name", "name is not an Outbox"),
    "an outbox without events": ("silent:outbox", "no registered event: decorate a class with @outbox.event"),
}


@pytest.mark.parametrize("what", EXPORTS)
def test_an_export_that_cannot_be_made_ends_with_the_reason(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("import os\nos.environ['DSN_OF_THE_SHOP']\n")
    (tmp_path / "unreadable.py").write_text("def\n")
    (tmp_path / "silent.py").write_text("from cdc_outbox.app import Outbox\noutbox = Outbox()\nname = 'x'\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    argument, named = EXPORTS[what]
    assert main(["schema", "export", argument]) == 2
    assert named in capsys.readouterr().err
    sys.modules.pop("silent", None)


def test_the_commands_of_the_wheel_end_quietly_when_their_reader_has_gone() -> None:
    for command in (["-m", "cdc_outbox", "explain", "slot-lost"], ["-m", "cdc_outbox", "sql", "install"]):
        script = f"{sys.executable} {' '.join(command)} | true"
        done = subprocess.run(["bash", "-c", script], env=environment(), capture_output=True, text=True, check=False)
        assert done.stderr == ""
