"""The contenders: cdc-outbox, Debezium, a polling worker. How each is started, and its name.

In: where the servers are, a slot, a topic. Out: a command with its environment. Secrets go by environment or a file of ours.
Never: a setting that the others do not get: acks=all and idempotence for each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import unquote, urlsplit

from benchmarks.child import Child
from benchmarks.installed import cache_folder, install_native, program
from cdc_outbox.demo.ports import free_port

DEBEZIUM: Final = Path(__file__).parent / "debezium"

JAVA: Final = 17
"""Debezium's engine needs this version at least."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a contender reads and writes."""

    dsn: str
    brokers: str
    slot: str
    prefix: str
    """Topics are `<prefix>.<aggregatetype>`."""
    folder: Path
    """For files that it needs; removed at the end."""
    table: str = "public.outbox"


Run = Callable[[str], object]
"""Runs one SQL statement."""


class Contender(Protocol):
    """Something that carries rows from the outbox to Kafka."""

    @property
    def name(self) -> str:
        """As the table and the chart call it."""

    @property
    def polls(self) -> bool:
        """Whether it reads the table instead of a slot."""

    def missing(self) -> str | None:
        """Why it cannot run here; None when it can."""

    def prepare(self, run: Run, table: str) -> None:
        """Give the table what this contender needs besides the rows."""

    def start(self, place: Place, *, snapshot: bool = False) -> Child:
        """Start it; `snapshot`: there is no slot, and rows are in the table already."""


@dataclass(frozen=True, slots=True)
class Relay:
    """cdc-outbox as a user installs and starts it, metrics and all."""

    name: str = "cdc-outbox"
    polls: bool = False
    options: tuple[str, ...] = ()
    another: str | None = None
    """The environment variable that names the program of another version."""

    @property
    def program(self) -> Path:
        """The command that is started."""
        return program() if self.another is None else Path(os.environ[self.another])

    def missing(self) -> str | None:
        """The output of pip when it cannot be installed."""
        if self.another is not None:
            return None if self.another in os.environ else f"{self.another} does not name a program"
        try:
            program()
            if "on" in self.options:
                install_native()
        except subprocess.CalledProcessError as error:
            return f"pip cannot install it: {error.stderr.strip()[-300:]}"
        return None

    def prepare(self, run: Run, table: str) -> None:
        """Nothing."""

    def start(self, place: Place, *, snapshot: bool = False) -> Child:
        """Start it. A missing slot is a first start by itself."""
        arguments = [
            *(str(self.program), "run", "--brokers", place.brokers, "--slot", place.slot),
            *("--topic", f"{place.prefix}.{{aggregatetype}}", "--http", f"127.0.0.1:{free_port()}"),
            *("--log-format", "json", *(() if snapshot else ("--no-create-slot",)), *self.options),
        ]
        return Child(arguments, {"CDC_OUTBOX_DSN": place.dsn})


@dataclass(frozen=True, slots=True)
class PollingWorker:
    """A loop of SELECT … FOR UPDATE SKIP LOCKED, produce, flush, and DELETE or UPDATE."""

    finish: str = "delete"
    second_index: bool = False
    """Whether the table has an index of the application's besides the primary key, as most have."""
    polls: bool = True

    @property
    def name(self) -> str:
        """With what it does to a row that is sent."""
        return f"polling, {self.finish.upper()}{', 2 indexes' if self.second_index else ''}"

    def missing(self) -> str | None:
        """Nothing can be missing."""
        return None

    def prepare(self, run: Run, table: str) -> None:
        """A column for UPDATE with its index; the application's index."""
        if self.finish == "update":
            run(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS sent_at timestamptz")
            run(f"CREATE INDEX ON {table} (seq) WHERE sent_at IS NULL")
        if self.second_index:
            run(f"CREATE INDEX ON {table} (aggregatetype, aggregateid, created_at)")

    def start(self, place: Place, *, snapshot: bool = False) -> Child:
        """Start it. It knows no difference between old rows and new ones."""
        del snapshot
        arguments = [
            *(sys.executable, "-m", "benchmarks.polling_worker", "--brokers", place.brokers),
            *("--prefix", place.prefix, "--table", place.table, "--finish", self.finish),
        ]
        return Child(arguments, {"BENCH_DSN": place.dsn})


_TUNED: Final = {
    "max.batch.size": "16384",
    "max.queue.size": "65536",
    "poll.interval.ms": "5",
    "offset.flush.interval.ms": "1000",
    "producer.linger.ms": "2",
    "producer.batch.size": "262144",
    "producer.buffer.memory": "67108864",
}
"""What its users raise to have it faster: larger batches from the queue and to Kafka, and a short pause between them."""


@dataclass(frozen=True, slots=True)
class Debezium:
    """Debezium's engine with its outbox event router; as it comes, or tuned."""

    tuned: bool = False
    polls: bool = False
    _built: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """With how it is set."""
        return "Debezium, tuned" if self.tuned else "Debezium"

    def missing(self) -> str | None:
        """Java or Maven, or the output of Maven."""
        for command in ("java", "mvn"):
            if shutil.which(command) is None:
                return f"{command} is not installed"
        try:
            self._built.append(build_debezium())
        except subprocess.CalledProcessError as error:
            return f"Maven cannot build it: {error.stdout.strip()[-300:]}"
        return None

    def prepare(self, run: Run, table: str) -> None:
        """Nothing."""

    def start(self, place: Place, *, snapshot: bool = False) -> Child:
        """Start it."""
        settings = place.folder / f"{place.slot}.properties"
        settings.touch(mode=0o600)  # it holds a password
        values = {**self._settings(place, snapshot=snapshot), **(_TUNED if self.tuned else {})}
        settings.write_text("".join(f"{name}={value}\n" for name, value in values.items()), encoding="utf-8")
        heap = ("-Xms1g", "-Xmx2g") if self.tuned else ()
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        return Child(["java", *heap, quiet, "-cp", f"{self._built[-1]}/*", "outbox.Engine", str(settings)])

    def _settings(self, place: Place, *, snapshot: bool) -> dict[str, str]:
        server = urlsplit(place.dsn)
        return {
            "name": "outbox",
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
            "offset.storage.file.filename": str(place.folder / f"{place.slot}.offsets"),
            "database.hostname": server.hostname or "",
            "database.port": str(server.port),
            "database.user": unquote(server.username or ""),
            "database.password": unquote(server.password or ""),
            "database.dbname": server.path.strip("/"),
            "topic.prefix": "bench",
            "plugin.name": "pgoutput",
            "slot.name": place.slot,
            "publication.name": "cdc_outbox",
            "publication.autocreate.mode": "disabled",
            "table.include.list": place.table,
            "snapshot.mode": "initial" if snapshot else "no_data",
            "tombstones.on.delete": "false",
            "transforms": "outbox",
            "transforms.outbox.type": "io.debezium.transforms.outbox.EventRouter",
            "transforms.outbox.route.topic.replacement": f"{place.prefix}.${{routedByValue}}",
            "transforms.outbox.table.fields.additional.placement": "type:header:type",
            "producer.bootstrap.servers": place.brokers,
            "producer.acks": "all",
            "producer.enable.idempotence": "true",
        }


def build_debezium() -> Path:
    """The folder with Debezium's jars and our program, made by Maven the first time. Raises CalledProcessError."""
    cache = cache_folder()
    sources = [DEBEZIUM / "pom.xml", *sorted(DEBEZIUM.rglob("*.java"))]
    home = cache / "debezium"
    jars = home / "jars"
    newest = max(source.stat().st_mtime for source in sources)
    if not (jars / "debezium-outbox-1.jar").exists() or (jars / "debezium-outbox-1.jar").stat().st_mtime < newest:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as draft:
            shutil.copytree(DEBEZIUM, Path(draft) / "build", dirs_exist_ok=True)
            build = Path(draft) / "build"
            subprocess.run(
                ["mvn", "-q", "-B", "-f", build / "pom.xml", "package", "dependency:copy-dependencies",
                 f"-DoutputDirectory={build / 'jars'}"],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            shutil.copy(build / "target" / "debezium-outbox-1.jar", build / "jars")
            shutil.rmtree(home, ignore_errors=True)
            build.rename(home)
    return jars


CONTENDERS: Final[dict[str, Contender]] = {
    "relay": Relay(options=("--native", "off")),
    "native": Relay("cdc-outbox, native", options=("--native", "on")),
    "before": Relay("cdc-outbox, before", another="BENCH_BEFORE"),
    "polling-delete": PollingWorker("delete"),
    "polling-indexed": PollingWorker("delete", second_index=True),
    "polling-update": PollingWorker("update"),
    "debezium": Debezium(),
    "debezium-tuned": Debezium(tuned=True),
}
"""By the word for it on the command line."""
