"""A cluster of three Apache Kafka brokers on 127.0.0.1, each broker and controller: replication 3, min.insync.replicas 2.

Out: the acts that tests need on any of them: kill, stop, freeze, two away at once; who leads a partition; the way back.
Never: a heap that three of them could not have beside each other on a small machine.
"""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdc_outbox.demo.ports import free_port
from tests.servers.kafka import Kafka, Node, new_cluster_id

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

NODES: Final = (1, 2, 3)

HEAP: Final = ("-Xms64m", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")

PROPERTIES: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "num.partitions": "3",
    "offsets.topic.replication.factor": "3",
    "controller.quorum.election.timeout.ms": "1000",
    "controller.quorum.fetch.timeout.ms": "2000",  # how long a killed controller leader is waited for
    "replica.lag.time.max.ms": "3000",  # how long a frozen follower holds up acks=all
}

HEAL_SECONDS: Final = 120.0
"""For three Java machines that start together on a busy machine."""


class ThreeBrokers:
    """Three brokers that live as long as this object. Use it in a `with` block. Brokers are named by their node id."""

    def __init__(self, *, parent: Path | None = None) -> None:
        controllers = {node: free_port() for node in NODES}
        cluster = new_cluster_id()
        self.nodes = {
            node: Kafka(properties=PROPERTIES, heap=HEAP, parent=parent, node=Node(node, controllers, cluster))
            for node in NODES
        }
        self._paused: set[int] = set()

    @property
    def brokers(self) -> str:
        """Bootstrap addresses of all three."""
        return ",".join(kafka.brokers for kafka in self.nodes.values())

    def __enter__(self) -> Self:
        try:
            self.heal()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def kill(self, *nodes: int) -> None:
        """SIGKILL, one right after the other."""
        for node in nodes:
            self.nodes[node].kill()

    def stop(self, *nodes: int) -> None:
        """Controlled shutdown: leaders move first. It may not end while most nodes are away; then SIGKILL."""
        for node in nodes:
            self.nodes[node].stop(timeout=15.0)

    def pause(self, *nodes: int) -> None:
        """SIGSTOP."""
        for node in nodes:
            self.nodes[node].pause()
            self._paused.add(node)

    @property
    def logs(self) -> list[Path]:
        """What the brokers log."""
        return [kafka.log_path for kafka in self.nodes.values()]

    def bring_back(self, *nodes: int) -> None:
        """Let brokers run again after `kill`, `stop` or `pause`, and wait until they answer."""
        for node in nodes:
            if node in self._paused:
                self.nodes[node].resume()
                self._paused.discard(node)
            self.nodes[node].launch()
        for node in nodes:
            self.nodes[node].wait_ready(timeout=HEAL_SECONDS)

    def leader(self, topic: str, partition: int = 0) -> int:
        """The node that leads the partition at present."""
        found = self._metadata(topic).topics[topic].partitions[partition].leader
        assert found in self.nodes, f"{topic} {partition} has no leader"
        return int(found)

    def heal(self) -> None:
        """All three run and answer, and every replica of every partition is in sync."""
        for node in tuple(self._paused):
            with contextlib.suppress(ProcessLookupError):
                self.nodes[node].resume()
            self._paused.discard(node)
        with ThreadPoolExecutor(len(NODES)) as pool:
            list(pool.map(lambda kafka: kafka.launch(), self.nodes.values()))
            list(pool.map(lambda kafka: kafka.wait_ready(timeout=HEAL_SECONDS), self.nodes.values()))
        deadline = time.monotonic() + HEAL_SECONDS
        while not self._in_sync():
            assert time.monotonic() < deadline, "replicas are not in sync again"
            time.sleep(0.1)

    def close(self) -> None:
        """Kill all, and remove their data."""
        for kafka in self.nodes.values():
            kafka.close()

    def _in_sync(self) -> bool:
        try:
            found = self._metadata()
        except KafkaException:
            return False
        partitions = [each for topic in found.topics.values() for each in topic.partitions.values()]
        return len(found.brokers) == len(NODES) and all(
            len(each.isrs) == len(each.replicas) and each.leader in self.nodes for each in partitions
        )

    def _metadata(self, topic: str | None = None):  # type: ignore[no-untyped-def]
        client = AdminClient({"bootstrap.servers": self.brokers, "log_level": 0})
        return client.list_topics(topic, timeout=10) if topic else client.list_topics(timeout=10)
