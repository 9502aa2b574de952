"""The unit: what systemd says of it, and that the relay can live within its walls."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.errors import AccessRefused, ConfigurationError, PoisonEvent
from tests.plugins.absence import absent
from tests.plugins.command import environment

if TYPE_CHECKING:
    from tests.plugins.outbox import Outbox

UNIT: Final = Path(__file__).parents[2] / "deploy" / "systemd" / "cdc-outbox.service"

MOST_EXPOSED: Final = 15
"""Tenths, of 100 for a service without any walls."""

PR_SET_MDWE: Final = 65
PR_MDWE_REFUSE_EXEC_GAIN: Final = 1
"""prctl(2), Linux 6.3: what MemoryDenyWriteExecute= asks of the kernel."""


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze") or absent("systemd-analyze is missing (apt-get install systemd)")
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The unit, with a program that is there on this machine."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/cdc-outbox/bin/cdc-outbox", shutil.which("true") or ""))
    return unit


def section(name: str) -> dict[str, list[str]]:
    """Each setting of a section with all the values that it is given."""
    found: dict[str, list[str]] = {}
    text = re.split(rf"^\[{name}\]$", UNIT.read_text(), flags=re.MULTILINE)[1].split("\n[")[0]
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def test_systemd_finds_nothing_wrong(here: Path) -> None:
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(here))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_a_setting_that_systemd_does_not_know_would_be_found(here: Path) -> None:
    here.write_text(here.read_text().replace("WatchdogSec=", "WatchdogSeconds="))
    assert "WatchdogSeconds" in analyze("verify", "--man=no", "--recursive-errors=no", str(here)).stderr


def test_the_service_is_as_confined_as_systemd_measures(here: Path) -> None:
    done = analyze("security", "--no-pager", "--offline=true", f"--threshold={MOST_EXPOSED}", str(here))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_restart_does_not_help_is_not_restarted() -> None:
    (codes,) = section("Service")["RestartPreventExitStatus"]
    ours = {2, PoisonEvent.exit_code, AccessRefused.exit_code, ConfigurationError.exit_code}
    assert {int(code) for code in codes.split()} == ours


def test_systemd_waits_longer_for_the_end_than_the_relay_takes() -> None:
    (seconds,) = section("Service")["TimeoutStopSec"]
    default = OPTIONS["shutdown-timeout"].default
    assert default is not None
    assert int(seconds.removesuffix("s")) > int(default.removesuffix("s"))


def test_system_calls_of_a_relay_from_start_to_end_are_all_allowed(outbox: Outbox, tmp_path: Path) -> None:
    strace = shutil.which("strace") or absent("strace is missing (apt-get install strace)")
    outbox.create()
    outbox.add()
    trace = tmp_path / "calls"
    others = ",".join(
        f"?{name}" for name in sorted(allowed() - {"execve"})
    )  # the kernel itself lets the allowed ones pass
    traced = [strace, "-f", "-qq", "--seccomp-bpf", "-o", trace, "-e", f"trace=!{others}", "-e", "signal=none"]
    arguments = ["run", "--until", "caught-up", "--http", "127.0.0.1:0", "--topic", outbox.prefix + "{aggregatetype}"]
    done = subprocess.run(
        [*traced, sys.executable, "-m", "cdc_outbox", *arguments],
        env=environment({"CDC_OUTBOX_DSN": outbox.database.dsn, "CDC_OUTBOX_BROKERS": outbox.kafka.brokers}),
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "ptrace" in done.stderr:
        absent("processes may not be traced here")
    assert done.returncode == 0, done.stderr
    made = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)[( ]", trace.read_text(errors="replace"), re.MULTILINE))
    assert "execve" in made, "nothing was traced"
    assert sorted(made - {"execve"}) == []


def allowed() -> set[str]:
    """System calls by the unit's filter: a first line that allows, a second that takes away."""
    give, take = section("Service")["SystemCallFilter"]
    assert take.startswith("~")
    return calls(give) - set().union(*(calls(group) for group in take.removeprefix("~").split()))


def calls(group: str) -> set[str]:
    """A group's system calls, those of the groups in it included. `exit_group` and the like are always allowed."""
    lines = [line.strip() for line in analyze("syscall-filter", group).stdout.splitlines()[1:]]
    names = {line for line in lines if re.fullmatch(r"@?[a-z_0-9-]+", line)}
    groups = {name for name in names if name.startswith("@")}
    return (names - groups).union(*(calls(inner) for inner in groups))


def test_the_relay_lives_without_memory_that_is_both_written_and_run() -> None:
    program = (
        "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True)\n"
        f"sys.exit(99) if libc.prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) else None\n"
        "os.execv(sys.executable, [sys.executable, '-c', 'import cdc_outbox.cli.run, cdc_outbox.service, confluent_kafka'])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    if done.returncode == 99:
        pytest.skip("this kernel is older than 6.3")
    assert done.returncode == 0, done.stderr
