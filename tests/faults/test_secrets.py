"""Passwords: read from files, read again when they have changed, and found nowhere in what a relay shows or says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import HTTPError
from urllib.parse import quote

import pytest
from psycopg.conninfo import make_conninfo

from tests.faults.acts import terminate_walsender
from tests.plugins.outbox import ended, ids
from tests.servers.secure_kafka import SCRAM_PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox
    from tests.servers.secure_kafka import SecureKafka

ROLE: Final = "rotating"
FIRST: Final = "tulip 66% äö'\"\\"
"""A password with everything that has to be quoted somewhere."""

SECOND: Final = "crocus-17-second"


@pytest.fixture
def role(secured: Outbox) -> str:
    """A role that may stream and read the table."""
    quoted = FIRST.replace("'", "''")
    secured.database.execute(f"CREATE ROLE {ROLE} LOGIN REPLICATION PASSWORD E'{quoted.replace(chr(92), chr(92) * 2)}'")
    secured.database.execute(f"GRANT SELECT ON outbox TO {ROLE}")
    return ROLE


def dsn(outbox: Outbox, password: str) -> str:
    return make_conninfo(outbox.database.dsn, user=ROLE, password=password)


def sasl(broker: SecureKafka) -> list[str]:
    properties = {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": broker.ca_path,
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": USER,
    }
    return [flag for name, value in properties.items() for flag in ("-X", f"{name}={value}")]


def spellings(secret: str) -> set[str]:
    """As it is, as a URL has it, as conninfo and JSON quote it."""
    return {
        secret,
        quote(secret, safe=""),
        secret.replace("\\", "\\\\").replace("'", "\\'"),
        secret.replace('"', '\\"'),
    }


def assert_nowhere(secrets: set[str], places: Mapping[str, str]) -> None:
    found = [place for place, text in places.items() for each in secrets for word in spellings(each) if word in text]
    assert not found, f"a password is in {found}"
    assert all(text for place, text in places.items() if place != "stdout"), "a place without any text proves nothing"


def test_passwords_of_files_are_found_nowhere(
    secured: Outbox, secure_kafka_server: SecureKafka, role: str, tmp_path: Path
) -> None:
    """Not in argv, logs of the finest level, librdkafka's own debug output, metrics, status, nor `config show`."""
    secure_kafka_server.grant(secured.kafka.create_topic(f"{secured.prefix}order"))
    secured.create_slot()
    files = {"CDC_OUTBOX_DSN_FILE": dsn(secured, FIRST), "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": SCRAM_PASSWORD}
    env = {}
    for variable, content in files.items():
        path = tmp_path / variable.lower()
        path.write_text(content + "\n", encoding="utf-8")
        env[variable] = str(path)
    flags = [*sasl(secure_kafka_server), "-X", "debug=security,conf,broker", "--log-level", "debug"]
    relay = secured.relay(
        *flags, database=None, brokers=secure_kafka_server.address("SCRAM"), env=env, http=True, executed=True
    )
    relay.wait_for_log("streaming")
    secured.add()
    secured.records(1)
    terminate_walsender(secured.database)
    relay.wait_for_log("streaming", nth=2)
    relay.send_signal(signal.SIGUSR1)
    relay.wait_for_log("summary")
    shown = {path: get(relay, path) for path in ("/metrics", "/status", "/livez", "/readyz?verbose", "/")}
    argv = Path(f"/proc/{relay.pid}/cmdline").read_text(encoding="utf-8")
    relay.terminate()
    assert relay.wait() == 0
    configured = subprocess.run(
        [sys.executable, "-m", "cdc_outbox", "config", "show", "--brokers", "b:1", *sasl(secure_kafka_server)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "***" in configured
    assert "[redacted]" in relay.stderr_text, "librdkafka was to show its configuration"
    said = {"stderr": relay.stderr_text, "stdout": relay.stdout_text, "argv": argv, "config show": configured}
    assert_nowhere({FIRST, SCRAM_PASSWORD}, {**shown, **said})


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ("host=127.0.0.1 password={} nonsense=1", 78),
        ("host=127.0.0.1 port=x password={}", 78),
        ("postgresql://relay:{}@127.0.0.1:99999999/shop", 78),
        ("host=127.0.0.1 port=1 password={}", 69),
        ("password={} host='unfinished", 78),
        ("{}", 78),
    ],
)
def test_a_connection_string_that_does_not_work_is_not_repeated(
    secured: Outbox, tmp_path: Path, content: str, code: int
) -> None:
    secret = "hyacinth-90-secret"
    path = tmp_path / "dsn"
    path.write_text(content.format(secret), encoding="utf-8")
    relay = secured.relay("--startup-timeout", "1", database=None, env={"CDC_OUTBOX_DSN_FILE": str(path)})
    ended(relay, code)
    assert_nowhere({secret}, {"stderr": relay.stderr_text, "stdout": relay.stdout_text})


def test_a_password_that_changes_under_a_running_relay_is_read_again(
    secured: Outbox, role: str, tmp_path: Path
) -> None:
    secured.create_slot()
    path = tmp_path / "dsn"
    path.write_text(dsn(secured, FIRST), encoding="utf-8")
    relay = secured.relay(database=None, env={"CDC_OUTBOX_DSN_FILE": str(path)})
    relay.wait_for_log("streaming")
    secured.database.execute(f"ALTER ROLE {role} PASSWORD '{SECOND}'")
    terminate_walsender(secured.database)
    sent = secured.add()
    assert "password authentication failed" in relay.wait_for_log("waiting")["error"]
    path.write_text(dsn(secured, SECOND), encoding="utf-8")
    relay.wait_for_log("streaming", nth=2)
    assert ids(secured.records(1)) == [sent]
    relay.terminate()
    assert relay.wait() == 0
    assert_nowhere({FIRST, SECOND}, {"stderr": relay.stderr_text, "stdout": relay.stdout_text})


def get(relay: Relay, path: str) -> str:
    try:
        with urllib.request.urlopen(relay.http_url + path, timeout=10) as response:
            return str(response.read().decode())
    except HTTPError as error:
        return str(error.read().decode()) or str(error)
