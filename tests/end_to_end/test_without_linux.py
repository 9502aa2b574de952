"""`emit`, `tail` and `demo` without the calls and files that only Linux has, as on a developer's macOS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install
from tests.plugins.command import run_command

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

WITHOUT_LINUX: Final = """
import io, os, select, signal, socket, sys, sysconfig, types

sysconfig.get_config_vars()  # reads a file that is named for the real platform
ABSENT = {
    os: ("pipe2", "memfd_create", "eventfd", "sched_getaffinity", "splice", "pidfd_open", "posix_fadvise"),
    select: ("epoll",),
    signal: ("SIGRTMIN", "SIGRTMAX", "SIGPWR", "SIGSTKFLT", "sigtimedwait"),
    socket: ("SOCK_CLOEXEC", "SOCK_NONBLOCK", "TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "TCP_INFO", "MSG_NOSIGNAL", "AF_NETLINK"),
}
for module, names in ABSENT.items():
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

_open = io.open

def open_without_proc(file, *arguments, **options):
    if str(file).startswith(("/proc", "/sys")):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return _open(file, *arguments, **options)

io.open = open_without_proc
sys.platform = "darwin"
sys.modules["_scproxy"] = types.SimpleNamespace(_get_proxies=dict, _get_proxy_settings=dict)  # macOS' own, for urllib
sys.modules["setproctitle"] = None
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """Environment in which each Python, those that a command starts too, lacks them."""
    (tmp_path / "sitecustomize.py").write_text(WITHOUT_LINUX)
    return {"PYTHONPATH": str(tmp_path)}


def test_the_absence_is_there(env: dict[str, str]) -> None:
    import subprocess
    import sys

    code = (
        "import pathlib, os, sys; print(sys.platform, hasattr(os, 'pipe2')); pathlib.Path('/proc/1/stat').read_text()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["darwin", "False"]
    assert "FileNotFoundError" in done.stderr


def test_an_event_is_emitted_and_read(database: Database, env: dict[str, str]) -> None:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    event = ("--aggregate-type", "order", "--aggregate-id", "1", "--type", "Placed", "--payload", "{}")

    emitted = run_command("emit", *event, dsn=database.dsn, env=env)
    read = run_command("tail", "--limit", "1", dsn=database.dsn, env=env)

    assert emitted.returncode == 0, emitted.stderr
    assert read.returncode == 0, read.stderr
    assert emitted.stdout.strip() in read.stdout


@pytest.mark.nightly
def test_the_demo_runs_and_its_verdict_is_good(env: dict[str, str]) -> None:
    done = run_command("demo", "--seconds", "4", env=env, timeout=120)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "VERDICT: GOOD" in done.stdout
    assert done.stderr == ""
