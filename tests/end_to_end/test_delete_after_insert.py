"""`sql install --delete-after-insert`: the table stays empty, and its events arrive all the same."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles, apply_uninstall
from cdc_outbox.commands.installation import read_installation
from tests.plugins.command import run_command
from tests.plugins.oracle import judge
from tests.plugins.outbox import ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database

OPTIONS = InstallOptions(delete_after_insert=True)

EMIT = "SELECT outbox_emit('order', '42', 'OrderPaid', '{\"total\": 99}', '{\"tenant\": \"acme\"}')::text"
COUNT = "SELECT count(*) FROM outbox"


def install(database: Database, options: InstallOptions = OPTIONS) -> None:
    apply_install(database.dsn, options, pytest.fail)


def test_the_record_is_the_same_a_rollback_sends_nothing_and_the_table_is_empty(outbox: Outbox) -> None:
    database = outbox.database
    install(database, InstallOptions())
    outbox.create_slot()
    ((kept,),) = database.execute(EMIT)
    install(database)  # on a table that is in use
    apply_roles(database.dsn, OPTIONS, pytest.fail)
    writer = f"writer_{secrets.token_hex(4)}"
    database.execute(f"CREATE ROLE {writer} IN ROLE cdc_outbox_writer")
    with database.connect(autocommit=False) as connection:
        connection.execute(f"SET ROLE {writer}".encode())
        ((deleted,),) = connection.execute(EMIT.encode()).fetchall()
        connection.commit()
        connection.execute(EMIT.encode())
        connection.rollback()
    own = outbox.add()  # an INSERT, past the function
    assert database.execute("SELECT id::text FROM outbox") == [(kept,)], "rows from before stay"
    outbox.drain()
    records = outbox.records_by_id()
    assert set(records) == {kept, deleted, own}
    one, other = records[kept], records[deleted]
    assert (one.topic, one.partition, one.key, one.value) == (other.topic, other.partition, other.key, other.value)
    assert one.headers[1:] == other.headers[1:] == [("type", b"OrderPaid"), ("tenant", b"acme")]


def test_under_load_nothing_is_lost_and_order_is_kept(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    install(outbox.database)
    outbox.create_slot()
    with writers(threads=3, rate=200) as load:
        relay = outbox.streaming()
        relay.kill()
    outbox.drain()
    judge(witness.committed(), outbox.records(), rolled_back=load.rolled_back)
    assert outbox.database.execute(COUNT) == [(0,)]


def test_what_is_committed_before_the_slot_is_never_sent_and_check_warns_of_it(outbox: Outbox) -> None:
    install(outbox.database)
    outbox.add()
    asked = ["check", "--brokers", outbox.kafka.brokers, "--topic", outbox.prefix + "{aggregatetype}"]
    warned = run_command(*asked, dsn=outbox.database.dsn).stdout
    assert "warn  table.rows" in warned
    assert "cdc-outbox slot create" in warned
    outbox.drain()
    assert "ok    table.rows" in run_command(*asked, dsn=outbox.database.dsn).stdout
    recovers = run_command(*asked, "--on-slot-lost", "recover", dsn=outbox.database.dsn).stdout
    assert "warn  table.rows" in recovers
    sent = outbox.add()
    outbox.drain()
    assert ids(outbox.records()) == [sent]


def test_a_first_start_and_a_recovery_warn_of_rows_that_no_table_has_and_of_none_where_none_was_written(
    outbox: Outbox,
) -> None:
    install(outbox.database)
    asked = [
        "slot",
        "recover",
        "--brokers",
        outbox.kafka.brokers,
        "--topic",
        outbox.prefix + "{aggregatetype}",
        "--yes",
    ]
    assert "rows.skipped" not in [line["event"] for line in outbox.drain().logs], "nothing was written"
    outbox.database.execute("SELECT pg_drop_replication_slot('cdc_outbox')")
    outbox.add()
    (first,) = [line for line in outbox.drain().logs if line["event"] == "rows.skipped"]
    assert (first["level"], first["table"], "since" in first) == ("warning", "public.outbox", False)
    assert "cdc-outbox slot create" in first["cure"]
    outbox.add()
    done = run_command(*asked, dsn=outbox.database.dsn)
    assert done.returncode == 0, done.stderr
    (line,) = [json.loads(text) for text in done.stderr.splitlines() if '"rows.skipped"' in text]
    assert line["since"] < line["lsn"]


def test_an_upgrade_leaves_it_and_an_uninstall_takes_it_away(database: Database) -> None:
    install(database)
    found = read_installation(database.dsn, OPTIONS)
    assert (found.complete, found.delete_after_insert) == (True, True)
    status = run_command("sql", "status", dsn=database.dsn)
    assert (status.returncode, "rows are deleted after insert" in status.stdout) == (0, True)
    database.execute("COMMENT ON TABLE outbox IS 'cdc-outbox:1'")
    assert run_command("sql", "upgrade", "--apply", dsn=database.dsn).returncode == 0
    database.execute(EMIT)
    assert database.execute(COUNT) == [(0,)]
    apply_uninstall(database.dsn, OPTIONS, pytest.fail)
    assert database.execute("SELECT count(*) FROM pg_proc WHERE proname ~ '^outbox_'") == [(0,)]
    database.execute("INSERT INTO outbox (aggregatetype) VALUES ('order')")
    assert database.execute(COUNT) == [(1,)]
    apply_uninstall(database.dsn, OPTIONS, pytest.fail, drop_table=True)
    apply_uninstall(database.dsn, OPTIONS, pytest.fail, drop_table=True)


def test_a_table_without_seq_is_refused_and_stays_as_it_is(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (id uuid PRIMARY KEY, aggregatetype text, aggregateid text, type text, payload json,"
        " headers jsonb)"
    )
    done = run_command("sql", "install", "--delete-after-insert", "--apply", dsn=database.dsn)
    assert (done.returncode, "seq is not its primary key" in done.stderr) == (78, True), done.stderr
    assert database.execute("SELECT obj_description('outbox'::regclass)") == [(None,)]
