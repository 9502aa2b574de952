"""The compose file of examples/registration: read by compose, and what it types run by a shell on a real server."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from examples.registration import stage
from tests.deploy.test_files import compose, tool
from tests.docs.shell import shell
from tests.plugins.command import environment

if TYPE_CHECKING:
    from collections.abc import Callable

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


def test_it_has_the_services_of_the_example(services: dict[str, Any]) -> None:
    assert set(services) == {"postgres", "kafka", "install", "relay", "web", "mail", *stage.CONSUMERS}
    for name in stage.CONSUMERS:
        assert services[name]["command"] == ["python", "-m", f"examples.registration.{name}"]
        assert {"DATABASE_URL", "BROKERS"} <= set(services[name]["environment"])


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([tool("hadolint"), HERE / "Dockerfile"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_its_script_and_its_install_service_make_every_database(
    services: dict[str, Any],
    own_postgres: Callable[..., PostgresServer],
    postgres_binaries: Path,
    shell: Callable[..., Any],
) -> None:
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

    for name in stage.CONSUMERS:
        role = services[name]["environment"]["DATABASE_URL"]
        assert role == f"postgresql://{name}@postgres/{name}"
        assert asked(server, name, name, "SELECT inbox_claim('x', '1')") == "t"
    assert asked(server, "rewards", "rewards", "SELECT count(*) FROM accounts") == "0"
    emitted = "SELECT outbox_emit('user', '1', 'UserRegistered', '{}') IS NOT NULL FROM (SELECT count(*) FROM users) u"
    assert asked(server, "web", "web", emitted) == "t"
    assert asked(server, "cdc_outbox_relay", "web", "SELECT count(*) FROM outbox") == "1"


def asked(server: PostgresServer, role: str, database: str, query: str) -> str:
    """What a role gets for a query, as text."""
    import psycopg

    with psycopg.connect(server.dsn_for(user=role, password="", dbname=database)) as connection:
        (value,) = connection.execute(query.encode()).fetchone() or (None,)
    return {True: "t", False: "f"}.get(value, str(value)) if isinstance(value, bool) else str(value)
