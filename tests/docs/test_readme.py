"""README.md: its commands are run, its samples compared with what comes out, its tables with the program."""

from __future__ import annotations

import re
import secrets
import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_roles
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.observe.http import Views
from tests.docs.pages import ROOT, read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

README: Final = "README.md"
INSERT: Final = "BEGIN;"
RUN: Final = 'cdc-outbox run --dsn "$DSN" --brokers "$BROKERS"'
RECORD: Final = "id:01a207b6-8329-7897-99bd-428955e6b3ed,type:OrderPaid"
INSTALL: Final = 'cdc-outbox sql install | psql -v ON_ERROR_STOP=1 "$DSN"'
RECORD_PAGE: Final = "docs/reference/record.md"
CONSOLE: Final = "kafka-console-consumer.sh"
TABLE: Final = "CREATE TABLE outbox ("
START: Final = "export CDC_OUTBOX_DSN_FILE=/run/secrets/dsn"
TOPIC: Final = "outbox.event.order"
ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def beginning_with(words: str) -> str:
    """The text of the README's block that begins with these words."""
    (found,) = [each for each in read(README).blocks if each.first_line.startswith(words)]
    return found.text


@pytest.fixture
def installed(database: Database, shell: Shell) -> Database:
    """Installed as the README does it, with a business table beside the outbox."""
    shell(beginning_with(INSTALL), DSN=database.dsn, PGOPTIONS="-c client_min_messages=warning")
    database.execute("CREATE TABLE orders (id bigint PRIMARY KEY, status text)")
    database.execute("INSERT INTO orders VALUES (42, 'placed')")
    return database


# --- the three snippets ------------------------------------------------------------------------------------------------


def test_the_three_snippets_in_order_end_with_the_record_that_is_shown(
    installed: Database, kafka: KafkaCluster, shell: Shell
) -> None:
    if kafka.server is None:
        pytest.skip("Kafka's console consumer is run from the jars of a broker of ours")
    before = len(kafka.consume(TOPIC, 0))
    until_caught_up = f"{beginning_with(RUN).strip()} --until caught-up"
    servers = {"DSN": installed.dsn, "BROKERS": kafka.brokers}
    shell(until_caught_up, **servers)  # the relay runs beside the service, so its slot is there before the first event

    role = f"my_service_{secrets.token_hex(4)}"
    apply_roles(installed.dsn, InstallOptions(), pytest.fail)
    installed.execute(f"CREATE ROLE {role} IN ROLE cdc_outbox_writer; GRANT SELECT, UPDATE ON orders TO {role}")
    as_service = f"PGOPTIONS='-c role={role}' psql"
    shell(f'{as_service} -v ON_ERROR_STOP=1 "$DSN" <<"SQL"\n' + beginning_with(INSERT) + "SQL", **servers)
    shell(until_caught_up, **servers)

    (event_id,) = installed.execute("SELECT id::text FROM outbox")[0]
    console = shlex.split(beginning_with(CONSOLE).replace("\\\n", " "))
    assert console[:6] == [CONSOLE, "--bootstrap-server", "$BROKERS", "--topic", TOPIC, "--from-beginning"]
    printed = kafka.server.console_consumer(TOPIC, *console[6:], max_messages=before + 1).splitlines()
    assert ID.sub(event_id, beginning_with(RECORD).rstrip("\n")) in printed
    assert installed.execute("SELECT status FROM orders WHERE id = 42") == [("paid",)]


def test_the_record_is_as_the_readme_shows_it(installed: Database, kafka: KafkaCluster, shell: Shell) -> None:
    before = len(kafka.consume(TOPIC, 0))
    installed.execute(beginning_with(INSERT))
    shell(f"{beginning_with(RUN).strip()} --until caught-up", DSN=installed.dsn, BROKERS=kafka.brokers)

    (event_id,) = installed.execute("SELECT id::text FROM outbox")[0]
    records = kafka.consume(TOPIC, before + 1)
    (record,) = [each for each in records if each.header("id") == event_id.encode()]
    assert (record.key, record.value) == (b"42", b'{"order": 42, "total": 99.5}')
    assert f"The topic is `{record.topic}`" in read(README).prose


# --- set it up ---------------------------------------------------------------------------------------------------------


def test_install_and_roles_go_through_psql_without_an_error(installed: Database) -> None:
    roles = {name for (name,) in installed.execute("SELECT rolname FROM pg_roles")}
    assert {"cdc_outbox_writer", "cdc_outbox_relay"} <= roles
    assert installed.execute("SELECT to_regclass('outbox') IS NOT NULL") == [(True,)]


COLUMNS: Final = """
SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity::text,
    pg_get_expr(d.adbin, d.adrelid),
    EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey))
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'outbox'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

PUBLICATION: Final = """
SELECT pubname::text, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot,
    (SELECT array_agg(schemaname || '.' || tablename) FROM pg_publication_tables t WHERE t.pubname = p.pubname)
FROM pg_publication p
"""


def test_the_sql_that_is_shown_makes_what_install_makes(installed: Database, database: Database, shell: Shell) -> None:
    columns, publications = installed.execute(COLUMNS), installed.execute(PUBLICATION)
    installed.execute("DROP PUBLICATION cdc_outbox; DROP TABLE outbox CASCADE")

    (shown,) = [each for each in read(RECORD_PAGE).blocks if each.first_line.startswith(TABLE)]
    installed.execute(shown.text)

    made = installed.execute(COLUMNS)
    if database.server.version >= 180_000:  # as the comment in the block says
        made = [(*row[:4], "uuidv7()", row[5]) if row[0] == "id" else row for row in made]
    assert made == columns
    assert installed.execute(PUBLICATION) == publications


def test_the_roles_have_the_privileges_of_their_table(installed: Database) -> None:
    def allowed(expression: str) -> bool:
        return bool(installed.execute(f"SELECT {expression}")[0][0])

    functions = (
        "(SELECT count(*) FROM pg_proc WHERE proname = 'outbox_emit' AND prosecdef"
        " AND has_function_privilege('{}', oid, 'EXECUTE'))"
    )
    everything = "SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER"
    assert allowed(functions.format("cdc_outbox_writer") + " = 1")
    assert not allowed(f"has_table_privilege('cdc_outbox_writer', 'outbox', '{everything}')")
    assert allowed("rolcanlogin AND rolreplication FROM pg_roles WHERE rolname = 'cdc_outbox_relay'")
    assert allowed("has_table_privilege('cdc_outbox_relay', 'outbox', 'SELECT')")
    assert not allowed("has_table_privilege('cdc_outbox_relay', 'outbox', 'INSERT, UPDATE, DELETE')")
    installed.execute("CREATE ROLE my_service; GRANT cdc_outbox_writer TO my_service")


def test_the_emit_function_has_the_arguments_that_are_shown(installed: Database) -> None:
    shown = re.search(r"`outbox_emit\(([a-z, ]+)\)`", read(README).prose)
    assert shown is not None
    names = installed.execute("SELECT proargnames FROM pg_proc WHERE proname = 'outbox_emit'")[0][0]
    assert shown[1].split(", ") == names


def test_the_start_with_a_secret_in_a_file_relays(
    installed: Database, kafka: KafkaCluster, shell: Shell, tmp_path: Path
) -> None:
    secret = tmp_path / "dsn"
    secret.write_text(installed.dsn)
    installed.execute(beginning_with(INSERT))
    start = beginning_with(START).replace("/run/secrets/dsn", str(secret)).strip()

    done = shell(f"{start} --until caught-up", BROKERS=kafka.brokers)

    assert '"event":"streaming"' in done.stderr
    assert installed.execute("SELECT plugin FROM pg_replication_slots WHERE slot_name = 'cdc_outbox'") == [
        ("pgoutput",)
    ]


# --- the README against the program ------------------------------------------------------------------------------------


def test_the_http_server_has_the_paths_and_the_address_that_are_shown() -> None:
    nothing: Any = None
    paths = set(Views(nothing, nothing, nothing, nothing)._paths)
    shown = set(re.findall(r"`(/(?:livez|readyz|metrics|status))", read(README).prose))
    assert shown == paths - {"/healthz", "/", "/page.json"}, "the page is linked to by its name"
    assert f"`http://{OPTIONS['http'].default}`" in read(README).prose


def test_the_servers_that_are_supported_are_those_that_the_sql_is_written_for() -> None:
    assert "PostgreSQL 14 to 18" in read(README).prose
    assert "PostgreSQL 14 to 18" in (ROOT / "sql" / "outbox.sql").read_text(encoding="utf-8")
