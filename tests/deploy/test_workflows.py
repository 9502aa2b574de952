"""What runs elsewhere: the workflows, read by the tools that know the rules, and held against the Makefile."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.plugins.absence import absent

ROOT: Final = Path(__file__).parents[2]
WORKFLOWS: Final = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE: Final = (ROOT / "Makefile").read_text()

Workflow = dict[str, Any]


def read(path: Path) -> Workflow:
    found: Workflow = yaml.safe_load(path.read_text())
    return found


def steps(workflow: Workflow) -> list[Workflow]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    beside = Path(sys.executable).with_name(name)
    program = str(beside) if beside.exists() else shutil.which(name) or absent(f"{name} is missing (.ci/install)")
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, cwd=ROOT)


def test_actionlint_finds_nothing() -> None:
    done = run("actionlint", *map(str, WORKFLOWS))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_zizmor_finds_nothing() -> None:
    done = run("zizmor", "--offline", "--no-progress", "--quiet", ".github")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_and_has_the_version_as_comment(path: Path) -> None:
    used = re.findall(r"uses: (.+)", path.read_text())
    foreign = [use for use in used if not use.startswith("./")]
    assert len(foreign) >= 2
    assert [use for use in foreign if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


def test_an_action_has_one_version_everywhere() -> None:
    used = {use for path in WORKFLOWS for use in re.findall(r"uses: (\S+)@(\S+)", path.read_text())}
    assert len({name for name, _ in used}) == len(used)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_the_make_targets_of_a_workflow_exist(path: Path) -> None:
    calls = re.findall(r"\bmake ([a-z -]+)", "\n".join(str(step.get("run", "")) for step in steps(read(path))))
    named = {target for call in calls for target in call.split()}
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):.*##", MAKEFILE, re.MULTILINE))


def test_the_nightly_tests_run_each_night_and_before_a_release() -> None:
    nightly, release = (read(ROOT / ".github" / "workflows" / f"{name}.yml") for name in ("nightly", "release"))
    triggers = nightly[True]  # YAML 1.1 reads the key `on` as true
    assert {"schedule", "workflow_call"} <= set(triggers)
    assert "make native test-nightly test-native" in [step.get("run") for step in steps(nightly)]
    assert release["jobs"]["nightly"]["uses"] == "./.github/workflows/nightly.yml"
    assert "nightly" in release["jobs"]["build"]["needs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_job_has_a_right_that_it_does_not_name(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {}
    assert all("permissions" in job for job in workflow["jobs"].values())


def test_each_python_and_each_postgresql_is_tested_and_so_are_the_corners() -> None:
    pairs = [
        (each["python"], each["postgres"])
        for each in read(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    ]
    pythons = sorted({python for python, _ in pairs}, key=lambda version: int(version.split(".")[1]))
    servers = sorted({server for _, server in pairs}, key=int)
    assert len(pairs) == len(set(pairs))
    assert pythons == ["3.11", "3.12", "3.13", "3.14"]
    assert servers == ["14", "15", "16", "17", "18"]
    assert set(itertools.product((pythons[0], pythons[-1]), (servers[0], servers[-1]))) <= set(pairs)
    oldest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert oldest == f">={pythons[0]}"


def test_the_tools_of_the_hooks_are_those_of_the_virtual_environment() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = [hook["entry"].split() for hook in hooks]
    assert all(entry[0].startswith(".venv/bin/") for entry in entries)
    assert [entry[0] for entry in entries if not Path(sys.executable).with_name(Path(entry[0]).name).exists()] == []
    assert [word for entry in entries for word in entry if word.endswith(".py") and not (ROOT / word).exists()] == []


def test_dependabot_looks_after_what_is_pinned() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    assert {"pip", "github-actions", "docker"} <= {update["package-ecosystem"] for update in updates}
    assert all((ROOT / update["directory"].lstrip("/")).is_dir() for update in updates)
