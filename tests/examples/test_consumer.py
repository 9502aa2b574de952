"""The loop of examples/registration on a real Kafka: two members of one group, killed again and again in full flow."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import uuid
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
from confluent_kafka import Consumer, TopicPartition

from cdc_outbox.commands.install import apply_consumer
from examples.registration.consumer import TOPIC
from examples.registration.stage import HERE, ROOT
from tests.plugins.command import environment
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.outbox import Outbox

USERS: Final = 200
GROUP: Final = "rewards"
DONE: Final = "SELECT count(*) FROM accounts"


def topic_of_ours(outbox: Outbox) -> None:
    if outbox.kafka.server is None:
        pytest.skip("the topic's name is the example's, and it must be empty")


@contextlib.contextmanager
def two_members(outbox: Outbox) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes of one consumer; killed at the end of the block."""
    variables = {"DATABASE_URL": outbox.database.dsn, "BROKERS": outbox.kafka.brokers}
    command = [sys.executable, "-m", "examples.registration.rewards"]
    members = [
        subprocess.Popen(command, cwd=ROOT, env=environment(variables), stderr=subprocess.DEVNULL, text=True)
        for _ in range(2)
    ]
    try:
        yield members
    finally:
        for member in members:
            member.send_signal(signal.SIGKILL)
            member.wait()


def committed(outbox: Outbox) -> int:
    """How many records the group has told Kafka that it has consumed."""
    client = Consumer({"bootstrap.servers": outbox.kafka.brokers, "group.id": GROUP, "log_level": 0})
    try:
        partitions = [
            TopicPartition(TOPIC, number) for number in client.list_topics(TOPIC, 10).topics[TOPIC].partitions
        ]
        return sum(max(each.offset, 0) for each in client.committed(partitions, timeout=10))
    finally:
        client.close()


@pytest.mark.nightly
@pytest.mark.timeout(240)
def test_kill_9_in_full_flow_leaves_each_effect_once(outbox: Outbox) -> None:
    topic_of_ours(outbox)
    database = outbox.database
    apply_consumer(database.dsn, pytest.fail)
    database.execute((HERE / "sql" / "rewards.sql").read_text(encoding="utf-8"))
    outbox.create()
    events = [
        {
            "id": str(uuid.uuid4()),
            "aggregatetype": "user",
            "aggregateid": user,
            "type": "UserRegistered",
            "payload": json.dumps({"id": user}),
        }
        for user in (str(uuid.uuid4()) for _ in range(USERS))
    ]
    outbox.add_all(events)
    outbox.add_all(events)  # each a second time, as after a crash of the relay
    outbox.drain("--topic", "outbox.event.{aggregatetype}")
    assert len(ids(outbox.kafka.consume(TOPIC, 2 * USERS))) == 2 * USERS

    for enough in (USERS // 5, USERS // 2):
        with two_members(outbox) as members:
            eventually(lambda: database.execute(DONE)[0][0] >= enough, f"{enough} users", seconds=60)  # noqa: B023
            assert [member.poll() for member in members] == [None, None], "nobody ended by itself"
    with two_members(outbox):
        eventually(lambda: committed(outbox) == 2 * USERS, "all is consumed", seconds=60)

    assert database.execute("SELECT count(*), min(points), max(points) FROM accounts") == [(USERS, 100, 100)]
    assert database.execute("SELECT count(*) FROM inbox") == [(USERS,)]


def test_the_loop_commits_no_offset_before_the_transaction_is_committed(outbox: Outbox) -> None:
    topic_of_ours(outbox)
    database = outbox.database
    apply_consumer(database.dsn, pytest.fail)
    database.execute((HERE / "sql" / "rewards.sql").read_text(encoding="utf-8"))
    outbox.create()
    outbox.add(aggregatetype="user", type="UserRegistered", payload=json.dumps({"id": str(uuid.uuid4())}))
    outbox.drain("--topic", "outbox.event.{aggregatetype}")

    with psycopg.connect(database.dsn) as holder:
        holder.execute("LOCK TABLE accounts")  # the effect cannot be had
        waits = "SELECT count(*) FROM pg_locks WHERE relation = 'accounts'::regclass AND NOT granted"
        with two_members(outbox):
            eventually(lambda: database.execute(waits) == [(1,)], "the effect waits for the lock", seconds=60)
            assert committed(outbox) == 0
    assert database.execute(f"SELECT ({DONE}), (SELECT count(*) FROM inbox)") == [(0, 0)], "killed: neither is there"

    with two_members(outbox):
        eventually(lambda: committed(outbox) == 1, "it came again", seconds=60)
    assert database.execute(f"SELECT ({DONE}), (SELECT count(*) FROM inbox)") == [(1, 1)]
