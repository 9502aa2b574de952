"""docs/how-to/secure.md and harden.md, done as they say, on a PostgreSQL and an Apache Kafka that insist on it."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.pages import read
from tests.plugins.command import environment, run_command
from tests.plugins.outbox import ids
from tests.plugins.waiting import eventually
from tests.servers.certificates import ELSEWHERE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database
    from tests.servers.certificates import Authority
    from tests.servers.secure_kafka import SecureKafka
    from tests.servers.secure_postgres import SecurePostgres

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PAGE: Final = "docs/how-to/secure.md"
BLOCKS: Final = {each.first_line: each.text for each in read(PAGE).blocks}

DSN: Final = BLOCKS["host=db.example.internal"]
PROPERTIES: Final = BLOCKS["security.protocol=SASL_SSL"]
RUN: Final = BLOCKS["export CDC_OUTBOX_DSN_FILE=/etc/cdc-outbox/dsn"]
ROLE: Final = BLOCKS['cdc-outbox sql roles | psql -v ON_ERROR_STOP=1 "$ADMIN_DSN"']
BY_PASSWORD: Final = BLOCKS["hostssl  shop  cdc_outbox_relay  10.1.2.0/24  scram-sha-256"]
BY_CERTIFICATE: Final = BLOCKS["hostssl  shop  cdc_outbox_relay  10.1.2.0/24  cert"]
HARDEN: Final = {each.first_line: each.text for each in read("docs/how-to/harden.md").blocks}
AS_OWNER: Final = next(text for line, text in HARDEN.items() if "role=shop_owner" in line)
NO_CREATE: Final = next(text for line, text in HARDEN.items() if "REVOKE CREATE" in line)
ENCRYPTED: Final = next(text for line, text in BLOCKS.items() if line.startswith("SELECT application_name, ssl"))
KAFKA: Final = next(text for line, text in BLOCKS.items() if line.startswith("kafka-configs.sh"))
VERIFY: Final = next(text for line, text in BLOCKS.items() if line.startswith("openssl s_client"))

PASSWORD: Final = "lupine-12-postgres"
SASL_PASSWORD: Final = "lupine-34-kafka"

TOOLS: Final = {
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-acls.sh": "org.apache.kafka.tools.AclCommand",
}
"""Kafka's scripts of these names do nothing but start Java with this class."""


class Site:
    """Where the page is followed: its paths are below `folder`, its hosts are here."""

    def __init__(
        self, database: Database, postgres: SecurePostgres, kafka: SecureKafka, shell: Shell, folder: Path
    ) -> None:
        self.database = database
        self.postgres = postgres
        self.kafka = kafka
        self.folder = folder
        self._shell = shell

    def here(self, text: str) -> str:
        """The page's text with the names of this site."""
        names = {
            "/etc/cdc-outbox": str(self.folder),
            "host=db.example.internal": f"host=localhost\nport={self.postgres.port}",
            "db.example.internal:5432": f"localhost:{self.postgres.port}",
            "kafka.example.internal:9093": self.kafka.address("SCRAM").replace("127.0.0.1", "localhost"),
            ".example.internal": "",  # what is left: names for -verify_hostname
            "10.1.2.0/24": "127.0.0.1/32",
            "dbname=shop": f"dbname={self.database.name}",
            "  shop  ": f"  {self.database.name}  ",
        }
        for theirs, ours in names.items():
            text = text.replace(theirs, ours)
        return re.sub(r"-verify_hostname (db|kafka)\b", "-verify_hostname localhost", text)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(self.here(text), encoding="utf-8")
        return path

    def type(self, text: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._shell(
            self.here(text), ADMIN_DSN=self.database.dsn, BROKER=self.kafka.internal_brokers, **variables
        )

    def type_with_password(self, text: str, password: str) -> None:
        """psql asks the terminal for a password twice, and where there is none, stdin."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            input=f"{password}\n{password}\n",
            env=environment({"ADMIN_DSN": self.database.dsn}),
            text=True,
            capture_output=True,
            check=False,
            start_new_session=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.fixture
def site(
    secure_database: Database,
    secure_postgres: SecurePostgres,
    secure_kafka_server: SecureKafka,
    authority: Authority,
    shell: Shell,
    roots_of_nobody: None,
    tmp_path: Path,
) -> Site:
    authority.write(tmp_path / "ca.pem")
    return Site(secure_database, secure_postgres, secure_kafka_server, shell, tmp_path)


@pytest.fixture
def kafkas_scripts(secure_kafka_server: SecureKafka, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A PATH on which Kafka's own scripts are."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    for name, main in TOOLS.items():
        (folder / name).write_text(f'#!/bin/sh\nexec java -Xmx128m -cp "{secure_kafka_server.jars}/*" {main} "$@"\n')
        (folder / name).chmod(0o755)
    return str(folder)


@pytest.mark.nightly
def test_the_page_in_order_ends_with_records_over_tls_of_a_relay_that_logs_in(
    site: Site, authority: Authority, kafkas_scripts: str, secure_kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    site.type("cdc-outbox sql install --apply", CDC_OUTBOX_DSN=site.database.dsn)
    make_roles, set_password = ROLE.strip().splitlines()
    site.type(make_roles)
    site.type_with_password(set_password, PASSWORD)
    site.postgres.show(authority.issue(), clients=authority, admit=site.here(BY_PASSWORD))
    site.type(f'export PATH="$PATH:{kafkas_scripts}"\n{KAFKA.replace("…", SASL_PASSWORD)}')
    stricter = "channel_binding=require\nrequire_auth=scram-sha-256\n"
    site.write("dsn", DSN.replace("…", PASSWORD) + stricter)
    site.write("client.properties", PROPERTIES)
    site.write("sasl-password", f"{SASL_PASSWORD}\n")
    topic = f"outbox.event.{secure_kafka.unique_topic_prefix()}order"  # the page's ACL is for this prefix
    [[sent]] = site.database.execute("SELECT outbox_emit('order', '1', 'OrderPaid', '{}')::text")

    site.type(f"{RUN.strip()} --until caught-up --topic {topic}")

    assert ids(secure_kafka.consume(topic, 1)) == [sent]
    shown = site.type(f"{RUN.strip()} -X list").stdout
    assert "sasl.password=***" in shown
    assert SASL_PASSWORD not in shown

    site.write("dsn", without_password(DSN) + CERTIFIED)
    chain, key = authority.issue("relay.example.internal", common_name="cdc_outbox_relay").write(site.folder, "relay")
    assert (chain.name, key.name) == ("relay.crt", "relay.key")
    site.postgres.show(authority.issue(), clients=authority, admit=site.here(BY_CERTIFICATE))
    flags = site.here(RUN).strip().splitlines()[-1].split()[2:]
    running = relay(
        *flags,
        "--topic",
        topic,
        env={
            "CDC_OUTBOX_DSN_FILE": str(site.folder / "dsn"),
            "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(site.folder / "sasl-password"),
        },
    )
    running.wait_for_log("streaming")
    mine = eventually(
        lambda: [row for row in site.database.execute(ENCRYPTED) if row[0] == "cdc-outbox"], "it is listed"
    )
    assert mine[0][1:] == (True, "TLSv1.3")


CERTIFIED: Final = (
    " ".join(re.findall(r"`(sslcert=\S+ sslkey=\S+)`", read(PAGE).prose)) + "\n"
)  # as the page writes it, in a sentence


def without_password(dsn: str) -> str:
    return re.sub(r"password=.*\n", "", dsn)


@pytest.mark.parametrize("wrong", ["nothing", "authority", "name", "date"])
def test_openssl_prints_the_reason_and_the_table_has_it(
    site: Site, authority: Authority, stranger: Authority, wrong: str
) -> None:
    issued = authority.issue(*(ELSEWHERE if wrong == "name" else ()), expired=wrong == "date")
    shown = stranger.issue() if wrong == "authority" else issued
    site.postgres.show(shown, clients=authority)
    said = site.type(VERIFY.partition("\nopenssl")[0]).stdout  # the first of the two: PostgreSQL's

    [code] = re.findall(r"Verify return code: (\d+)", said)
    assert {"nothing": {"0"}, "authority": {"19", "20", "21"}, "name": {"62"}, "date": {"10"}}[wrong] >= {code}
    assert re.search(rf"`{code}[ `]", read(PAGE).prose)


@pytest.mark.parametrize(("listener", "code"), [("TLS", "0"), ("MISNAMED", "62"), ("EXPIRED", "10")])
def test_openssl_prints_the_reason_for_a_broker(site: Site, listener: str, code: str) -> None:
    command = "openssl" + VERIFY.partition("\nopenssl")[2]
    address = site.kafka.address(listener).replace("127.0.0.1", "localhost")
    said = site.type(command.replace("kafka.example.internal:9093", address)).stdout
    assert f"Verify return code: {code} " in said


def test_a_table_of_another_role_is_installed_as_that_role(database: Database, shell: Shell) -> None:
    database.execute(
        f"CREATE ROLE shop_owner NOLOGIN; GRANT CREATE ON DATABASE {database.name} TO shop_owner;"
        " GRANT CREATE ON SCHEMA public TO shop_owner; SET ROLE shop_owner; CREATE TABLE public.outbox"
        " (id uuid, aggregatetype text, aggregateid text, type text, payload json, headers jsonb)"
    )
    refused = run_command("sql", "install", "--apply", dsn=database.dsn)
    assert "table public.outbox belongs to role shop_owner, not to postgres" in refused.stderr
    assert "SET ROLE shop_owner" in refused.stderr

    shell(NO_CREATE, ADMIN_DSN=database.dsn)
    shell(AS_OWNER, ADMIN_DSN=database.dsn)

    owners = "SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE proname = 'outbox_emit'"
    assert database.execute(owners) == [("shop_owner",)]
    assert database.execute("SELECT public.outbox_emit('order', '1', 'OrderPlaced', '{}') IS NOT NULL") == [(True,)]
