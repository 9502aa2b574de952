"""The servers that all other tests stand on: each does what its fixture says."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient

import cdc_outbox
from cdc_outbox.demo import binaries
from cdc_outbox.demo.binaries import find_binaries, reachable_binaries, unprivileged_account
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cdc_outbox.demo.reaper import Account
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database, PostgresServer

PATIENCE = 20.0
"""Seconds for what has to happen."""

needs_binaries = pytest.mark.usefixtures("postgres_binaries")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"{what} within {PATIENCE} s"
        time.sleep(0.02)


def produce(brokers: str, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": brokers, "log_level": 0, "linger.ms": 5})
    for number in range(count):
        headers: list[tuple[str, str | bytes | None]] = [("id", str(number).encode()), ("none", None)]
        producer.produce(topic, f"v{number}".encode(), b"k", headers=headers, timestamp=1_700_000_000_000)
    assert producer.flush(PATIENCE) == 0


# -- PostgreSQL


def test_a_database_is_fresh_and_its_server_decodes_logically(database: Database) -> None:
    assert database.execute("SHOW wal_level") == [("logical",)]
    assert database.execute("SELECT current_database()") == [(database.name,)]
    assert database.execute("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace") == [(0,)]


def test_a_committed_row_is_in_the_stream_of_a_slot(database: Database) -> None:
    slot = f"slot_{database.name}"
    database.execute("CREATE TABLE t (n int)")
    database.execute("CREATE PUBLICATION p FOR TABLE t")
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    database.execute("INSERT INTO t VALUES (1)")
    changes = database.execute(
        "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '1', 'publication_names', 'p')",
        [slot],
    )
    assert [data[:1] for (data,) in changes] == [b"B", b"R", b"I", b"C"]


def test_a_dropped_database_takes_its_slots_and_connections_along(postgres_server: PostgresServer) -> None:
    database = postgres_server.create_database()
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"slot_{database.name}"])
    walsender = psycopg.connect(postgres_server.dsn_for(dbname=database.name, replication="database"), autocommit=True)
    with contextlib.closing(walsender):
        walsender.pgconn.exec_(
            f"START_REPLICATION SLOT slot_{database.name} LOGICAL 0/0 (proto_version '1', "
            "publication_names 'none')".encode()
        )
        database.connect()
        database.drop()
        with postgres_server.connect() as admin:
            left = admin.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [database.name])
            assert left.fetchall() == []
            there = admin.execute("SELECT 1 FROM pg_database WHERE datname = %s", [database.name])
            assert there.fetchall() == []


def test_a_role_needs_its_password(database: Database) -> None:
    database.execute("CREATE ROLE somebody LOGIN PASSWORD 'right one'")
    assert database.connect(database.dsn_for("somebody", "right one")).execute("SELECT 1").fetchall() == [(1,)]
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        database.connect(database.dsn_for("somebody", "wrong one"))


def test_a_killed_postgres_comes_back_with_its_data_and_port(own_postgres: Callable[..., PostgresServer]) -> None:
    server = own_postgres(durable=True)
    database = server.create_database()
    database.execute("CREATE TABLE t AS SELECT 1 AS n")
    assert database.execute("SHOW fsync") == [("on",)]
    assert server.embedded is not None
    server.embedded.kill()
    assert not server.embedded.running
    server.embedded.start()
    assert database.execute("SELECT n FROM t") == [(1,)]
    server.embedded.restart("immediate")
    assert database.execute("SELECT n FROM t") == [(1,)]
    assert database.execute("SHOW fsync") == [("on",)]


def test_a_smart_shutdown_waits_for_clients_and_reports_it(own_postgres: Callable[..., PostgresServer]) -> None:
    server = own_postgres()
    assert server.embedded is not None
    with server.connect():
        with pytest.raises(TimeoutError, match="smart"):
            server.embedded.stop("smart", timeout=0.3)
        assert server.embedded.running
    server.embedded.stop("smart", timeout=PATIENCE)
    assert not server.embedded.running


@needs_binaries
def test_a_setting_that_postgres_refuses_is_reported_with_its_log() -> None:
    server = EmbeddedPostgres(settings={"no_such_setting": "1"})
    with pytest.raises(ConfigurationError, match="unrecognized configuration parameter"):
        server.start()
    assert not server.running


@needs_binaries
def test_a_port_that_was_taken_meanwhile_is_replaced() -> None:
    server = EmbeddedPostgres()
    first = server.port
    with EmbeddedPostgres(port=first), server:
        assert server.port != first
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SHOW port").fetchall() == [(str(server.port),)]


def test_a_folder_without_a_server_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(binaries.ENVIRONMENT, str(tmp_path))
    with pytest.raises(ConfigurationError, match="No PostgreSQL server in"):
        find_binaries()


ORPHAN = """
import sys, time
from cdc_outbox.demo.postgres import EmbeddedPostgres
server = EmbeddedPostgres()
server.start()
print(server.pid, server.data_dir.parent, server.data_dir.stat().st_uid, flush=True)
time.sleep(600)
"""


@needs_binaries
def test_a_server_and_its_files_go_when_the_process_that_started_it_is_killed() -> None:
    starter = subprocess.Popen([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True)
    with starter:
        assert starter.stdout is not None
        pid, folder, _ = starter.stdout.readline().split()
        assert _lives(int(pid))
        starter.kill()
    wait_until(lambda: not _lives(int(pid)), "the server ends")
    wait_until(lambda: not Path(folder).exists(), "its files are gone")


@as_root
def test_for_root_the_server_runs_as_nobody(own_postgres: Callable[..., PostgresServer]) -> None:
    server = own_postgres().embedded
    assert server is not None
    account = unprivileged_account()
    assert account is not None
    assert Path(f"/proc/{server.pid}").stat().st_uid == account.uid
    groups = next(
        line for line in Path(f"/proc/{server.pid}/status").read_text().splitlines() if line.startswith("Groups")
    )
    assert groups.split() == ["Groups:"]
    assert server.data_dir.stat().st_uid == account.uid


@as_root
def test_for_root_binaries_in_a_folder_that_only_root_enters_are_copied_once(
    postgres_binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = postgres_binaries.parent
    package = installation.parent
    if not (installation / "share").is_dir():
        pytest.skip("these binaries are part of the system, and everybody can reach them")
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp") as hidden,
        tempfile.TemporaryDirectory(dir="/var/tmp") as cache,
    ):
        monkeypatch.setattr(binaries, "_CACHE", Path(cache))
        for folder in (installation, package.with_name(f"{package.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, Path(hidden) / folder.relative_to(package.parent), copy_function=os.link)
        bin_dir = Path(hidden) / installation.relative_to(package.parent) / "bin"
        with EmbeddedPostgres(bin_dir=bin_dir) as server, psycopg.connect(server.dsn) as connection:
            assert server.bin_dir.is_relative_to(cache)
            assert connection.execute("SHOW wal_level").fetchall() == [("logical",)]
        made = server.bin_dir.stat().st_ino
        assert reachable_binaries(bin_dir, unprivileged_account()).stat().st_ino == made
        assert len(list(Path(cache).iterdir())) == 1
        assert Path(hidden).stat().st_mode & 0o777 == 0o700


@as_root
def test_an_ordinary_user_starts_a_server_of_his_own(postgres_binaries: Path) -> None:
    account = unprivileged_account()
    assert account is not None
    package, bin_dir = Path(cdc_outbox.__file__).parent, reachable_binaries(postgres_binaries, account)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as shared:
        Path(shared).chmod(0o755)
        shutil.copytree(package, Path(shared) / "cdc_outbox", ignore=shutil.ignore_patterns("__pycache__"))
        starter = subprocess.Popen(
            [_everybodys_python(account), "-B", "-c", ORPHAN],
            stdout=subprocess.PIPE,
            text=True,
            cwd=shared,
            env={"PYTHONPATH": shared, "PATH": os.environ["PATH"], binaries.ENVIRONMENT: str(bin_dir)},
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )
        with starter:
            assert starter.stdout is not None
            pid, folder, owner = starter.stdout.readline().split()
            assert int(owner) == account.uid
            starter.kill()
        wait_until(lambda: not _lives(int(pid)), "the server ends")
        wait_until(lambda: not Path(folder).exists(), "its files are gone")


def _everybodys_python(account: Account) -> str:
    for candidate in (sys.executable, "/usr/bin/python3"):
        new_enough = [candidate, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(new_enough, user=account.uid, group=account.gid, extra_groups=[], check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return candidate
    pytest.skip("no Python 3.11 that an ordinary user can run")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- Apache Kafka


def test_kafka_gives_back_what_was_produced_on_topics_that_appear_meanwhile(kafka: KafkaCluster) -> None:
    prefix = kafka.unique_topic_prefix()
    produce(kafka.brokers, f"{prefix}a", 60)
    produce(kafka.brokers, f"{prefix}b", 40)
    records = kafka.consume(f"^{prefix}", until=100)
    assert len(records) == 100
    assert {record.timestamp for record in records} == {1_700_000_000_000}
    assert [r.value for r in records if r.topic == f"{prefix}b"] == [f"v{n}".encode() for n in range(40)]
    assert records[0].header("none") is None
    with pytest.raises(KeyError):
        records[0].header("type")


def test_a_surplus_of_records_is_an_error(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix() + "a", partitions=1)
    produce(kafka.brokers, topic, 5000)
    assert len(kafka.consume(topic, until=1)) == 5000


def test_a_reader_reports_the_records_when_too_few_came(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix() + "a", partitions=3)
    assert kafka.consume(topic, until=0) == []
    produce(kafka.brokers, topic, 1)
    with pytest.raises(AssertionError, match="only 1 records"):
        kafka.consume(topic, until=2, timeout=0.5)


def test_topics_get_the_settings_they_are_made_with(kafka: KafkaCluster) -> None:
    topic = kafka.create_topic(kafka.unique_topic_prefix() + "a", partitions=2, config={"max.message.bytes": "1000"})
    producer = Producer({"bootstrap.servers": kafka.brokers})
    told: list[str] = []
    producer.produce(
        topic, b"x" * 5000, on_delivery=lambda error, _: told.append(error.name() if error else "delivered")
    )
    assert producer.flush(PATIENCE) == 0
    assert told == ["MSG_SIZE_TOO_LARGE"]


@pytest.mark.nightly
def test_kafka_keeps_records_over_a_restart_and_a_kill(own_kafka: Callable[..., KafkaCluster]) -> None:
    kafka = own_kafka()
    assert kafka.server is not None
    topic = kafka.create_topic("kept", partitions=1)
    produce(kafka.brokers, topic, 10)
    kafka.server.restart()
    produce(kafka.brokers, topic, 10)
    kafka.server.kill()
    kafka.server.start()
    assert len(kafka.consume(topic, until=20)) == 20
    printed = kafka.server.console_consumer(topic, max_messages=1)
    assert printed == "id:0,none:null\tk\tv0\n"


def test_a_frozen_kafka_does_not_answer_until_it_is_resumed(own_kafka: Callable[..., KafkaCluster]) -> None:
    kafka = own_kafka(proxied=True)
    assert kafka.server is not None
    assert kafka.proxy is not None
    produce(kafka.brokers, "t", 1)
    assert kafka.proxy.accepted > 0
    client = AdminClient({"bootstrap.servers": kafka.brokers, "log_level": 0})
    assert client.list_topics(timeout=PATIENCE).brokers
    kafka.server.pause()
    with pytest.raises(KafkaException):
        client.list_topics(timeout=0.5)
    kafka.server.resume()
    assert client.list_topics(timeout=PATIENCE).brokers
    assert len(kafka.consume("t", until=1)) == 1
