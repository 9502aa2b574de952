"""A crash leaves no copy of the memory, which has the DSN in it, unless asked for."""

from __future__ import annotations

import resource
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay

PATTERN = Path("/proc/sys/kernel/core_pattern")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's file is Linux's")
@pytest.mark.parametrize(("arguments", "left"), [([], False), (["--core-dump"], True)])
def test_a_crash_leaves_a_core_dump_only_where_it_is_asked_for(
    relay: Callable[..., Relay], tmp_path: Path, arguments: list[str], left: bool
) -> None:
    if PATTERN.read_text().strip() != "core":
        pytest.skip("this machine's core dumps go elsewhere")
    running = relay(*arguments, dsn="host=127.0.0.1 port=1 password=tulip-in-the-core", brokers="127.0.0.1:1")
    running.wait_for_log("waiting")
    resource.prlimit(running.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    running.send_signal(signal.SIGABRT)

    assert running.wait() == -signal.SIGABRT
    cores = [path for path in tmp_path.iterdir() if path.name.startswith("core")]
    assert bool(cores) is left
    for core in cores:
        assert b"tulip-in-the-core" in core.read_bytes()
        core.unlink()
