"""`cdc-outbox tail` as people use it: what it prints, what it leaves alone, and how it ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from cdc_outbox.identifiers import TableName
from tests.plugins.command import environment, run_command, started_command
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

MARK = "SELECT slot_name FROM pg_replication_slots WHERE slot_name ^@ 'cdc_outbox_tail_' AND database = %s"


@pytest.fixture
def installed(database: Database) -> Database:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    return database


def emit(database: Database, key: str = "42", payload: str | None = '{"total": 99}', kind: str = "order") -> str:
    """Commit one event. Its id."""
    return str(database.execute("SELECT outbox_emit(%s, %s, 'OrderPlaced', %s)", [kind, key, payload])[0][0])


def tails(database: Database, *, streaming: bool = False) -> list[str]:
    """Slots of tails of this database: those that are read from by now, or all."""
    active = " AND confirmed_flush_lsn IS NOT NULL AND active_pid IN (SELECT pid FROM pg_stat_replication)"
    return [name for (name,) in database.execute(MARK + (active if streaming else ""), [database.name])]


def slots(database: Database) -> list[tuple[Any, ...]]:
    return database.execute(
        "SELECT slot_name, confirmed_flush_lsn, restart_lsn, active FROM pg_replication_slots WHERE database = %s",
        [database.name],
    )


def parsed(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def test_what_is_in_the_table_comes_first_then_what_is_committed(installed: Database) -> None:
    before = [emit(installed, str(number)) for number in range(3)]
    with started_command("tail", "--limit", "5", dsn=installed.dsn) as tail:
        tail.wait_for_lines(3)
        after = [emit(installed, str(number)) for number in range(2)]
        assert tail.wait() == 0, tail.report
    lines = parsed(tail.stdout)
    assert [line["headers"]["id"] for line in lines] == before + after
    assert [line["lsn"] is None for line in lines] == [True, True, True, False, False]
    assert lines[-1] == {
        "topic": "outbox.event.order",
        "key": "1",
        "headers": {"id": after[-1], "type": "OrderPlaced"},
        "value": {"total": 99},
        "value_format": "json",
        "timestamp": lines[-1]["timestamp"],
        "lsn": lines[-1]["lsn"],
        "table": "public.outbox",
    }


def test_events_between_the_rows_and_the_stream_are_neither_lost_nor_doubled(installed: Database) -> None:
    ids = [emit(installed) for _ in range(20)]
    with started_command("tail", "--limit", "300", dsn=installed.dsn) as tail:
        ids += [emit(installed) for _ in range(280)]
        assert tail.wait() == 0, tail.report
    assert [line["headers"]["id"] for line in parsed(tail.stdout)] == ids


def test_from_now_leaves_the_rows_and_needs_no_select(installed: Database) -> None:
    apply_roles(installed.dsn, InstallOptions(), pytest.fail)
    installed.execute("ALTER ROLE cdc_outbox_relay PASSWORD 'tell-nobody'; REVOKE ALL ON outbox FROM cdc_outbox_relay")
    dsn = installed.dsn_for("cdc_outbox_relay", "tell-nobody")
    emit(installed)
    refused = run_command("tail", dsn=dsn)
    assert (refused.returncode, refused.stdout) == (77, "")
    assert 'GRANT SELECT ON "public"."outbox" TO "cdc_outbox_relay"' in refused.stderr
    assert "--from-now" in refused.stderr
    assert not slots(installed)

    with started_command("tail", "--from-now", "--limit", "1", dsn=dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        wanted = emit(installed)
        assert tail.wait() == 0, tail.report
    assert [line["headers"]["id"] for line in parsed(tail.stdout)] == [wanted]


def test_the_relays_slot_is_not_touched_and_no_slot_is_left(installed: Database) -> None:
    installed.execute("SELECT pg_create_logical_replication_slot('cdc_outbox', 'pgoutput')")
    before = slots(installed)
    emit(installed)
    assert run_command("tail", "--limit", "1", dsn=installed.dsn).returncode == 0
    eventually(lambda: not tails(installed), "the temporary slot is gone")
    assert slots(installed) == before


def test_what_is_printed_is_acknowledged_so_that_the_server_keeps_no_wal_for_it(installed: Database) -> None:
    with started_command("tail", "--from-now", dsn=installed.dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        emit(installed)
        line = parsed(tail.wait_for_lines(1))[0]
        confirmed = "SELECT confirmed_flush_lsn > %s::pg_lsn FROM pg_replication_slots WHERE slot_name = %s"
        name = tails(installed)[0]
        eventually(lambda: installed.execute(confirmed, [line["lsn"], name]) == [(True,)], "it is confirmed")
        tail.interrupt()
        assert tail.wait() == 0, tail.report


def test_ctrl_c_ends_it_with_0_and_prints_nothing(installed: Database) -> None:
    with started_command("tail", dsn=installed.dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        tail.interrupt()
        assert tail.wait() == 0
    assert tail.stderr == []
    eventually(lambda: not tails(installed), "the temporary slot is gone")


def test_a_reader_that_leaves_ends_it_quietly_even_when_nothing_happens_any_more(installed: Database) -> None:
    emit(installed)
    reading, writing = os.pipe()
    tail = subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", "tail"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment({"CDC_OUTBOX_DSN": installed.dsn}),
    )
    try:
        os.close(writing)
        assert os.read(reading, 1)
        os.close(reading)
        _, stderr = tail.communicate(timeout=20)
    finally:
        tail.kill()
    assert (tail.returncode, stderr) == (141, b"")


def test_a_reader_that_pauses_longer_than_the_servers_timeout_loses_nothing(installed: Database) -> None:
    count = 3000  # more lines than a pipe holds
    reading, writing = os.pipe()
    tail = subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", "tail", "--from-now", "--limit", str(count)],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=environment({"CDC_OUTBOX_DSN": f"{installed.dsn} options='-c wal_sender_timeout=2s'"}),
    )
    try:
        os.close(writing)
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        for _ in range(3):
            installed.execute(
                f"SELECT outbox_emit('order', '1', 'T', to_json(n)) FROM generate_series(1, {count // 3}) n"
            )
        since = "SELECT clock_timestamp() - backend_start > '6 s' FROM pg_stat_replication WHERE application_name = %s"
        eventually(lambda: installed.execute(since, ["cdc-outbox"]) == [(True,)], "three timeouts have passed")
        with os.fdopen(reading, encoding="utf-8") as pipe:
            lines = list(pipe)
        _, stderr = tail.communicate(timeout=20)
    finally:
        tail.kill()
    assert (tail.returncode, stderr) == (0, b"")
    assert [line["value"] for line in parsed(lines)] == list(range(1, count // 3 + 1)) * 3


def test_rolled_back_events_are_not_printed(installed: Database) -> None:
    with started_command("tail", "--from-now", "--limit", "2", dsn=installed.dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        first = emit(installed)
        connection = installed.connect(autocommit=False)
        connection.execute("SELECT outbox_emit('order', '1', 'Never', '{}')")
        connection.rollback()
        second = emit(installed)
        assert tail.wait() == 0, tail.report
    assert [line["headers"]["id"] for line in parsed(tail.stdout)] == [first, second]


def test_what_would_stop_the_relay_is_a_line_and_the_next_one_follows(installed: Database) -> None:
    with started_command("tail", "--from-now", "--limit", "2", dsn=installed.dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        poison, good = emit(installed, kind="not a topic"), emit(installed)
        assert tail.wait() == 0, tail.report
    bad, fine = parsed(tail.stdout)
    assert (bad["id"], bad["reason"], bad["key"], bad["table"]) == (poison, "bad-topic", "42", "public.outbox")
    assert "Kafka allows" in bad["error"]
    assert fine["headers"]["id"] == good


def test_other_tables_other_columns_and_other_topics(database: Database) -> None:
    options = InstallOptions(table=TableName("public", "orders"), publication="events")
    apply_install(database.dsn, options, pytest.fail)
    database.execute("ALTER TABLE orders RENAME COLUMN aggregateid TO aggregate_id")
    database.execute("ALTER TABLE orders ADD tenant text")
    database.execute("CREATE TABLE users (id int); ALTER PUBLICATION events ADD TABLE users")
    table = ("--table", "orders", "--publication", "events", "--key-column", "aggregate_id", "--timestamp-column")
    with started_command(
        "tail",
        *table,
        "created_at",
        "--topic",
        "{tenant}.orders",
        "--header",
        "tenant:who",
        "--limit",
        "2",
        dsn=database.dsn,
    ) as tail:
        row = "('order', '7', 'Placed', '{}', 'acme')"
        insert = f"INSERT INTO orders (aggregatetype, aggregate_id, type, payload, tenant) VALUES {row}"
        database.execute(insert)
        tail.wait_for_lines(1)
        database.execute("INSERT INTO users VALUES (1)")
        database.execute(insert)
        assert tail.wait() == 0, tail.report
    for line in parsed(tail.stdout):
        assert (line["topic"], line["key"], line["headers"]["who"]) == ("acme.orders", "7", "acme")
        assert line["table"] == "public.orders"
        assert line["timestamp"] is not None
    assert "".join(tail.stderr) == "rows of public.users are ignored: no --table names it\n"


def test_it_needs_no_kafka_settings_and_reads_the_relays_configuration_file(installed: Database, tmp_path: Any) -> None:
    file = tmp_path / "relay.toml"
    file.write_text('brokers = "nowhere:9092"\ntopic = "x.{aggregatetype}"\non-slot-busy = "exit"\n')
    emit(installed)
    done = run_command("tail", "--config", str(file), "--limit", "1", dsn=installed.dsn)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["topic"] == "x.order"


def test_without_a_publication_it_ends_with_an_error_and_does_not_wait(installed: Database) -> None:
    installed.execute("DROP PUBLICATION cdc_outbox")
    done = run_command("tail", dsn=installed.dsn)
    assert done.returncode == 78
    assert "publication cdc_outbox does not exist" in done.stderr
    assert "cdc-outbox sql install" in done.stderr
    assert not slots(installed)


def test_a_server_that_goes_away_is_an_error_with_its_exit_code(installed: Database) -> None:
    with started_command("tail", dsn=installed.dsn) as tail:
        eventually(lambda: tails(installed, streaming=True), "the tail streams")
        installed.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", tails(installed)
        )
        assert tail.wait() == 69, tail.report
    assert "error:" in "".join(tail.stderr)


def test_messages_are_shown_as_the_records_that_run_would_send_and_what_is_none_as_an_error(database: Database) -> None:
    apply_install(database.dsn, InstallOptions(source="message"), print)
    arguments = ["--source", "message", "--format", "cloudevents", "--ce-source", "/shop", "--limit", "2"]
    with started_command("tail", *arguments, dsn=database.dsn) as tail:
        eventually(lambda: tails(database, streaming=True), "the tail streams")
        database.execute("SELECT pg_logical_emit_message(true, 'outbox', 'no JSON')")
        wanted = emit(database)
        assert tail.wait() == 0, tail.report
    broken, event = parsed(tail.stdout)
    assert (broken["reason"], broken["table"]) == ("bad-message", "message:outbox")
    assert (event["headers"]["ce_id"], event["headers"]["ce_source"]) == (wanted, "/shop")
    assert event["table"] == "message:outbox"
