"""The servers and services of the example, on this machine: PostgreSQL, a broker, a mail server, the relay, four services.

In: nothing. Out: a `Stage` on which all of it runs, each service in a process of its own, as in production.
Never: a process or a file left behind. This file is what an operator does, not what an application team writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition
from psycopg.sql import SQL, Identifier, Literal

from cdc_outbox.commands.install import InstallOptions, apply_consumer, apply_install, apply_roles
from cdc_outbox.demo.broker import EmbeddedBroker
from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.demo.reaper import ProcessReaper
from cdc_outbox.demo.relay import RelayProcess
from cdc_outbox.errors import CdcOutboxError
from examples.registration.consumer import TOPIC
from examples.registration.postbox import Postbox

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CONSUMERS = ("mailer", "profiles", "rewards")
SLOT = "cdc_outbox"
BOOKMARK = "bookmark"
"""A copy of the slot from before the first event."""

POLL_SECONDS = 0.05
DEADLINE_SECONDS = 60.0
"""For anything that is waited for: it takes a second or two."""
STOP_SECONDS = 15.0


class Service:
    """One of the four programs, in a process of its own."""

    def __init__(self, name: str, *arguments: str, **environment: str) -> None:
        self.name = name
        self._command = [sys.executable, "-m", *arguments]
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `stop`)
        self.start()

    def start(self) -> None:
        """Start it, for the first time or again."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd=ROOT,
            env=self._environment,
            start_new_session=True,  # Ctrl-C in our terminal is for us
        )
        self._guard = ProcessReaper(self._process.pid, by=signal.SIGKILL)

    @property
    def log(self) -> str:
        """Its output."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def check(self) -> None:
        """Raise CdcOutboxError when it has ended by itself."""
        if self._process.returncode is None and self._process.poll() is not None:
            raise CdcOutboxError(f"{self.name} ended by itself, with exit code {self._process.returncode}:\n{self.log}")

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._guard.release()

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process.poll() is None

    def stop(self) -> None:
        """SIGTERM."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        self.kill()
        self._log.close()


@dataclass(frozen=True, slots=True)
class Answer:
    """Of the web API."""

    status: int
    body: dict[str, Any]


class Stage(contextlib.ExitStack):
    """Everything runs inside the `with` block."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def _set_up(self) -> None:
        self.services: list[Service] = []
        self._postgres = self.enter_context(EmbeddedPostgres())
        self.broker = self.enter_context(EmbeddedBroker())
        self.postbox = self.enter_context(Postbox())
        dsns = {name: self._make_database(name) for name in ("web", *CONSUMERS)}
        self.relay = RelayProcess(self._relay_dsn(), self.broker.brokers)
        self._make_slots()
        self._make_topic()
        self.callback(self.relay.close)
        self.relay.start()
        port = str(free_port())
        self.url = f"http://127.0.0.1:{port}"
        web = ("uvicorn", "examples.registration.web:app", "--host", "127.0.0.1", "--port", port)
        self.services.append(Service("web", *web, DATABASE_URL=dsns["web"]))
        for name in CONSUMERS:
            where = {"DATABASE_URL": dsns[name], "BROKERS": self.broker.brokers, "SMTP": self.postbox.address}
            self.services.append(Service(name, f"examples.registration.{name}", **where))
        for service in self.services:
            self.callback(service.stop)
        self.wait_for("the web API", self._answers)
        self.wait_for("the consumers", lambda: all("ready" in service.log for service in self.services[1:]))

    # -- databases

    def _make_database(self, name: str) -> str:
        """A database and a role of this name. The web API's has the outbox, the others have an inbox. The role's DSN."""
        password = secrets.token_urlsafe(12)
        with psycopg.connect(self._postgres.dsn, autocommit=True) as admin:
            admin.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(Identifier(name), Literal(password)))
            owner = Identifier("postgres" if name == "web" else name)
            admin.execute(SQL("CREATE DATABASE {} OWNER {}").format(Identifier(name), owner))
        role = self._postgres.dsn_for(user=name, password=password, dbname=name)
        if name == "web":
            for apply in (apply_install, apply_roles):
                apply(self._postgres.dsn_for(dbname=name), InstallOptions(), _quiet)
        else:
            apply_consumer(role, _quiet)
        with psycopg.connect(self._postgres.dsn_for(dbname=name) if name == "web" else role) as connection:
            connection.execute((HERE / "sql" / f"{name}.sql").read_bytes())
        return role

    def _relay_dsn(self) -> str:
        password = secrets.token_urlsafe(12)
        self.query("web", f"ALTER ROLE cdc_outbox_relay PASSWORD '{password}'")
        return self._postgres.dsn_for(user="cdc_outbox_relay", password=password, dbname="web")

    def query(self, database: str, text: str) -> list[tuple[Any, ...]]:
        """Rows of a statement, as the superuser."""
        with psycopg.connect(self._postgres.dsn_for(dbname=database), autocommit=True) as connection:
            cursor = connection.execute(text.encode())
            return cursor.fetchall() if cursor.description else []

    # -- what happens to the relay

    def _make_slots(self) -> None:
        """The relay would make its slot by itself; made here, a copy can be kept of where it began."""
        self.query("web", f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")
        self._copy_slot(SLOT, BOOKMARK)

    def _copy_slot(self, source: str, target: str) -> None:
        self.query("web", f"SELECT pg_copy_logical_replication_slot('{source}', '{target}')")

    def forget_confirmations(self) -> None:
        """Put the slot of a relay that is dead back to its beginning, as if it had never confirmed anything.

        The worst of all crashes: everything was delivered, and PostgreSQL has heard of nothing.
        """
        slot = f"FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        self.wait_for("an unused slot", lambda: self.query("web", f"SELECT 1 {slot} AND NOT active"))
        self.query("web", f"SELECT pg_drop_replication_slot(slot_name) {slot}")
        self._copy_slot(BOOKMARK, SLOT)

    def confirmed(self) -> bool:
        """Whether PostgreSQL has heard that all that is committed by now was delivered."""
        lsn = self.query("web", "SELECT pg_current_wal_insert_lsn()")[0][0]
        slot = f"FROM pg_replication_slots WHERE slot_name = '{SLOT}' AND confirmed_flush_lsn >= '{lsn}'"
        self.wait_for(f"the confirmation of {lsn}", lambda: self.query("web", f"SELECT 1 {slot}"))
        return True

    # -- what comes of it

    def _make_topic(self) -> None:
        """The broker makes a topic when it is first named. A consumer that comes before its topic waits for some seconds."""
        producer = Producer({"bootstrap.servers": self.broker.brokers})
        self.wait_for("the topic", lambda: producer.list_topics(TOPIC, timeout=10.0).topics[TOPIC].partitions)

    def service(self, name: str) -> Service:
        """The program of this name."""
        return next(service for service in self.services if service.name == name)

    def register(self, name: str) -> Answer:
        """POST /users, as a browser would."""
        body = json.dumps({"name": name, "email": address(name)}).encode()
        request = urllib.request.Request(  # noqa: S310  (our own server)
            f"{self.url}/users", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_SECONDS) as answer:  # noqa: S310
                return Answer(answer.status, json.load(answer))
        except urllib.error.HTTPError as refusal:
            if refusal.code >= 500:
                raise CdcOutboxError(f"the web API failed:\n{self.services[0].log}") from refusal
            with refusal:
                return Answer(refusal.code, json.load(refusal))

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/openapi.json", timeout=1.0) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except OSError:
            return False

    def record_ids(self) -> list[str]:
        """The header `id` of every record in the topic, duplicates included."""
        return [str(dict(message.headers() or [])["id"], "ascii") for message in self._read_topic()]

    def all_consumed(self) -> bool:
        """Whether each consumer has committed every record that is in the topic now."""
        return all(self._behind(name) == 0 for name in CONSUMERS)

    def _behind(self, group: str) -> int:
        with self._client(group) as client:
            ends = {each.partition: client.get_watermark_offsets(each)[1] for each in _partitions(client)}
            committed = client.committed(_partitions(client))
            return sum(ends[each.partition] - max(each.offset, 0) for each in committed)

    def _read_topic(self) -> list[Any]:
        with self._client("reader") as client:
            parts = _partitions(client)
            left = sum(high - low for low, high in map(client.get_watermark_offsets, parts))
            client.assign([TopicPartition(TOPIC, each.partition, 0) for each in parts])
            messages: list[Any] = []
            while len(messages) < left:
                messages += client.consume(left - len(messages), timeout=1.0)
            return messages

    @contextlib.contextmanager
    def _client(self, group: str) -> Iterator[Consumer]:
        client = Consumer({"bootstrap.servers": self.broker.brokers, "group.id": group, "enable.auto.commit": False})
        try:
            yield client
        finally:
            client.close()

    def wait_for(self, what: str, condition: Callable[[], object]) -> None:
        """Wait until it is so. Raises CdcOutboxError when it takes too long, or a service has ended."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not condition():
            self.relay.check()
            for service in self.services:
                service.check()
            if time.monotonic() > deadline:
                raise CdcOutboxError(f"{what}: not within {DEADLINE_SECONDS:g} s")
            time.sleep(POLL_SECONDS)


def address(name: str) -> str:
    """Where `name` gets mail."""
    return f"{name.lower()}@users.example"


def _partitions(client: Consumer) -> list[TopicPartition]:
    return [
        TopicPartition(TOPIC, number) for number in client.list_topics(TOPIC, timeout=10.0).topics[TOPIC].partitions
    ]


def _quiet(_: str) -> None:
    """The installation's warnings are about servers that are older than this one."""
