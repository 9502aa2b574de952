"""Two PostgreSQL servers, one a physical standby of the other: what a failover needs."""

from __future__ import annotations

import contextlib
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.plugins.oracle import Event
from tests.plugins.outbox import Outbox, insert
from tests.plugins.postgres import PostgresServer
from tests.servers.place import data_folder
from tests.servers.proxy import Proxy
from tests.servers.standby import PHYSICAL_SLOT, Standby

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster

FAILOVER_SINCE: Final = 17
"""PostgreSQL's major version from which a logical slot can have copies on standbys."""


class Pair:
    """A primary, its standby, and the wire between them. `server` is whichever of the two takes writes."""

    def __init__(self, primary: EmbeddedPostgres, standby: Standby, wire: Proxy) -> None:
        self.primary = primary
        self.standby = standby
        self.wire = wire
        self.server = PostgresServer(primary.dsn, primary)

    def dsn(self, dbname: str, **parts: Any) -> str:
        """Both hosts, whichever takes writes."""
        ports = f"{self.primary.port},{self.standby.port}"
        both = {"host": "127.0.0.1,127.0.0.1", "port": ports, "target_session_attrs": "read-write"}
        return make_conninfo(self.primary.dsn, **{"dbname": dbname, "connect_timeout": 2, **both, **parts})

    def hold_back_what_the_standby_lacks(self) -> None:
        """The primary sends nothing through failover slots that the standby has not flushed."""
        with psycopg.connect(self.primary.dsn, autocommit=True) as connection:
            connection.execute(f"ALTER SYSTEM SET synchronized_standby_slots = '{PHYSICAL_SLOT}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    def promote(self) -> None:
        """The standby takes writes from now on."""
        self.standby.promote()
        self.server.embedded = self.standby


class PairOutbox(Outbox):
    """An outbox in a pair of servers. Its relay knows both."""

    def __init__(self, pair: Pair, kafka: KafkaCluster, start: Callable[..., Relay]) -> None:
        super().__init__(pair.server.create_database(), kafka, start)
        self.pair = pair
        self.create()

    def relay(self, *arguments: str, **options: Any) -> Relay:
        """As `Outbox.relay`, with both hosts unless a dsn says otherwise."""
        return super().relay(*arguments, **{"dsn": self.pair.dsn(self.database.name), **options})

    def committed(self) -> list[Event]:
        """What the table of the present primary has, in the order of its only writer's commits."""
        rows = self.database.execute("SELECT id::text, aggregateid FROM outbox ORDER BY seq")
        return [Event(*row) for row in rows]


class Writer:
    """One thread that commits one event after another to whichever server takes them, and does not give up."""

    def __init__(self, dsn: str, *, keys: int = 5, rate: float = 100.0) -> None:
        self._dsn = dsn
        self._keys = keys
        self._pause = 1.0 / rate
        self._enough = threading.Event()
        self.committed = 0
        self._pool = ThreadPoolExecutor(1)
        self._work = self._pool.submit(self._write_on)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End after the present transaction. Raises what is no failover."""
        self._enough.set()
        self._pool.shutdown()
        self._work.result()

    def _write_on(self) -> None:
        while not self._enough.is_set():
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self._dsn) as connection:
                while not self._enough.wait(self._pause):
                    key = f"key-{self.committed % self._keys}"
                    insert(connection, "outbox", {"id": str(uuid.uuid4()), "aggregateid": key})
                    connection.commit()
                    self.committed += 1
            time.sleep(self._pause)


@pytest.fixture
def pair(postgres_binaries: Path) -> Iterator[Pair]:
    """A primary and its standby, which follows it through `pair.wire`. Two seconds."""
    primary = EmbeddedPostgres(bin_dir=postgres_binaries, parent=data_folder(), settings={"wal_sender_timeout": "5s"})
    if int(primary.version.split(".")[0]) < FAILOVER_SINCE:
        pytest.skip(f"failover slots need PostgreSQL {FAILOVER_SINCE}, and this is {primary.version}")
    with (
        primary,
        Proxy(("127.0.0.1", primary.port)) as wire,
        Standby(primary, upstream=("127.0.0.1", wire.port)) as standby,
    ):
        yield Pair(primary, standby, wire)


@pytest.fixture
def pair_outbox(pair: Pair, kafka: KafkaCluster, relay: Callable[..., Relay]) -> PairOutbox:
    """An outbox with its table and publication on both servers."""
    return PairOutbox(pair, kafka, relay)
