"""`cdc-outbox slot create | drop | status` on a real server."""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop
from tests.plugins.command import environment, run_command, started_command
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.outbox import Outbox
    from tests.plugins.postgres import Database, PostgresServer

LSN = r"[0-9A-F]{1,8}/[0-9A-F]{1,8}"


@pytest.fixture
def name() -> str:
    """Slots belong to the whole server, and tests must not meet."""
    return f"s_{secrets.token_hex(6)}"


@pytest.fixture
def installed(database: Database) -> Database:
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    return database


@pytest.fixture
def relay_dsn(installed: Database) -> str:
    """The relay's role: it may stream, and nothing else."""
    apply_roles(installed.dsn, InstallOptions(), pytest.fail)
    installed.execute("ALTER ROLE cdc_outbox_relay PASSWORD 'tell-nobody'; REVOKE ALL ON outbox FROM cdc_outbox_relay")
    return installed.dsn_for("cdc_outbox_relay", "tell-nobody")


def slot_row(database: Database, name: str) -> tuple[Any, ...] | None:
    rows = database.execute(
        "SELECT plugin, temporary, active, confirmed_flush_lsn::text, restart_lsn::text FROM pg_replication_slots"
        " WHERE slot_name = %s",
        [name],
    )
    return rows[0] if rows else None


# --- create ------------------------------------------------------------------------------------------------------------


def test_create_prints_where_the_slot_begins_and_what_it_does_not_send(
    installed: Database, relay_dsn: str, name: str
) -> None:
    installed.execute("SELECT outbox_emit('order', '1', 'BeforeTheSlot', '{}')")
    done = run_command("slot", "create", "--slot", name, dsn=relay_dsn)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(LSN, done.stdout.strip())
    assert slot_row(installed, name) == ("pgoutput", False, False, done.stdout.strip(), slot_row(installed, name)[4])  # type: ignore[index]
    assert "Rows already in the table are not sent" in done.stderr
    assert f"cdc-outbox slot drop --slot {name}, and cdc-outbox run" in done.stderr
    assert "warning" not in done.stderr

    installed.execute("SELECT outbox_emit('order', '1', 'AfterTheSlot', '{}')")
    sent = b"".join(
        bytes(data)
        for (data,) in installed.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL, 'proto_version', '1',"
            " 'publication_names', 'cdc_outbox')",
            [name],
        )
    )
    assert b"AfterTheSlot" in sent
    assert b"BeforeTheSlot" not in sent


def test_create_refuses_a_name_that_is_taken(installed: Database, name: str) -> None:
    assert run_command("slot", "create", "--slot", name, dsn=installed.dsn).returncode == 0
    before = slot_row(installed, name)
    done = run_command("slot", "create", "--slot", name, dsn=installed.dsn)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"slot {name} exists already" in done.stderr
    assert slot_row(installed, name) == before


def test_create_warns_when_there_is_no_publication_yet(database: Database, name: str) -> None:
    done = run_command("slot", "create", "--slot", name, dsn=database.dsn)
    assert done.returncode == 0
    assert "warning: there is no publication cdc_outbox yet" in done.stderr
    assert "cdc-outbox sql install" in done.stderr


def test_create_names_the_grant_that_is_missing(installed: Database, name: str) -> None:
    role = f"r_{secrets.token_hex(4)}"
    installed.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'tell-nobody'")
    done = run_command("slot", "create", "--slot", name, dsn=installed.dsn_for(role, "tell-nobody"))
    assert done.returncode == 77
    assert "REPLICATION" in done.stderr
    assert slot_row(installed, name) is None


def test_create_names_the_setting_that_is_missing(own_postgres: Callable[..., PostgresServer], name: str) -> None:
    database = own_postgres(settings={"wal_level": "replica"}).create_database()
    done = run_command("slot", "create", "--slot", name, dsn=database.dsn)
    assert done.returncode == 78
    assert "ALTER SYSTEM SET wal_level = 'logical'" in done.stderr


def test_create_names_the_transactions_that_it_waits_for_and_continues_after_them(
    installed: Database, relay_dsn: str, name: str
) -> None:
    writer = installed.connect(autocommit=False, application_name="nightly-import")
    writer.execute("SELECT outbox_emit('order', '1', 'T', '{}')")
    with started_command("slot", "create", "--slot", name, dsn=relay_dsn) as create:
        waited = create.wait_for_stderr(r"waiting: .*pid (\d+) \(postgres, nightly-import")
        assert int(waited[1]) == writer.info.backend_pid
        writer.commit()
        assert create.wait() == 0, create.report
    assert slot_row(installed, name) is not None


def test_ctrl_c_while_it_waits_leaves_no_slot_and_nothing_that_waits_on(installed: Database, name: str) -> None:
    writer = installed.connect(autocommit=False)
    writer.execute("SELECT outbox_emit('order', '1', 'T', '{}')")
    with started_command("slot", "create", "--slot", name, dsn=installed.dsn) as create:
        eventually(lambda: slot_row(installed, name), "the server has begun to make the slot")
        create.interrupt()
        assert create.wait() == 130, create.report
    eventually(lambda: slot_row(installed, name) is None, "the slot is gone, with the transaction still open")
    writer.commit()


# --- status ------------------------------------------------------------------------------------------------------------


def test_status_as_json_has_the_names_of_the_relays_own_status(installed: Database, relay_dsn: str, name: str) -> None:
    position = run_command("slot", "create", "--slot", name, dsn=installed.dsn).stdout.strip()
    installed.execute("SELECT pg_logical_emit_message(true, 'elsewhere', repeat('x', 10000))")
    done = run_command("slot", "status", "--slot", name, "--json", dsn=relay_dsn)
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout)
    assert status == {
        "slot": name,
        "plugin": "pgoutput",
        "slot_type": "logical",
        "database": installed.name,
        "failover": False,
        "temporary": False,
        "slot_active": False,
        "active_pid": None,
        "wal_status": "reserved",
        "confirmed_flush_lsn": position,
        "restart_lsn": slot_row(installed, name)[4],  # type: ignore[index]
        "current_lsn": status["current_lsn"],
        "lag_bytes": status["lag_bytes"],
        "retained_wal_bytes": status["retained_wal_bytes"],
        "safe_wal_bytes": None,
    }
    assert status["retained_wal_bytes"] >= status["lag_bytes"] > 10_000


def test_status_in_words(installed: Database, name: str) -> None:
    position = run_command("slot", "create", "--slot", name, dsn=installed.dsn).stdout.strip()
    done = run_command("slot", "status", "--slot", name, dsn=installed.dsn)
    assert done.returncode == 0, done.stderr
    assert f"logical, plugin pgoutput, database {installed.name}" in done.stdout
    assert re.search(rf"confirmed +{position}, [0-9,]+ bytes behind", done.stdout)


def test_status_of_no_slot_is_78_and_names_the_command_that_creates_one(installed: Database, name: str) -> None:
    done = run_command("slot", "status", "--slot", name, dsn=installed.dsn)
    assert (done.returncode, done.stdout) == (78, "")
    assert f"slot {name} does not exist" in done.stderr
    assert "cdc-outbox run" in done.stderr


def test_status_of_a_slot_of_another_plugin_is_shown_and_is_78(installed: Database, name: str) -> None:
    installed.execute("SELECT pg_create_physical_replication_slot(%s)", [name])
    try:
        done = run_command("slot", "status", "--slot", name, "--json", dsn=installed.dsn)
        assert json.loads(done.stdout)["slot_type"] == "physical"
        assert done.returncode == 78
        assert "physical" in done.stderr
    finally:
        installed.execute("SELECT pg_drop_replication_slot(%s)", [name])


# --- drop --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def slot(installed: Database, name: str) -> str:
    """A slot that is there."""
    assert run_command("slot", "create", "--slot", name, dsn=installed.dsn).returncode == 0
    return name


@pytest.fixture
def streamed_from(installed: Database, slot: str) -> Iterator[int]:
    """Somebody streams from the slot: the pid of the server process."""
    stop = Stop()
    stream = ReplicationStream.start(ReplicationSession(installed.dsn, stop), stop, slot=slot, publication="cdc_outbox")
    pid = installed.execute("SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [slot])[0][0]
    yield int(pid)
    stream.close()


def test_drop_with_yes_prints_what_is_lost_and_drops(installed: Database, relay_dsn: str, slot: str) -> None:
    done = run_command("slot", "drop", "--slot", slot, "--yes", dsn=relay_dsn)
    assert (done.returncode, done.stdout) == (0, "")
    assert "first sends every row that is still in the table" in done.stderr
    assert f"dropped: slot {slot}" in done.stderr
    assert slot_row(installed, slot) is None


def test_drop_without_a_terminal_and_without_yes_does_nothing(installed: Database, slot: str) -> None:
    done = run_command("slot", "drop", "--slot", slot, dsn=installed.dsn)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert slot_row(installed, slot) is not None


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, False), ("n\n", 1, True)])
def test_drop_asks_on_a_terminal(installed: Database, slot: str, answer: str, code: int, *, left: bool) -> None:
    ours, theirs = pty.openpty()
    drop = subprocess.Popen(
        [sys.executable, "-m", "cdc_outbox", "slot", "drop", "--slot", slot],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment({"CDC_OUTBOX_DSN": installed.dsn}),
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    _, stderr = drop.communicate(timeout=30)
    os.close(ours)
    assert drop.returncode == code, stderr
    assert f"Drop slot {slot}?".encode() in stderr
    assert (slot_row(installed, slot) is not None) is left


def test_drop_refuses_a_slot_in_use_and_names_the_process(installed: Database, slot: str, streamed_from: int) -> None:
    done = run_command("slot", "drop", "--slot", slot, "--yes", dsn=installed.dsn)
    assert done.returncode == 75
    assert f"pid {streamed_from}" in done.stderr
    assert "stop the relay" in done.stderr
    assert slot_row(installed, slot) is not None


def test_drop_refuses_a_slot_of_another_database(installed: Database, slot: str) -> None:
    other = installed.server.create_database()
    try:
        done = run_command("slot", "drop", "--slot", slot, "--yes", dsn=other.dsn)
        assert done.returncode == 78
        assert f"belongs to database {installed.name}" in done.stderr
        assert slot_row(installed, slot) is not None
    finally:
        other.drop()


def test_drop_of_no_slot_is_78(installed: Database, name: str) -> None:
    done = run_command("slot", "drop", "--slot", name, "--yes", dsn=installed.dsn)
    assert done.returncode == 78
    assert f"slot {name} does not exist" in done.stderr


@pytest.mark.parametrize(
    "command", [("prune", "--older-than", "0"), ("slot", "status"), ("status", "--http", "off")], ids=" ".join
)
def test_the_cure_of_a_missing_slot_is_a_command_with_the_slot_the_tables_and_the_policy(
    command: tuple[str, ...], outbox: Outbox
) -> None:
    outbox.create("events")
    name = f"other_{outbox.database.name}"
    deployment = {"CDC_OUTBOX_TABLE": "public.events", "CDC_OUTBOX_ON_POISON": "skip"}
    refused = run_command(*command, "--slot", name, dsn=outbox.database.dsn, env=deployment)
    assert refused.returncode == 78
    typed = re.search(r"cdc-outbox run((?: --[a-z-]+ \S+)*) (?:creates|makes)", refused.stderr)
    assert typed is not None, refused.stderr
    assert typed[1] == f" --slot {name} --table public.events --on-poison skip"
    outbox.add("events")
    outbox.drain(*typed[1].split())
    assert len(outbox.records()) == 1
