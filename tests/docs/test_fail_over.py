"""docs/how-to/fail-over.md, done as it says: set up, switched over, and made ready for the next time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdc_outbox.demo.postgres import EmbeddedPostgres
from tests.docs.pages import read
from tests.plugins.absence import absent
from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import ids
from tests.plugins.pair import FAILOVER_SINCE
from tests.plugins.waiting import eventually
from tests.servers.standby import Standby

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PAGE: Final = "docs/how-to/fail-over.md"
BLOCKS: Final = [each.text for each in read(PAGE).blocks]

SLOT_AND_SETTING, NEW_SLOT = (text for text in BLOCKS if text.startswith("SELECT pg_create_physical"))
STANDBYS_SETTINGS: Final = next(text for text in BLOCKS if text.startswith("wal_level"))
RELAY: Final = next(text for text in BLOCKS if text.startswith("export CDC_OUTBOX_DSN"))
READY: Final = next(text for text in BLOCKS if text.startswith("SELECT slot_name, synced"))
SWITCH: Final = next(text for text in BLOCKS if text.startswith("pg_ctl stop"))
DROP: Final = next(text for text in BLOCKS if text.startswith("SELECT pg_drop_replication_slot"))
SETTING_AGAIN: Final = next(text for text in BLOCKS if text.startswith("ALTER SYSTEM"))

READY_SECONDS: Final = 60.0
"""The worker that copies slots starts again 10 s after an error, and looks every 30 s when nothing moves."""

pytestmark = pytest.mark.nightly


@pytest.fixture
def primary(postgres_binaries: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(bin_dir=postgres_binaries)
    if int(server.version.split(".")[0]) < FAILOVER_SINCE:
        absent(f"failover slots need PostgreSQL {FAILOVER_SINCE}, and this is {server.version}")
    with server:
        yield server


@pytest.fixture
def pg_ctl(postgres_binaries: Path, primary: EmbeddedPostgres, tmp_path: Path) -> str:
    """A PATH on which pg_ctl runs under the server's account, as it insists on."""
    folder = tmp_path / "bin"
    folder.mkdir()
    account = primary._account
    switch = f"setpriv --reuid {account.uid} --regid {account.gid} --clear-groups " if account else ""
    (folder / "pg_ctl").write_text(f'#!/bin/sh\nexec {switch}{primary.bin_dir}/pg_ctl "$@"\n', encoding="ascii")
    (folder / "pg_ctl").chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{postgres_binaries}:{os.environ['PATH']}"


def test_the_page_in_order(
    primary: EmbeddedPostgres,
    pg_ctl: str,
    kafka: KafkaCluster,
    shell: Shell,
    relay: Callable[..., Relay],
) -> None:
    topic = f"{kafka.unique_topic_prefix()}order"
    execute(primary, "CREATE DATABASE shop", dbname="postgres")
    shell("cdc-outbox sql install --apply", CDC_OUTBOX_DSN=primary.dsn_for(dbname="shop"))
    shell('cdc-outbox sql roles | psql -q -v ON_ERROR_STOP=1 "$DSN"', DSN=primary.dsn_for(dbname="shop"))
    execute(primary, "ALTER ROLE cdc_outbox_relay PASSWORD 'phlox-88-relay'")

    execute(primary, SLOT_AND_SETTING)
    with Standby(primary, settings=settings_of(primary)) as standby:
        hosts = two_hosts(RELAY, primary, standby)
        here = {"PGPASSWORD": "phlox-88-relay", "BROKERS": kafka.brokers, "CDC_OUTBOX_TOPIC": topic}
        shell(f"{hosts.strip()} --until caught-up", **here)
        running = relay("--failover", "--topic", topic, dsn=dsn_of(hosts), brokers=kafka.brokers, env=here)
        running.wait_for_log("streaming")
        sent = [emit(primary)]
        eventually(lambda: ready(standby), "the standby is ready", seconds=READY_SECONDS)

        shell(SWITCH, PATH=pg_ctl, OLD=str(primary.data_dir), STANDBY_DSN=standby.dsn)
        running.wait_for_log("streaming", nth=2, timeout=60.0)
        sent.append(emit(standby))

        execute(standby, NEW_SLOT)
        come_back(primary, following=standby)
        execute(primary, DROP, dbname="postgres")
        sent.append(emit(standby))
        eventually(lambda: ready(primary), "the old primary is ready", seconds=READY_SECONDS)
        execute(standby, SETTING_AGAIN)
        sent.append(emit(standby))

        eventually(lambda: set(sent) <= set(ids(kafka.consume(topic, 0))), "all have arrived")
        running.terminate()
        assert running.wait() == 0, running.stderr_text
        judge([Event(each, "1") for each in sent], kafka.consume(topic, 0))


def execute(server: EmbeddedPostgres, text: str, dbname: str = "shop") -> list[tuple[Any, ...]]:
    """Each statement of a block by itself: ALTER SYSTEM takes no company. The last one's rows."""
    rows: list[tuple[Any, ...]] = []
    with psycopg.connect(server.dsn_for(dbname=dbname), autocommit=True) as connection:
        for statement in filter(None, map(str.strip, text.split(";"))):
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


def emit(server: EmbeddedPostgres) -> str:
    return str(execute(server, "SELECT outbox_emit('order', '1', 'OrderPaid', '{}')")[0][0])


def ready(server: EmbeddedPostgres) -> bool:
    """What the page says: synced true, temporary false, no reason."""
    return execute(server, READY) == [("cdc_outbox", True, False, None)]


def settings_of(primary: EmbeddedPostgres) -> dict[str, str]:
    """The standby's, as the page has them, with this primary's address and superuser."""
    lines = dict(re.findall(r"^(\w+) = '?(.*?)'?$", STANDBYS_SETTINGS, re.MULTILINE))
    dbname = conninfo_to_dict(lines["primary_conninfo"].replace("…", "x"))["dbname"]
    return {**lines, "primary_conninfo": make_conninfo(primary.dsn, dbname=dbname).replace("'", "''")}


def come_back(old: EmbeddedPostgres, *, following: EmbeddedPostgres) -> None:
    """After a planned switch: `standby.signal` and the settings above are enough."""
    with (old.data_dir / "postgresql.auto.conf").open("a", encoding="utf-8") as conf:
        conf.writelines(f"{name} = '{value}'\n" for name, value in settings_of(following).items())
    (old.data_dir / "standby.signal").touch()
    old.stop()  # it has ended already; this takes note of it
    old.start()


def two_hosts(text: str, *servers: EmbeddedPostgres) -> str:
    """The page's block, with both hosts here."""
    ports = ",".join(str(each.port) for each in servers)
    assert "host=db1.example.internal,db2.example.internal " in text
    return text.replace("db1.example.internal,db2.example.internal", f"127.0.0.1,127.0.0.1 port={ports}")


def dsn_of(text: str) -> str:
    [dsn] = re.findall(r"CDC_OUTBOX_DSN='(.*)'", text)
    return str(dsn)
