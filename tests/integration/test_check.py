"""`cdc-outbox check` on real servers: each planted fault is found, by the check of its name, with the cure that helps."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import secrets
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdc_outbox.check import database as database_checks
from cdc_outbox.check import run_check
from cdc_outbox.commands.install import InstallOptions, apply_install, apply_roles
from cdc_outbox.config.settings import Columns, Settings
from cdc_outbox.config.shards import Shard
from cdc_outbox.config.value_types import Secret
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.shutdown import Stop
from tests.plugins.command import environment, run_command
from tests.plugins.postgres import PostgresServer
from tests.plugins.waiting import eventually
from tests.servers import secure_kafka as kafka_side

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cdc_outbox.check.report import Finding, Report
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.outbox import Outbox
    from tests.plugins.pair import Pair
    from tests.plugins.postgres import Database
    from tests.plugins.secure import TlsOutbox
    from tests.servers.certificates import Authority
    from tests.servers.secure_kafka import SecureKafka

DAY: Final = 86_400.0

NOBODY: Final = "127.0.0.1:1"
"""A port that refuses at once."""


class Checked:
    """A report, asked by the names of its checks."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def of(self, check: str) -> list[Finding]:
        return [finding for finding in self.report.findings if finding.check == check]

    def only(self, check: str, status: str, *words: str) -> Finding:
        """The check has one line of that status; it and its cures say these words."""
        found = [finding for finding in self.of(check) if finding.status == status]
        assert len(found) == 1, self.shown
        said = " ".join((found[0].message, *found[0].cures))
        assert not [word for word in words if word not in said], f"{words} in {said}"
        assert found[0].cures or status in {"ok", "not-checked"}, f"no cure: {found[0]}"
        return found[0]

    def failed(self, check: str, *words: str) -> Finding:
        assert not self.report.passed()
        return self.only(check, "fail", *words)

    def warned(self, check: str, *words: str) -> Finding:
        return self.only(check, "warn", *words)

    def fine(self, *checks: str) -> None:
        for check in checks:
            assert {finding.status for finding in self.of(check)} == {"ok"}, f"{check}: {self.shown}"

    @property
    def shown(self) -> str:
        return "\n".join(f"{one.status} {one.check} {one.message} {one.cures}" for one in self.report.findings)


class Bench:
    """An outbox as `sql install` makes it, to plant one fault in, and a slot name of its own."""

    def __init__(self, database: Database, kafka: KafkaCluster) -> None:
        self.database = database
        self.kafka = kafka
        self.prefix = kafka.unique_topic_prefix()
        self.settings = Settings(
            brokers=kafka.brokers,
            dsn=Secret(lambda: database.dsn),
            slot=f"s_{secrets.token_hex(6)}",
            topic=self.prefix + "{aggregatetype}",
        )
        apply_install(database.dsn, InstallOptions(), lambda _warning: None)

    def check(self, **changes: Any) -> Checked:
        return Checked(run_check(replace(self.settings, **changes), Stop()))

    def create_slot(self, plugin: str = "pgoutput") -> None:
        self.database.execute("SELECT pg_create_logical_replication_slot(%s, %s)", [self.settings.slot, plugin])

    def active(self, slot: str) -> bool:
        query = "SELECT 1 FROM pg_replication_slots WHERE slot_name = %s AND active"
        return bool(self.database.execute(query, [slot]))

    def add(self, kind: str = "order", payload: str = "{}", key: str = "1") -> None:
        self.database.execute("SELECT outbox_emit(%s, %s, 'Happened', %s)", [kind, key, payload])

    def role(self, attributes: str = "REPLICATION") -> str:
        """A role that may stream, unless told otherwise, and has no privilege. Its DSN."""
        name = f"r_{secrets.token_hex(4)}"
        self.database.execute(f"CREATE ROLE {name} LOGIN {attributes} PASSWORD 'tell-nobody'")
        return self.database.dsn_for(name, "tell-nobody")


@pytest.fixture
def bench(database: Database, kafka: KafkaCluster) -> Bench:
    return Bench(database, kafka)


# --- nothing is wrong --------------------------------------------------------------------------------------------------


def test_a_correct_setup_passes_every_check(bench: Bench) -> None:
    bench.kafka.create_topic(f"{bench.prefix}order")
    bench.create_slot()
    bench.add()
    found = bench.check()
    assert found.report.passed(), found.shown
    found.fine("database.connection", "database.wal-level", "database.replication", "database.clock", "table.columns")
    found.fine("table.select", "publication.table", "publication.columns", "slot.state", "kafka.reach", "kafka.topic")
    found.fine("kafka.write", "kafka.size", "table.events")
    assert not found.report.count("not-checked"), found.shown


def test_a_relay_with_the_privileges_of_sql_roles_passes(bench: Bench) -> None:
    apply_roles(bench.database.dsn, InstallOptions(), pytest.fail)
    bench.database.execute("ALTER ROLE cdc_outbox_relay PASSWORD 'tell-nobody'")
    relay = Secret.of(bench.database.dsn_for("cdc_outbox_relay", "tell-nobody"))
    assert bench.check(dsn=relay).report.passed(), bench.check(dsn=relay).shown


def test_of_an_empty_table_the_topics_are_not_known(bench: Bench) -> None:
    found = bench.check()
    assert found.report.passed(), found.shown
    found.only("kafka.topic", "not-checked", "there are no rows")


# --- the command, as a new user would try it ---------------------------------------------------------------------------


def test_the_command_reports_all_findings_at_once_and_ends_with_1(database: Database, kafka: KafkaCluster) -> None:
    done = run_command("check", "--brokers", kafka.brokers, dsn=database.dsn)
    assert done.returncode == 1, done.stderr
    assert re.search(r"^ok    database\.wal-level +logical$", done.stdout, re.MULTILINE)
    assert re.search(
        r"^fail  table\.exists +table public\.outbox does not exist.*\n      -> create it: cdc-outbox sql install",
        done.stdout,
        re.MULTILINE,
    )
    assert re.search(
        r"^-     table\.columns +not checked: there is no table public\.outbox$", done.stdout, re.MULTILINE
    )
    assert "\x1b" not in done.stdout, "colours are for terminals"
    assert done.stderr == ""
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    cured = run_command("doctor", "--brokers", kafka.brokers, "--slot", f"s_{secrets.token_hex(6)}", dsn=database.dsn)
    assert cured.returncode == 0, cured.stdout


def test_strict_makes_failures_of_warnings(bench: Bench) -> None:
    """The session's server has no limit on retained WAL, which is worth a warning."""
    arguments = ("check", "--brokers", bench.kafka.brokers, "--slot", bench.settings.slot)
    assert run_command(*arguments, dsn=bench.database.dsn).returncode == 0
    assert run_command(*arguments, "--strict", dsn=bench.database.dsn).returncode == 1


def test_json_has_every_line_with_its_cures(database: Database) -> None:
    done = run_command("check", "--brokers", NOBODY, "--json", dsn=database.dsn)
    document = json.loads(done.stdout)
    assert done.returncode == 1
    assert document["ok"] is False
    by_name = {each["check"]: each for each in document["checks"]}
    assert by_name["database.wal-level"] == {
        "check": "database.wal-level",
        "status": "ok",
        "what": "logical",
        "cures": [],
    }
    assert by_name["table.exists"]["status"] == "fail"
    assert by_name["table.exists"]["cures"]
    assert document["counts"]["fail"] == sum(each["status"] == "fail" for each in document["checks"])


def test_offline_asks_no_server(bench: Bench) -> None:
    done = run_command("check", "--brokers", NOBODY, "--offline", dsn="host=127.0.0.1 port=1 dbname=nowhere")
    assert done.returncode == 0, done.stdout
    assert {line.split()[1].partition(".")[0] for line in done.stdout.splitlines()[:-1]} == {"config"}


def test_neither_server_there_is_two_failures_and_no_password_is_shown() -> None:
    done = run_command("check", "--brokers", NOBODY, dsn="postgresql://relay:tell-nobody@127.0.0.1:1/shop")
    assert done.returncode == 1
    assert re.search(r"^fail  database\.connection +PostgreSQL cannot be reached", done.stdout, re.MULTILINE)
    assert re.search(r"^fail  kafka\.reach +Kafka cannot be reached at 127\.0\.0\.1:1", done.stdout, re.MULTILINE)
    assert re.search(r"^-     slot\.state +not checked: there is no connection", done.stdout, re.MULTILINE)
    assert "tell-nobody" not in done.stdout + done.stderr


def test_without_brokers_it_is_a_usage_error() -> None:
    assert run_command("check").returncode == 2


def test_on_a_terminal_the_marks_have_colours() -> None:
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "cdc_outbox", "check", "--offline", "--brokers", NOBODY]
    with subprocess.Popen(arguments, stdout=theirs, env=environment({"TERM": "xterm"})) as process:
        process.wait(30)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: the other end is closed, and all is read
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert b"\x1b[32mok  \x1b[0m  config.dsn" in shown


# --- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def poor_server(own_postgres: Callable[..., PostgresServer]) -> Iterator[SimpleNamespace]:
    """Everything that a server can be too small for, at once. One slot and one walsender, both taken."""
    server = own_postgres(
        settings={
            "wal_level": "replica",
            "max_replication_slots": "1",
            "max_wal_senders": "1",
            "max_prepared_transactions": "2",
            "max_slot_wal_keep_size": "64MB",
            "wal_sender_timeout": "1s",
        }
    )
    fresh = server.create_database()
    fresh.execute("SELECT pg_create_physical_replication_slot('other')")
    session = ReplicationSession(fresh.dsn, Stop())
    yield SimpleNamespace(database=fresh, session=session)
    session.close()


def test_a_server_with_everything_wrong_has_every_finding(poor_server: SimpleNamespace, kafka: KafkaCluster) -> None:
    fresh = poor_server.database
    with contextlib.closing(fresh.connect(autocommit=False)) as holder:
        holder.execute("CREATE TABLE half_done (); PREPARE TRANSACTION 'order''s two phases'")
    bench = Bench(fresh, kafka)
    found = bench.check()
    found.failed("database.wal-level", "ALTER SYSTEM SET wal_level = 'logical'", "restart")
    found.failed("database.free-slots", "0 of 1", "ALTER SYSTEM SET max_replication_slots = '3'", "restart")
    found.failed("database.free-walsenders", "0 of 1", "ALTER SYSTEM SET max_wal_senders = '3'")
    found.failed("database.replication", "max_wal_senders")
    found.warned("database.wal-limit", "64.0 MiB", "ALTER SYSTEM SET max_slot_wal_keep_size", "pg_reload_conf")
    found.warned("database.timeouts", "wal_sender_timeout is 1 s", "ALTER SYSTEM SET wal_sender_timeout = '60s'")
    found.warned("database.transactions", "order''s two phases", "ROLLBACK PREPARED 'order''s two phases'")
    found.warned("slot.failover", "other", "fail-over.md")
    fresh.execute("ROLLBACK PREPARED 'order''s two phases'")
    bench.check().fine("database.transactions")


@pytest.mark.parametrize(
    ("role", "words"),
    [
        ("rds_superuser", ["rds.logical_replication", "aws rds modify-db-parameter-group"]),
        ("cloudsqlsuperuser", ["cloudsql.logical_decoding=on", "gcloud sql instances patch"]),
        ("azure_pg_admin", ["--name wal_level --value logical", "az postgres flexible-server"]),
        ("supabase_admin", ["Supabase", "not of the pooler"]),
        ("neon_superuser", ["Neon", "Logical Replication, Enable"]),
    ],
)
def test_on_a_managed_server_the_cure_is_that_of_the_service(
    bench: Bench, role: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The services are known by the roles that they make. What wal_level says is made up: no server is started for each."""
    bench.database.execute(f"CREATE ROLE {role}")
    unable = Secret.of(bench.role("NOREPLICATION"))
    monkeypatch.setattr(database_checks.server, "require_logical", _refuse_wal_level)
    found = bench.check(dsn=unable)
    found.failed("database.wal-level", *words)
    grant = "GRANT rds_replication" if role == "rds_superuser" else "GRANT neon" if "neon" in role else "REPLICATION;"
    found.failed("database.replication", grant)


def _refuse_wal_level(_connection: object) -> None:
    raise ConfigurationError("wal_level is replica, so this server cannot stream changes")


def test_a_role_without_replication_gets_the_sql_that_gives_it(bench: Bench) -> None:
    dsn = bench.role("NOREPLICATION")
    [user] = re.findall(r"user=(\w+)", dsn)
    found = bench.check(dsn=Secret.of(dsn))
    found.failed("database.replication", f'ALTER ROLE "{user}" REPLICATION;')
    bench.database.execute(f"ALTER ROLE {user} REPLICATION")
    bench.check(dsn=Secret.of(dsn)).fine("database.replication")


def test_no_limit_on_retained_wal_is_warned_of(bench: Bench) -> None:
    bench.check().warned("database.wal-limit", "is -1", "ALTER SYSTEM SET max_slot_wal_keep_size = '51200MB'")


def test_a_clock_that_is_wrong_is_noticed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_checks, "time", SimpleNamespace(time=lambda: time.time() - 90))
    bench.check().warned("database.clock", "90.", "ahead of", "NTP")


def test_a_slot_cannot_be_made_while_a_transaction_is_open_and_it_is_named(bench: Bench) -> None:
    writer = bench.database.connect(autocommit=False, application_name="nightly-batch")
    writer.execute("SELECT pg_current_xact_id()")
    found = bench.check()
    found.warned("database.transactions", "nightly-batch", "open for 00:00:0", "pg_terminate_backend")
    blind = bench.check(dsn=Secret.of(bench.role()))
    assert "None" not in blind.warned("database.transactions", "nightly-batch").message, (
        "its age is hidden from this role"
    )


def test_a_server_that_is_a_standby_or_has_one_without_our_slot(pair: Pair, kafka: KafkaCluster) -> None:
    bench = Bench(pair.server.create_database(), kafka)
    bench.create_slot()
    command = f"cdc-outbox run --slot {bench.settings.slot} --failover"
    bench.check().warned("slot.failover", "the slot is not synchronized", command, "fail-over.md")
    bench.database.execute("SELECT pg_drop_replication_slot(%s)", [bench.settings.slot])
    bench.database.execute(
        "SELECT pg_create_logical_replication_slot(%s, 'pgoutput', failover => true)", [bench.settings.slot]
    )
    bench.check().warned("slot.failover", "synchronized_standby_slots is empty", "= 'standby'", "fail-over.md")
    pair.hold_back_what_the_standby_lacks()
    held_back = "SELECT current_setting('synchronized_standby_slots')"
    eventually(lambda: bench.database.execute(held_back) == [("standby",)], "the setting is in force")
    bench.check().fine("slot.failover")
    there = bench.database.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0]
    with contextlib.closing(PostgresServer(pair.standby.dsn, pair.standby).connect()) as standby:
        eventually(
            lambda: standby.execute(f"SELECT pg_last_wal_replay_lsn() >= '{there}'").fetchone() == (True,),
            "the standby has replayed it",
        )
    standby_dsn = Secret.of(re.sub(r"port=\d+", f"port={pair.standby.port}", bench.database.dsn))
    bench.check(dsn=standby_dsn).failed("database.primary", "is a standby", "target_session_attrs=read-write")


# --- the table ---------------------------------------------------------------------------------------------------------


def test_a_missing_table(bench: Bench) -> None:
    found = bench.check(tables=(TableName("public", "outbox"), TableName("app", "Events")))
    found.failed("table.exists", 'app."Events" does not exist', "cdc-outbox sql install")
    found.only("table.columns", "ok", "public.outbox")


def test_a_missing_column_and_one_of_a_wrong_kind(bench: Bench) -> None:
    bench.database.execute("ALTER TABLE outbox RENAME COLUMN payload TO body")
    bench.check().failed("table.columns", "has no column payload", "--payload-column", "body")
    bench.check(columns=Columns(payload=("body",))).fine("table.columns")
    bench.check(columns=Columns(payload=("created_at",))).failed(
        "table.columns", "created_at", "cannot be the event's payload", "--payload-column"
    )


def test_a_role_that_may_not_read_the_table_gets_the_grant(bench: Bench) -> None:
    dsn = Secret.of(bench.role())
    bench.check(dsn=dsn).failed("table.select", 'GRANT SELECT ON "public"."outbox"')
    bench.create_slot()
    found = bench.check(dsn=dsn)
    found.warned("table.select", "could not be recovered", "GRANT SELECT")
    found.fine("slot.state")


def test_a_role_that_may_not_prune_is_cured_by_the_grant(bench: Bench) -> None:
    dsn = bench.role()
    assert not bench.check(dsn=Secret.of(dsn)).of("table.prune"), "nobody has asked for it"
    found = bench.check(dsn=Secret.of(dsn), prune_after=DAY)
    bench.database.execute(
        found.failed("table.prune", "needs DELETE on the table, SELECT on it or on xmin, seq").cures[0]
    )
    bench.check(dsn=Secret.of(dsn), prune_after=DAY).fine("table.prune", "table.select")


def test_a_role_that_may_not_drop_days_is_cured_by_the_grant(bench: Bench) -> None:
    bench.database.execute(
        "ALTER TABLE outbox RENAME TO plain; CREATE ROLE shop_owner; GRANT ALL ON SCHEMA public TO shop_owner;"
    )
    bench.database.execute(
        "CREATE TABLE outbox (LIKE plain INCLUDING DEFAULTS) PARTITION BY RANGE (created_at);"
        "ALTER TABLE outbox OWNER TO shop_owner"
    )
    dsn = bench.role()
    [user] = bench.database.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'r\\_%'")[0]
    bench.database.execute(f"GRANT SELECT, DELETE ON outbox TO {user}")
    asked = {"dsn": Secret.of(dsn), "prune_after": DAY}
    bench.check(**asked).warned("table.prune", "belongs to shop_owner", "one by one")
    found = bench.check(**asked, partitions_ahead=7)
    bench.database.execute(found.failed("table.prune", "belongs to shop_owner").cures[0])
    bench.check(**asked, partitions_ahead=7).fine("table.prune")
    bench.check(**asked).fine("table.prune")


def test_a_table_without_the_age_of_its_rows_cannot_be_pruned(bench: Bench) -> None:
    bench.check(prune_after=DAY, partitions_ahead=7).warned("table.prune", "--partitions-ahead does nothing")
    bench.database.execute("ALTER TABLE outbox DROP created_at")
    bench.check(prune_after=DAY).failed("table.prune", "no column created_at", "--timestamp-column")


def test_rows_that_are_older_than_an_unused_slot(bench: Bench) -> None:
    bench.create_slot()
    bench.check().fine("slot.older-rows")
    bench.add()
    bench.check().fine("slot.older-rows")
    bench.database.execute("SELECT pg_drop_replication_slot(%s)", [bench.settings.slot])
    assert not bench.check().of("slot.older-rows"), "a first start sends them"
    bench.create_slot()
    bench.check().warned("slot.older-rows", "are older than slot", "cdc-outbox slot recover")
    bench.check(on_poison="skip").warned("slot.older-rows", "slot recover", "--on-poison skip")
    unread = bench.check(dsn=Secret.of(bench.role())).only("slot.older-rows", "not-checked")
    assert "may not read" in unread.message


PARTITIONED = """
DROP TABLE outbox;
CREATE TABLE outbox (
    id uuid NOT NULL DEFAULT gen_random_uuid(), aggregatetype text, aggregateid text, type text, payload json, seq int NOT NULL
) PARTITION BY RANGE (seq);
CREATE TABLE first PARTITION OF outbox FOR VALUES FROM (0) TO (10);
ALTER PUBLICATION cdc_outbox ADD TABLE outbox
"""

FILL = "INSERT INTO {} (aggregatetype, aggregateid, payload, seq) SELECT 'order', '1', '{{}}', n FROM generate_series({}, {}) n"

ATTACH = "ALTER TABLE outbox ATTACH PARTITION {} FOR VALUES FROM ({}) TO ({})"


def test_rows_that_came_with_a_partition_are_named(bench: Bench) -> None:
    run = bench.database.execute
    run(PARTITIONED)
    run(FILL.format("outbox", 0, 4))
    bench.create_slot()
    bench.check().fine("table.attached")

    run("CREATE TABLE empty (LIKE outbox INCLUDING ALL)")
    run(ATTACH.format("empty", 10, 20))
    run(FILL.format("outbox", 10, 14))
    bench.check().fine("table.attached")

    run("CREATE TABLE filled (LIKE outbox INCLUDING ALL)")
    run(FILL.format("filled", 20, 26))
    run(ATTACH.format("filled", 20, 30))
    run(FILL.format("outbox", 27, 29))
    warned = bench.check().warned("table.attached", "7 rows of public.filled", "cdc-outbox slot recover")
    assert "public.empty" not in warned.message

    run("CREATE TABLE branch (LIKE outbox INCLUDING ALL) PARTITION BY RANGE (seq)")
    run("CREATE TABLE leaf PARTITION OF branch FOR VALUES FROM (30) TO (40)")
    run(FILL.format("branch", 30, 32))
    run(ATTACH.format("branch", 30, 40))
    found = bench.check().of("table.attached")
    assert sorted(each.message.split(" are ")[0] for each in found) == [
        "3 rows of public.leaf",
        "7 rows of public.filled",
    ]

    run("VACUUM (FREEZE) outbox")
    assert len(bench.check().of("table.attached")) == 2, "frozen rows keep the number of their transaction"

    run("DELETE FROM outbox WHERE seq >= 20")
    bench.check().fine("table.attached")
    bench.check(dsn=Secret.of(bench.role())).only("table.attached", "not-checked")


def test_a_writer_whose_orm_would_be_refused(bench: Bench) -> None:
    bench.role()
    [user] = bench.database.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'r\\_%'")[0]
    bench.database.execute(f"GRANT INSERT ON outbox TO {user}")
    cure = bench.check().warned("table.writers", user, "RETURNING").cures[0]
    bench.database.execute(cure)
    bench.check().fine("table.writers")


def test_a_function_that_runs_with_the_rights_of_another_role_than_the_tables_owner(bench: Bench) -> None:
    bench.check().fine("table.function")
    bench.role()
    [user] = bench.database.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'r\\_%'")[0]
    bench.database.execute(f"ALTER TABLE outbox OWNER TO {user}")
    cure = bench.check().warned("table.function", user, "postgres").cures[0]
    bench.database.execute(cure)
    bench.check().fine("table.function")


def test_rows_that_a_policy_hides(bench: Bench) -> None:
    bench.database.execute("ALTER TABLE outbox ENABLE ROW LEVEL SECURITY; GRANT SELECT ON outbox TO PUBLIC")
    dsn = bench.role()
    bench.check(dsn=Secret.of(dsn)).failed("table.select", "row-level security", "BYPASSRLS")
    bench.database.execute("CREATE POLICY everything ON outbox FOR SELECT TO PUBLIC USING (true)")
    finding = bench.check(dsn=Secret.of(dsn)).failed("table.select", "a policy that permits every row does not help")
    bench.database.execute(finding.cures[0].partition(" -- ")[0])
    bench.check(dsn=Secret.of(dsn)).fine("table.select")


def test_a_fault_of_many_topics_is_one_line_whose_cure_makes_them_all(
    bench: Bench, fragile_kafka: KafkaCluster
) -> None:
    kinds = ("bill", "order", "parcel")
    for kind in kinds:
        bench.add(kind)
    names = " ".join(f"{bench.prefix}{kind}" for kind in kinds)
    finding = bench.check(brokers=fragile_kafka.brokers).failed("kafka.topic", "3 topics: topic … does not exist")
    assert finding.cures[0].startswith(f"for topic in {names}; do kafka-topics.sh ")
    assert finding.cures[0].endswith("; done")


def test_without_a_dsn_the_line_names_what_was_tried() -> None:
    libpq = {"PGHOST": "127.0.0.1", "PGPORT": "1", "PGDATABASE": "shop", "PGUSER": "relay", "PGPASSWORD": "s3cr3t-word"}
    shown = run_command("check", "--brokers", NOBODY, env=libpq).stdout

    assert "libpq's environment and defaults count: host 127.0.0.1, port 1, dbname shop, user relay)" in shown
    assert "s3cr3t-word" not in shown


def test_rows_that_cannot_become_a_record(bench: Bench) -> None:
    bench.add("no topic at all!")
    bench.check().warned("table.events", "1 of the newest 1 rows", "is no topic")


# --- the publication ---------------------------------------------------------------------------------------------------


def test_a_missing_publication(bench: Bench) -> None:
    bench.database.execute("DROP PUBLICATION cdc_outbox")
    bench.check().failed("publication.table", "does not exist", "CREATE PUBLICATION")


@pytest.mark.parametrize(
    ("fault", "cure"),
    [
        ("SET (publish = 'update')", "SET (publish = 'insert')"),
        ("DROP TABLE outbox", 'ADD TABLE "public"."outbox"'),
        pytest.param(
            "SET TABLE outbox WHERE (aggregatetype = 'order')",
            'SET TABLE "public"."outbox"',
            marks=pytest.mark.since_postgres(15),
        ),
    ],
    ids=["no inserts", "table not in it", "row filter"],
)
def test_a_publication_that_does_not_send_every_row(bench: Bench, fault: str, cure: str) -> None:
    bench.database.execute(f"ALTER PUBLICATION cdc_outbox {fault}")
    bench.check().failed("publication.table", f'ALTER PUBLICATION "cdc_outbox" {cure}')
    bench.database.execute(f"ALTER PUBLICATION cdc_outbox {cure}")
    bench.check().fine("publication.table")


@pytest.mark.since_postgres(15)
def test_a_column_list_that_hides_what_is_needed_and_a_cure_that_keeps_the_other_tables(bench: Bench) -> None:
    bench.database.execute("CREATE TABLE other (a int PRIMARY KEY, b int)")
    bench.database.execute(
        "ALTER PUBLICATION cdc_outbox SET TABLE outbox (seq, id, aggregatetype, aggregateid, type), other (a) WHERE (a > 1)"
    )
    found = bench.check()
    found.warned("publication.others", "public.other")
    cure = found.failed("publication.columns", "leaves out columns of public.outbox: payload, headers").cures[0]
    bench.database.execute(cure.partition(". ")[0])
    bench.check().fine("publication.table", "publication.columns")
    [(columns, condition)] = bench.database.execute(
        "SELECT attnames::text[], rowfilter FROM pg_publication_tables WHERE tablename = 'other'"
    )
    assert (columns, condition) == (["a"], "(a > 1)")


def test_a_partitioned_table_that_is_published_by_its_partitions(bench: Bench) -> None:
    bench.database.execute(
        "DROP TABLE outbox; CREATE TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json)"
        " PARTITION BY LIST (aggregatetype); CREATE TABLE outbox_all PARTITION OF outbox DEFAULT;"
        "ALTER PUBLICATION cdc_outbox ADD TABLE outbox"
    )
    bench.database.execute("ALTER PUBLICATION cdc_outbox SET (publish_via_partition_root = false)")
    cure = 'ALTER PUBLICATION "cdc_outbox" SET (publish_via_partition_root = true)'
    bench.check().failed("publication.table", "is partitioned", cure)
    bench.database.execute(cure)
    bench.check().fine("publication.table")


# --- the slot ----------------------------------------------------------------------------------------------------------


def test_a_slot_of_another_plugin(bench: Bench) -> None:
    bench.create_slot("test_decoding")
    bench.check().failed("slot.state", "of plugin test_decoding", "--slot")


def test_a_slot_of_another_database(bench: Bench, postgres_server: PostgresServer) -> None:
    elsewhere = postgres_server.create_database()
    try:
        elsewhere.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [bench.settings.slot])
        bench.check().failed("slot.state", f"belongs to database {elsewhere.name}", "--dsn")
    finally:
        elsewhere.drop()


def test_no_slot_and_none_may_be_created(bench: Bench) -> None:
    bench.check(create_slot=False).failed("slot.state", "--no-create-slot", "cdc-outbox slot create")
    bench.check(snapshot=False).warned("slot.state", "--no-snapshot")


def test_a_lost_slot_fails_and_one_that_keeps_much_wal_warns(
    own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_postgres(
        settings={
            "max_slot_wal_keep_size": "1MB",
            "wal_keep_size": "0",
            "min_wal_size": "32MB",
            "max_wal_size": "32MB",
        }
    )
    bench = Bench(server.create_database(), kafka)
    bench.create_slot()
    monkeypatch.setattr("cdc_outbox.check.source.MUCH_WAL_BYTES", 1)
    bench.check().warned("slot.wal", "no relay streams from it", "cdc-outbox run")

    def state() -> object:
        bench.database.execute("SELECT pg_logical_emit_message(false, 'filler', 'x'), pg_switch_wal()")
        return bench.database.execute("SELECT wal_status FROM pg_replication_slots")[0][0]

    eventually(lambda: state() == "unreserved", "the slot is in danger")
    bench.check().failed("slot.wal", "beyond max_slot_wal_keep_size", "ALTER SYSTEM SET max_slot_wal_keep_size")
    bench.database.execute("CHECKPOINT")
    eventually(lambda: state() == "lost", "the slot is lost")
    bench.check().failed("slot.state", "is lost", "cdc-outbox slot recover")
    bench.check(on_slot_lost="recover").warned("slot.state", "the next start replaces it")
    shown = run_command("slot", "status", "--slot", bench.settings.slot, dsn=bench.database.dsn).stdout
    assert "WAL status      lost (it can never be streamed from again)" in shown
    assert re.search(r"^restart +-, no WAL is kept for it$", shown, re.MULTILINE)


def test_a_slot_in_use_is_fine_and_so_is_a_walsender_less(bench: Bench) -> None:
    from cdc_outbox.postgres.stream import ReplicationStream

    bench.create_slot()
    stop = Stop()
    stream = ReplicationStream.start(
        ReplicationSession(bench.database.dsn, stop), stop, slot=bench.settings.slot, publication="cdc_outbox"
    )
    try:
        bench.check().only("slot.state", "ok", "in use: pid")
        bench.check(on_slot_busy="exit").warned("slot.state", "is in use by pid", "ends with 75", "stands by")
    finally:
        stream.close()


@pytest.mark.since_postgres(15)
def test_slots_of_another_number_of_shards_are_refused_until_they_have_ended(bench: Bench) -> None:
    from cdc_outbox.postgres.stream import ReplicationStream

    apply_install(bench.database.dsn, InstallOptions(shards=2), lambda _warning: None)
    base, shard = bench.settings.slot, Shard(1, 2)
    own = shard.name(base)
    sharded = {"slot": own, "shard": shard, "publication": shard.name("cdc_outbox")}
    bench.check(**sharded).fine("slot.resharding")
    bench.check(slot=f"{base}_other").fine("slot.resharding")

    bench.create_slot()
    bench.check().fine("slot.resharding")
    command = f"cdc-outbox slot create --publication cdc_outbox_1_of_2 --slot {own}"
    bench.check(**sharded).failed("slot.resharding", f"there is no slot {own}", command)
    assert not bench.check(source="message", tables=()).of("slot.resharding")[0].cures

    stop = Stop()
    stream = ReplicationStream.start(
        ReplicationSession(bench.database.dsn, stop), stop, slot=base, publication="cdc_outbox"
    )
    try:
        bench.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [own])
        bench.check(**sharded).failed("slot.resharding", f"a relay streams from {base} (pid", "exit code 0")
    finally:
        stream.close()
    eventually(lambda: not bench.active(base), "the server has noticed the end")
    bench.check(**sharded).failed("slot.resharding", "may not be sent", f"start the relay of {base} again")
    bench.database.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [base])
    bench.check(**sharded).only("slot.resharding", "ok", f"{base} is stopped, and has confirmed everything")

    stream = ReplicationStream.start(
        ReplicationSession(bench.database.dsn, stop), stop, slot=own, publication="cdc_outbox_1_of_2"
    )
    try:
        bench.check(**sharded).warned("slot.resharding", "keeps WAL", f"cdc-outbox slot drop --slot {base}")
        bench.check().failed("slot.resharding", f"a relay streams from {own}")
    finally:
        stream.close()


def test_other_unused_slots_are_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    other = f"forgotten_{secrets.token_hex(4)}"
    bench.database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other])
    monkeypatch.setattr(database_checks, "MUCH_WAL_BYTES", 0)
    bench.check().warned("database.other-slots", other, f"pg_drop_replication_slot('{other}')")


# --- PostgreSQL over TLS -----------------------------------------------------------------------------------------------


def test_tls_without_a_ca_and_with_a_wrong_one(tls_outbox: TlsOutbox, stranger: Authority, tmp_path: Any) -> None:
    def check(**parts: Any) -> Checked:
        settings = Settings(brokers=NOBODY, dsn=Secret.of(tls_outbox.dsn(**parts)))
        return Checked(run_check(settings, Stop()))

    check().fine("config.postgres-tls", "database.connection")
    none = check(sslrootcert=tmp_path / "none.pem")
    none.failed("config.postgres-tls", "no CA to verify with", "none.pem", "sslrootcert=system")
    none.failed("database.connection", "there is no CA", "sslrootcert=FILE")
    wrong = check(sslrootcert=stranger.write(tmp_path / "stranger.pem"))
    wrong.failed("database.connection", "does not verify", "openssl s_client")
    check(password="not-the-right-word").failed("database.connection", "password authentication failed")


# --- Kafka -------------------------------------------------------------------------------------------------------------


def test_a_broker_that_is_down(bench: Bench) -> None:
    found = bench.check(brokers=NOBODY)
    found.failed("kafka.reach", "cannot be reached", "advertised.listeners")
    found.only("kafka.topic", "not-checked", "Kafka cannot be reached")


def test_a_topic_that_is_missing_where_brokers_make_none(
    database: Database, own_kafka: Callable[..., KafkaCluster]
) -> None:
    bench = Bench(database, own_kafka(properties={"auto.create.topics.enable": "false"}))
    bench.add("order")
    found = bench.check()
    topic = f"{bench.prefix}order"
    found.failed("kafka.topic", topic, "auto.create.topics.enable=false", f"--create --topic {topic} --partitions")
    assert topic not in bench.kafka.topics(), "looking made it"


def test_a_topic_that_the_brokers_would_make_is_warned_of_and_not_made(bench: Bench) -> None:
    bench.add("order")
    bench.check().warned("kafka.topic", f"{bench.prefix}order does not exist", "6 partitions", "kafka-topics.sh")
    assert f"{bench.prefix}order" not in bench.kafka.topics()


def test_a_payload_that_is_larger_than_its_topic_allows(bench: Bench) -> None:
    topic = bench.kafka.create_topic(f"{bench.prefix}order", config={"max.message.bytes": "20000"})
    bench.add(payload=json.dumps("x" * 50_000))
    found = bench.check()
    found.failed("kafka.size", "48.9 KiB", topic, "--add-config max.message.bytes=")
    bench.database.execute("DELETE FROM outbox")
    bench.add()
    bench.check().warned("kafka.size", "19.5 KiB", "-X message.max.bytes=20000")


def test_a_payload_that_is_larger_than_our_own_limit(bench: Bench) -> None:
    bench.kafka.create_topic(f"{bench.prefix}order")
    bench.add(payload=json.dumps("x" * 1_200_000))
    bench.check().failed("kafka.size", "message.max.bytes here is 976.6 KiB", "-X message.max.bytes=")


def test_a_topic_with_one_copy_is_warned_of(bench: Bench) -> None:
    bench.kafka.create_topic(f"{bench.prefix}order")
    bench.add("order")
    bench.check().warned("kafka.replication", f"{bench.prefix}order has 1 copy", "min.insync.replicas=2")


def test_sasl_that_is_refused_and_tls_without_its_ca(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    def check(listener: str, **properties: str) -> Checked:
        settings = Settings(
            brokers=secure_kafka_server.address(listener),
            dsn=Secret.of(secured.database.dsn),
            kafka=lambda: {name.replace("_", "."): value for name, value in properties.items()},
        )
        return Checked(run_check(settings, Stop()))

    ca = str(secure_kafka_server.ca_path)
    check("TLS", security_protocol="ssl", ssl_ca_location=ca).fine("config.kafka-tls", "kafka.reach")
    without = check("TLS", security_protocol="ssl")
    without.failed("kafka.reach", "does not verify", "ssl.ca.location=FILE")
    login = {"security_protocol": "sasl_ssl", "sasl_mechanism": "SCRAM-SHA-512", "sasl_username": kafka_side.USER}
    wrong = check("SCRAM", **login, ssl_ca_location=ca, sasl_password="not-the-right-word")
    wrong.failed("kafka.reach", "Kafka refuses the login", "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE")


def test_a_topic_without_write_permission(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    topic = secured.kafka.create_topic(f"{secured.prefix}order")
    seen = secured.kafka.create_topic(f"{secured.prefix}seen")
    ours = secured.kafka.create_topic(f"{secured.prefix}ours")
    secure_kafka_server.grant(seen, kafka_side.AclOperation.DESCRIBE)
    secure_kafka_server.grant(ours)
    for kind in ("order", "seen", "ours"):
        secured.add(aggregatetype=kind)
    properties = {
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-512",
        "sasl.username": kafka_side.USER,
        "sasl.password": kafka_side.SCRAM_PASSWORD,
        "ssl.ca.location": str(secure_kafka_server.ca_path),
    }
    settings = Settings(
        brokers=secure_kafka_server.address("SCRAM"),
        dsn=Secret.of(secured.database.dsn),
        kafka=lambda: properties,
        topic=secured.prefix + "{aggregatetype}",
    )
    found = Checked(run_check(settings, Stop()))
    refused = [finding for finding in found.of("kafka.write") if finding.status == "fail"]
    assert len(refused) == 2, found.shown
    for name, finding in zip((topic, seen), refused, strict=True):
        assert f"--producer --topic {name}" in finding.cures[0]
    found.only("kafka.write", "ok", ours)
