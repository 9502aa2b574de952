"""What a container builder and compose are given, read by the tools that know the rules."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.absence import absent

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = ROOT / "deploy" / "compose" / "secrets"


def tool(name: str) -> str:
    """The tool of this virtual environment, or the machine's."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else shutil.which(name) or absent(f"{name} is missing")


def compose() -> list[str]:
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode == 0:
        return [docker, "compose"]
    return [shutil.which("docker-compose") or absent("docker compose is missing (apt-get install docker-compose)")]


@pytest.fixture(scope="module")
def resolved() -> str:
    """The compose file as compose understands it."""
    done = subprocess.run(
        [*compose(), "--file", COMPOSE, "--profile", "observability", "config"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    command = [tool("hadolint"), ROOT / "deploy" / "Dockerfile"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_compose_accepts_its_file_with_every_service(resolved: str) -> None:
    section = COMPOSE.read_text().split("\nservices:")[1].split("\nsecrets:")[0]
    services = set(re.findall(r"^  (\w+):$", section, re.MULTILINE))
    assert services == {"postgres", "kafka", "install", "relay", "writer", "consumer", "prometheus", "grafana"}
    assert services <= set(re.findall(r"^  (\w+):$", resolved, re.MULTILINE))


def test_every_file_that_compose_mounts_is_there() -> None:
    mounted = re.findall(r"\./(deploy/[\w./-]+)", COMPOSE.read_text())
    assert len(mounted) >= 7
    assert [path for path in mounted if not (ROOT / path).is_file()] == []


def test_no_password_stands_in_the_compose_file_or_what_it_resolves_to(resolved: str) -> None:
    passwords = [path.read_text().split("password=")[-1].strip() for path in SECRETS.iterdir()]
    assert len(passwords) == 4
    assert all(len(password) > 8 for password in passwords)
    assert [each for each in passwords if each in resolved or each in COMPOSE.read_text()] == []


def test_administrator_has_one_password_in_both_of_its_files() -> None:
    dsn = (SECRETS / "install-dsn").read_text()
    assert f"password={(SECRETS / 'postgres-password').read_text()}" in dsn
