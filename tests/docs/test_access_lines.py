"""How to get to the commands: each line of the runbook, run with the settings that a deployment gives the relay."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.test_files import compose
from tests.deploy.test_kubernetes import one
from tests.deploy.test_systemd import UNIT, section
from tests.docs.pages import ROOT
from tests.plugins.command import environment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.plugins.outbox import Outbox

PAGES: Final = ("docs/runbook.md", "docs/troubleshooting.md")

COMMAND: Final = ("cdc-outbox", "status")


def lines(page: str, beginning: str) -> list[list[str]]:
    """The words of each command in a page's text that begins so."""
    text = re.sub(r"\s+", " ", (ROOT / page).read_text(encoding="utf-8"))
    return [shlex.split(found) for found in re.findall(r"`([^`]+)`", text) if found.startswith(beginning)]


def shows_the_status(command: list[str], settings: Mapping[str, str]) -> None:
    """The command, run with nothing but these settings, shows the relay's status."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment(settings), timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("health          ok\nstate           streaming\n")


@pytest.fixture
def streaming(outbox: Outbox) -> tuple[Outbox, str]:
    """An outbox with a relay, and the relay's HTTP address."""
    outbox.create()
    relay = outbox.streaming(http=True)
    return outbox, f"127.0.0.1:{relay.http_port}"


@pytest.mark.parametrize("page", PAGES)
def test_the_service_of_docker_compose_exists_and_the_command_shows_its_status(
    streaming: tuple[Outbox, str], tmp_path: Path, page: str
) -> None:
    outbox, http = streaming
    [words] = lines(page, "docker compose exec")
    *_, service, program, command = words
    assert (program, command) == COMMAND
    config = subprocess.run([*compose(), "config"], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    settings: dict[str, str] = yaml.safe_load(config)["services"][service]["environment"]

    secret = Path(settings["CDC_OUTBOX_DSN_FILE"])
    assert secret.parent == Path("/run/secrets")
    (tmp_path / secret.name).write_text(outbox.database.dsn)
    given = {"CDC_OUTBOX_DSN_FILE": str(tmp_path / secret.name), "CDC_OUTBOX_HTTP": http}
    shows_the_status([sys.executable, "-m", "cdc_outbox", command], {**settings, **given})


@pytest.mark.parametrize("page", PAGES)
def test_kubectl_reaches_the_deployment_whose_container_has_the_settings(page: str) -> None:
    [words] = lines(page, "kubectl exec")
    deployment: dict[str, Any] = one("base", "Deployment")
    [container] = deployment["spec"]["template"]["spec"]["containers"]

    assert words == ["kubectl", "exec", f"deploy/{deployment['metadata']['name']}", "--", *COMMAND]
    assert "CDC_OUTBOX_DSN_FILE" in {each["name"] for each in container["env"]}
    [forward] = lines(PAGES[0], "kubectl port-forward")
    assert forward[-2:] == [words[2], str(container["ports"][0]["containerPort"])]


def test_beside_systemd_the_command_reads_the_files_of_the_unit_and_shows_its_status(
    streaming: tuple[Outbox, str], tmp_path: Path
) -> None:
    outbox, http = streaming
    [[shell, flag, script]] = lines(PAGES[0], "sh -c")
    [settings], [credential] = section("Service")["EnvironmentFile"], section("Service")["LoadCredential"]
    secret = credential.removeprefix("dsn:")
    [program] = [each.split()[0] for each in section("Service")["ExecStart"]]
    for name in (settings, secret, program):
        assert script.count(name) == 1

    (tmp_path / "environment").write_text(f"CDC_OUTBOX_BROKERS={outbox.kafka.brokers}\nCDC_OUTBOX_HTTP={http}\n")
    (tmp_path / "dsn").write_text(outbox.database.dsn)
    here = script.replace(settings, f"{tmp_path}/environment").replace(secret, f"{tmp_path}/dsn")
    shows_the_status([shell, flag, here.replace(program, f"{sys.executable} -m cdc_outbox")], {})


def test_systemctl_and_journalctl_name_the_unit() -> None:
    assert lines(PAGES[0], "systemctl status cdc") == [["systemctl", "status", UNIT.stem]]
    assert lines(PAGES[0], "journalctl") == [["journalctl", "-u", UNIT.stem, "-n", "50"]]
