"""A throw-away Apache Kafka broker on 127.0.0.1: KRaft, from the project's own jars; alone, or one node of a cluster.

In: Java and Maven (which fetches the jars once, into a cache folder outside the checkout), and broker properties.
Out: a running broker, and the acts that tests need: stop, restart, kill, freeze; Kafka's own console consumer.
Never: listens beyond 127.0.0.1, leaves a process or a data folder behind when this process ends.

Listeners: CLIENT is what `brokers` names, and what security settings or a proxy are put on; INTERNAL is plain and
always reached directly, for readiness and for those who check.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.reaper import ProcessReaper
from tests.servers.class_archive import archived
from tests.servers.standstill import stand_still

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

VERSION: Final = "4.1.2"
LOG4J: Final = "2.25.3"
"""The version that this Kafka brings its log4j-core in."""

HEAP: Final = ("-Xms256m", "-Xmx512m")

_START_QUICKLY: Final = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
BRIEF: Final = (*HEAP, *_START_QUICKLY)
"""For a broker that lives for minutes: half the CPU time to start (3.9 s instead of 6.7), less speed in the long run."""

_POM: Final = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>cdc-outbox</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{kafka}</version></dependency>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>{kafka}</version>
      <exclusions><exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion></exclusions>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>{log4j}</version>
    </dependency>
  </dependencies>
</project>
"""

_LOG4J: Final = """status = error
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = stdout
appender.stdout.type = Console
appender.stdout.name = stdout
appender.stdout.layout.type = PatternLayout
appender.stdout.layout.pattern = %d %p %c{1}: %m%n
"""


_SILENT: Final = logging.getLogger("tests.servers.kafka.readiness")
"""A broker that is not up yet is what readiness waits for, no news."""
_SILENT.disabled = True


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a cluster, which is broker and controller. `controllers`: the port of each node's controller, by node id."""

    id: int
    controllers: Mapping[int, int]
    cluster_id: str


class KafkaUnavailable(Exception):
    """Java or Maven is missing, the jars cannot be had, or the broker does not start. The message says which."""


class Kafka:
    """A broker that lives as long as this object, at most as long as this process.

    `properties` go over the ones below (server.properties). `client_protocol` is the security protocol of the CLIENT
    listener, whose own settings are `listener.name.client.*`. `advertised_port`: where clients are told to find it, a
    proxy's, say. `listeners`: more of them, by name the security protocol; `address(name)` tells where. `parent`: where its
    folder is made, if not among the temporary ones. `node`: of a cluster; without it the broker is alone.
    """

    def __init__(
        self,
        *,
        properties: Mapping[str, str] | None = None,
        client_protocol: str = "PLAINTEXT",
        advertised_port: int | None = None,
        listeners: Mapping[str, str] | None = None,
        heap: tuple[str, ...] = HEAP,
        parent: Path | None = None,
        node: Node | None = None,
    ) -> None:
        self.jars = fetch_jars()
        self.port = free_port()
        self.internal_port = free_port()
        self._node = node
        self._controller_port = node.controllers[node.id] if node else free_port()
        self._advertised_port = advertised_port or self.port
        self._client_protocol = client_protocol
        self._listeners = {name: (protocol, free_port()) for name, protocol in (listeners or {}).items()}
        self._properties = dict(properties or {})
        self._heap = heap
        self._parent = parent
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: ProcessReaper | None = None

    @property
    def brokers(self) -> str:
        """Bootstrap address of the CLIENT listener."""
        return f"127.0.0.1:{self._advertised_port}"

    @property
    def internal_brokers(self) -> str:
        """Bootstrap address of the plain listener that no proxy and no security setting stands before."""
        return f"127.0.0.1:{self.internal_port}"

    def address(self, listener: str) -> str:
        """Bootstrap address of one of the `listeners`."""
        return f"127.0.0.1:{self._listeners[listener][1]}"

    @property
    def pid(self) -> int:
        """Process id of the broker's Java machine."""
        return self._running().pid

    @property
    def log_path(self) -> Path:
        """What the broker logs (warnings and errors), over all its starts."""
        return self._made() / "kafka.log"

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, timeout: float = 60.0) -> None:
        """Start, for the first time or again with the same data and ports; returns when it answers for its metadata."""
        if self.launch():
            self.wait_ready(timeout=timeout)

    def launch(self) -> bool:
        """Start, and wait for nothing: a node of a cluster answers once most nodes run. False when it runs already."""
        if self._alive():
            return False
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="cdc-outbox-kafka-", dir=self._parent))
            self._format()
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._java(
                    "kafka.Kafka", str(self._folder / "server.properties"), heap=(*self._archive(), *self._heap)
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in our terminal is for us
            )
        self._guard = ProcessReaper(self._process.pid, by=signal.SIGKILL, folder=self._folder)
        return True

    def wait_ready(self, *, timeout: float = 60.0) -> None:
        """Wait until it answers for its metadata. Raises KafkaUnavailable with the end of its log."""
        self._wait_ready(time.monotonic() + timeout)

    def stop(self, *, timeout: float = 30.0) -> None:
        """Controlled shutdown; SIGKILL when it takes longer than `timeout` seconds."""
        if self._alive():
            process = self._running()
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._ended()

    def kill(self) -> None:
        """SIGKILL: no controlled shutdown, no flush."""
        process = self._running()
        process.kill()
        process.wait()
        self._ended()

    def restart(self, *, timeout: float = 30.0) -> None:
        """Stop and start with the same data and ports."""
        self.stop(timeout=timeout)
        self.start()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        stand_still(self.pid)

    def resume(self) -> None:
        """SIGCONT after `pause()`."""
        self._running().send_signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill, and remove the data."""
        if self._alive():
            self.kill()
        self._ended()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def console_consumer(self, topic: str, *arguments: str, max_messages: int = 1, timeout: float = 30.0) -> str:
        """What Kafka's own console consumer prints for a topic from its beginning: headers, key, value by default."""
        shown = ["--property", "print.headers=true", "--property", "print.key=true"]
        done = subprocess.run(
            [
                *self._java("org.apache.kafka.tools.consumer.ConsoleConsumer", heap=("-Xmx128m", *_START_QUICKLY)),
                *("--bootstrap-server", self.internal_brokers, "--topic", topic, "--from-beginning"),
                *("--max-messages", str(max_messages), "--timeout-ms", str(int(timeout * 1000))),
                *(arguments or shown),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout + 30.0,
        )
        if done.returncode:
            raise KafkaUnavailable(f"the console consumer failed: {done.stderr.strip()}")
        return done.stdout

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the broker was not started"
        return self._process

    def _made(self) -> Path:
        assert self._folder is not None, "the broker was not started"
        return self._folder

    def _ended(self) -> None:
        if self._guard is not None:
            self._guard.release()
            self._guard = None

    def _java(self, main: str, *arguments: str, heap: tuple[str, ...]) -> list[str]:
        quiet = f"-Dlog4j2.configurationFile={self._made() / 'log4j2.properties'}"
        return [_java_command(), *heap, quiet, "-cp", f"{self.jars}/*", main, *arguments]

    def _archive(self) -> tuple[str, ...]:
        """Only for a broker that lives for minutes, so that benchmarks start theirs as a site does."""
        brief = set(_START_QUICKLY) <= set(self._heap) and not any("ArchiveClasses" in each for each in self._heap)
        return archived(self.jars.parent, _java_command(), _run_once) if brief else ()

    def _format(self) -> None:
        folder = self._made()
        (folder / "log4j2.properties").write_text(_LOG4J, encoding="ascii")
        lines = (f"{name}={value}\n" for name, value in self._server_properties(folder))
        (folder / "server.properties").write_text("".join(lines), encoding="utf-8")
        done = subprocess.run(
            [
                *self._java("kafka.tools.StorageTool", "format", heap=(*self._archive(), "-Xmx128m", *_START_QUICKLY)),
                *("--cluster-id", self._node.cluster_id if self._node else new_cluster_id()),
                *(() if self._node else ("--standalone",)),
                *("--config", str(folder / "server.properties")),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise KafkaUnavailable(f"formatting Kafka's storage failed: {done.stderr.strip() or done.stdout.strip()}")

    def _server_properties(self, folder: Path) -> Iterator[tuple[str, str]]:
        more = {name: self.address(name) for name in self._listeners}
        bound = {"CLIENT": f"127.0.0.1:{self.port}", "INTERNAL": self.internal_brokers, **more}
        protocols = {"CLIENT": self._client_protocol, "INTERNAL": "PLAINTEXT", "CONTROLLER": "PLAINTEXT"}
        protocols |= {name: protocol for name, (protocol, _) in self._listeners.items()}
        ours = {
            "process.roles": "broker,controller",
            **self._quorum(),
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "INTERNAL",
            "listeners": _addresses({**bound, "CONTROLLER": f"127.0.0.1:{self._controller_port}"}),
            "advertised.listeners": _addresses({**bound, "CLIENT": self.brokers}),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "log.dirs": str(folder / "data"),
            "num.partitions": "6",
            "auto.create.topics.enable": "true",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.session.timeout.ms": "3000",  # how long a killed broker's successor waits to be let in
            "broker.heartbeat.interval.ms": "500",
            "log.cleaner.dedupe.buffer.size": "2097152",  # instead of 128 MB; nothing here is worth compacting
        }
        yield from {**ours, **self._properties}.items()

    def _quorum(self) -> dict[str, str]:
        if self._node is None:
            return {"node.id": "1", "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._controller_port}"}
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in self._node.controllers.items())
        return {"node.id": str(self._node.id), "controller.quorum.voters": voters}

    def _wait_ready(self, deadline: float) -> None:
        client = AdminClient({"bootstrap.servers": self.internal_brokers, "log_level": 0}, logger=_SILENT)
        while time.monotonic() < deadline:
            if not self._alive():
                break
            with contextlib.suppress(KafkaException):
                if client.list_topics(timeout=0.5).brokers:
                    return
        tail = "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
        raise KafkaUnavailable(f"Kafka {VERSION} did not start; its log ends:\n{tail}")


def _run_once(option: str) -> None:
    with Kafka(heap=(*BRIEF, option)) as broker:
        broker.stop(timeout=60.0)


def new_cluster_id() -> str:
    """An id as `kafka-storage.sh random-uuid` makes one: 22 characters."""
    return uuid.uuid4().hex[:22]


def _addresses(listeners: Mapping[str, str]) -> str:
    return ",".join(f"{name}://{address}" for name, address in listeners.items())


def fetch_jars() -> Path:
    """The folder with the broker's jars, fetched by Maven the first time. KafkaUnavailable says what is missing."""
    _java_command()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc-outbox"
    home = cache / f"kafka-{VERSION}"
    if not home.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise KafkaUnavailable(f"Maven (mvn) is not installed; it fetches Apache Kafka {VERSION} for the tests")
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"kafka-{VERSION}-", dir=cache))
        try:
            _fetch(maven, draft)
            with contextlib.suppress(OSError):  # another process was faster; its folder is as good
                draft.rename(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return home / "jars"


def _fetch(maven: str, folder: Path) -> None:
    (folder / "pom.xml").write_text(_POM.format(kafka=VERSION, log4j=LOG4J), encoding="ascii")
    done = subprocess.run(
        [
            maven,
            "-q",
            "-B",
            "-f",
            folder / "pom.xml",
            "dependency:copy-dependencies",
            f"-DoutputDirectory={folder}/jars",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise KafkaUnavailable(f"Maven could not fetch Apache Kafka {VERSION}: {done.stdout.strip()[-500:]}")


def _java_command() -> str:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin" if home else None)
    if found is None:
        raise KafkaUnavailable("Java is not installed; Apache Kafka needs 17 or newer")
    return found
