"""The servers of a run, shared by its seeds: PostgreSQL behind a proxy, and Kafka: one broker behind a proxy, or three without.

In: one broker or three. Out: a `Stage`; for each seed a `Scene`: a fresh database with an outbox, and fresh topics.
Never: a server that somebody else uses. Writers, witness and consumer go to the servers directly.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Self

from psycopg.conninfo import make_conninfo

from cdc_outbox.commands.install import InstallOptions, render_install
from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.chaos.writers import AGGREGATE_TYPES
from tests.plugins.kafka import KafkaCluster
from tests.plugins.oracle import Witness
from tests.plugins.postgres import PostgresServer
from tests.servers.kafka import BRIEF, Kafka
from tests.servers.proxy import Direction, Proxy
from tests.servers.three_brokers import ThreeBrokers

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from tests.plugins.kafka import Record

WAL_SENDER_TIMEOUT_SECONDS: Final = 3.0
"""Of the server, instead of 60: freezes that last longer are noticed."""

PARTITIONS: Final = 3
"""Of each topic."""

_SETTINGS: Final = {
    "wal_sender_timeout": f"{WAL_SENDER_TIMEOUT_SECONDS:g}s",
    "max_wal_size": "4GB",
    "log_min_messages": "warning",
}


class Stage:
    """Started once, for all seeds of a process. PostgreSQL is durable: an immediate shutdown may not cost a commit."""

    def __init__(self, *, three_brokers: bool = False) -> None:
        self.postgres = EmbeddedPostgres(durable=True, settings=_SETTINGS)
        self.kafka: Kafka | ThreeBrokers
        self.kafka_proxy: Proxy | None = None
        """None before a cluster of three: there the brokers themselves come and go."""
        if three_brokers:
            self.kafka = ThreeBrokers()
        else:
            advertised = free_port()
            self.kafka = Kafka(heap=BRIEF, advertised_port=advertised)
            self.kafka_proxy = Proxy(("127.0.0.1", self.kafka.port), port=advertised)
        self._open = ExitStack()
        self._postgres_proxy: Proxy | None = None

    def __enter__(self) -> Self:
        try:
            self._open.enter_context(self.postgres)
            self._open.enter_context(self.kafka)
            if self.kafka_proxy is not None:
                self._open.enter_context(self.kafka_proxy)
            self._postgres_proxy = self._open.enter_context(Proxy(("127.0.0.1", self.postgres.port)))
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @property
    def one_broker(self) -> Kafka:
        """The broker behind the proxy."""
        assert isinstance(self.kafka, Kafka)
        return self.kafka

    @property
    def three_brokers(self) -> ThreeBrokers:
        """The cluster."""
        assert isinstance(self.kafka, ThreeBrokers)
        return self.kafka

    @property
    def logs(self) -> list[Path]:
        """What the servers log."""
        kafka = self.kafka.logs if isinstance(self.kafka, ThreeBrokers) else [self.kafka.log_path]
        return [self.postgres.log_path, *kafka]

    @property
    def postgres_proxy(self) -> Proxy:
        """Between the relay and PostgreSQL."""
        assert self._postgres_proxy is not None, "the stage was not entered"
        return self._postgres_proxy

    def heal(self) -> None:
        """All servers run, all network is well. Harmless where nothing is broken."""
        for proxy in filter(None, (self.postgres_proxy, self.kafka_proxy)):
            proxy.thaw()
            proxy.delay(0.0)
            proxy.forget_idle()
            for direction in Direction:
                proxy.cut_after(sys.maxsize, direction)
            proxy.accept()
        self.postgres.start()
        if isinstance(self.kafka, ThreeBrokers):
            self.kafka.heal()
        else:
            self.kafka.resume()
            self.kafka.start()


class Scene:
    """What one seed has for itself."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.stage = stage
        self.slot = f"chaos_{seed}"
        server = None if isinstance(stage.kafka, ThreeBrokers) else stage.kafka
        self.cluster = KafkaCluster(stage.kafka.brokers, server, stage.kafka_proxy)
        self.prefix = self.cluster.unique_topic_prefix()
        self.database = PostgresServer(stage.postgres.dsn, stage.postgres).create_database()
        self.database.execute(render_install(InstallOptions()))
        self.database.execute("CREATE TABLE business (writer integer, note text)")
        self.witness = Witness(self.database)
        for name in AGGREGATE_TYPES:
            # the broker's own clock tells when a record was there: the same clock as ours
            config = {"message.timestamp.type": "LogAppendTime"}
            self.cluster.create_topic(self.prefix + name, partitions=PARTITIONS, config=config)

    @property
    def dsn(self) -> str:
        """For the relay: through the proxy."""
        return make_conninfo(self.database.dsn, port=self.stage.postgres_proxy.port)

    def mark(self) -> int:
        """An LSN that lies behind everything committed by now, and before some WAL that follows it."""
        query = "SELECT pg_logical_emit_message(true, 'chaos', '') - '0/0'::pg_lsn"
        return int(self.database.execute(query)[0][0])

    def records(self) -> list[Record]:
        """All records of this seed."""
        return self.cluster.consume(f"^{self.prefix}", 0, timeout=60.0)

    def close(self) -> None:
        """Database, slots and topics go."""
        self.database.drop()
        self.cluster.delete_topics(self.prefix + name for name in AGGREGATE_TYPES)


def now() -> float:
    """Unix time in milliseconds, as the broker stamps records."""
    return time.time() * 1000
