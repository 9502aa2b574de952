"""The compose file of examples/registration: read by compose, and its commands run as processes on real servers."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.reaper import ProcessReaper
from examples.registration import stage
from tests.deploy.test_files import compose, tool
from tests.docs.shell import shell
from tests.plugins.command import environment
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

__all__ = ["shell"]

HERE = stage.HERE
COMPOSE = HERE / "docker-compose.yml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """As compose understands them."""
    done = subprocess.run([*compose(), "--file", COMPOSE, "config"], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = yaml.safe_load(done.stdout)["services"]
    return found


def test_the_compose_file_has_the_services_of_the_example(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "kafka", "install", "relay", "web", "mail", *stage.CONSUMERS}
    for name in stage.CONSUMERS:
        assert services[name]["command"] == ["python", "-m", f"examples.registration.{name}"]
        assert {"DATABASE_URL", "BROKERS"} <= set(services[name]["environment"])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([tool("hadolint"), HERE / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.fixture
def databases(
    services: dict[str, Any],
    own_postgres: Callable[..., PostgresServer],
    postgres_binaries: Path,
    shell: Callable[..., Any],
) -> PostgresServer:
    """The service postgres with its script, and what the service install makes."""
    server = own_postgres(auth="trust")
    assert server.embedded is not None
    where = {"PGHOST": "127.0.0.1", "PGPORT": str(server.embedded.port), "PGUSER": "postgres"}
    path = f"{postgres_binaries}:/usr/bin:/bin"
    done = subprocess.run(
        ["bash", HERE / "databases.sh"],
        env=environment({**where, "PATH": path, "SQL": str(HERE / "sql")}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (install,) = services["install"]["command"]
    assert install.count("@postgres/") == 5
    shell(install.replace("@postgres/", f"@127.0.0.1:{server.embedded.port}/"))
    return server


def test_its_script_and_its_install_service_make_every_database(
    services: dict[str, Any], databases: PostgresServer
) -> None:
    for name in stage.CONSUMERS:
        role = services[name]["environment"]["DATABASE_URL"]
        assert role == f"postgresql://{name}@postgres/{name}"
        assert asked(databases, name, name, "SELECT inbox_claim('x', '1')") == "t"
    assert asked(databases, "rewards", "rewards", "SELECT count(*) FROM accounts") == "0"
    emitted = "SELECT outbox_emit('user', '1', 'UserRegistered', '{}') IS NOT NULL FROM (SELECT count(*) FROM users) u"
    assert asked(databases, "web", "web", emitted) == "t"
    assert asked(databases, "cdc_outbox_relay", "web", "SELECT count(*) FROM outbox") == "1"


def test_the_commands_of_its_services_carry_a_registration_to_every_consumer(
    services: dict[str, Any], databases: PostgresServer, own_kafka: Callable[..., KafkaCluster], tmp_path: Path
) -> None:
    """Each service by its own command and environment, as a process here: host names and ports are the only difference."""
    assert databases.embedded is not None
    kafka = own_kafka(properties=_properties(services["kafka"]["environment"]))
    mail, web = free_port(), free_port()
    here = {
        "@postgres/": f"@127.0.0.1:{databases.embedded.port}/",
        "kafka:9094": kafka.brokers,
        "mail:8025": f"127.0.0.1:{mail}",
        "0.0.0.0:8025": f"127.0.0.1:{mail}",
        "0.0.0.0": "127.0.0.1",
    }
    assert services["web"]["ports"], "the web API is published, on its default port"
    with Processes(tmp_path, here) as processes:
        for name in ("relay", "mail", "web", *stage.CONSUMERS):
            more = ["--port", str(web)] if name == "web" else []
            processes.start(name, [*services[name]["command"], *more], services[name].get("environment", {}))
        eventually(lambda: "Uvicorn running" in processes.said("web"), "the web API listens")
        request = urllib.request.Request(  # what the head of the file says to type
            f"http://127.0.0.1:{web}/users",
            data=b'{"name": "Ada", "email": "ada@users.example"}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 201
        eventually(lambda: "ada@users.example" in processes.said("mail"), "the mail is printed", seconds=40)
        for name, query in (
            ("profiles", "SELECT display_name FROM profiles"),
            ("rewards", "SELECT points FROM accounts"),
        ):
            eventually(lambda name=name: "done" in processes.said(name), f"{name} has taken note")  # type: ignore[misc]
            assert asked(databases, name, name, query) == {"profiles": "Ada", "rewards": "100"}[name]
    topics = kafka.admin.list_topics(timeout=10).topics
    assert len(topics["outbox.event.user"].partitions) == 3, "as KAFKA_NUM_PARTITIONS says"


class Processes(contextlib.ExitStack):
    """Services as processes, ended with the block. `here`: what stands for what in commands and environments."""

    def __init__(self, folder: Path, here: dict[str, str]) -> None:
        super().__init__()
        self._folder = folder
        self._here = here

    def start(self, name: str, command: list[str], variables: dict[str, str]) -> None:
        """The programs of this virtual environment, in the folder that the image's is copied from."""
        program, *arguments = map(self._placed, command)
        log = self.enter_context((self._folder / name).open("wb"))
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name(program)), *arguments],
            env=environment(
                {
                    **{key: self._placed(value) for key, value in variables.items()},
                    "PYTHONWARNINGS": "default",  # of other people's programs
                    "CDC_OUTBOX_HTTP": "off",  # a container has its default port for itself
                }
            ),
            cwd=stage.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        guard = ProcessReaper(process.pid, by=signal.SIGKILL)
        self.callback(guard.release)
        self.callback(process.wait)
        self.callback(process.kill)

    def said(self, name: str) -> str:
        return (self._folder / name).read_text(encoding="utf-8", errors="replace")

    def _placed(self, text: str) -> str:
        """With the places of this machine, in one pass."""
        return re.sub("|".join(map(re.escape, self._here)), lambda match: self._here[match[0]], text)


def _properties(variables: dict[str, str]) -> dict[str, str]:
    """What Kafka's image makes of its environment, without who listens where."""
    where = re.compile("LISTENER|NODE_ID|PROCESS_ROLES|QUORUM")
    names = [name for name in variables if name.startswith("KAFKA_") and not where.search(name)]
    assert len(names) >= 5
    return {name.removeprefix("KAFKA_").lower().replace("_", "."): str(variables[name]) for name in names}


def asked(server: PostgresServer, role: str, database: str, query: str) -> str:
    """What a role gets for a query, as text."""
    import psycopg

    with psycopg.connect(server.dsn_for(user=role, password="", dbname=database)) as connection:
        (value,) = connection.execute(query.encode()).fetchone() or (None,)
    return {True: "t", False: "f"}.get(value, str(value)) if isinstance(value, bool) else str(value)
