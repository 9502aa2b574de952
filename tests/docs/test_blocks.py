"""Every fenced block of every document is run by a test, parsed here, or listed below with a reason."""

from __future__ import annotations

import ast
import configparser
import json
import re
import subprocess
import tomllib
from typing import TYPE_CHECKING, Final

import psycopg
import pytest
import yaml

from cdc_outbox.counters import Counters
from cdc_outbox.observe import Versions
from cdc_outbox.observe.metrics import build_registry
from tests.docs.pages import PAGES, ROOT, Block, all_blocks
from tests.docs.test_migration_pages import BLOCKS as MIGRATION_BLOCKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.postgres import Database

README: Final = "tests/docs/test_readme.py"
OPERATIONS: Final = "tests/docs/test_operations_pages.py"
RECOVER: Final = "tests/docs/test_recover_a_lost_slot.py"
TROUBLESHOOTING: Final = "tests/docs/test_troubleshooting.py"
SECURE: Final = "tests/docs/test_secure.py"
REPLAY: Final = "tests/docs/test_replay.py"
PRUNE: Final = "tests/docs/test_prune.py"
FAIL_OVER: Final = "tests/docs/test_fail_over.py"
STATUS: Final = "tests/end_to_end/test_status_command.py"
APPLICATION: Final = "tests/docs/test_application_pages.py"
CHECK: Final = "tests/docs/test_check_page.py"
RECORD: Final = "tests/docs/test_record_page.py"
WITHOUT_A_TABLE: Final = "tests/docs/test_outbox_without_a_table.py"

PLUGIN: Final = "tests/integration/app/test_pytest_plugin.py"

TUTORIAL: Final = "tests/docs/test_tutorial.py"

APPLICATION_PAGES: Final = {
    "emit-from-psycopg": (
        "test_the_page_for_psycopg",
        ["cdc-outbox sql install", "GRANT cdc_outbox_writer", "import os", "import asyncio", "from unittest.mock"],
    ),
    "emit-from-asyncpg": ("test_the_page_for_asyncpg", ["import asyncio", "from unittest.mock"]),
    "emit-from-sqlalchemy": (
        "test_the_page_for_sqlalchemy",
        [
            "cdc-outbox sql install",
            "from pathlib",
            "from sqlalchemy.orm",
            "import os",
            "import asyncio",
            "from cdc_outbox.app",
        ],
    ),
    "emit-from-django": (
        "test_the_page_for_django",
        ["# settings.py", "python manage.py migrate", "# shop/orders.py", "# shop/tests.py", "python manage.py check"],
    ),
    "register-events": (
        "test_the_page_on_registered_events",
        [
            "# shop/events.py",
            "import os",
            "# tests/test_events.py",
            "cdc-outbox-app schema",
            "from cdc_outbox.app import emit_many",
            "from cdc_outbox.app import Outbox",
        ],
    ),
    "consume-once": (
        "test_the_page_on_consuming_once_but_for_its_loop",
        [
            "cdc-outbox sql consumer",
            "GRANT USAGE",
            "from cdc_outbox.app import once",
            "SELECT inbox_claim",
            "DELETE FROM inbox",
        ],
    ),
}
"""Below docs/how-to, for application teams: the test that follows the page, and how its blocks begin."""

SHARDS: Final = "tests/end_to_end/test_shards.py"

RUN_BY: Final[dict[tuple[str, str], tuple[str, str]]] = {
    ("docs/scaling.md", 'cdc-outbox sql install --shards 2 | psql -v ON_ERROR_STOP=1 "$DSN"     #'): (
        SHARDS,
        "test_two_shards_send_all_there_was_and_all_that_comes_in_order_of_each_key_though_one_is_killed",
    ),
    ("docs/scaling.md", 'cdc-outbox sql install --shards 2 | psql -v ON_ERROR_STOP=1 "$DSN"\ncdc-outbox slot create'): (
        SHARDS,
        "test_from_one_relay_to_two_nothing_is_lost_and_each_key_keeps_its_order",
    ),
    ("README.md", "BEGIN;"): (README, "test_the_three_snippets_in_order_end_with_the_record_that_is_shown"),
    ("README.md", 'cdc-outbox run --dsn "$DSN" --brokers "$BROKERS"'): (
        README,
        "test_the_three_snippets_in_order_end_with_the_record_that_is_shown",
    ),
    ("README.md", "id:01a207b6-8329-7897-99bd-428955e6b3ed,type:OrderPaid\t42\t{"): (
        README,
        "test_the_three_snippets_in_order_end_with_the_record_that_is_shown",
    ),
    ("README.md", "kafka-console-consumer.sh"): (
        README,
        "test_the_three_snippets_in_order_end_with_the_record_that_is_shown",
    ),
    ("README.md", 'cdc-outbox sql install | psql -v ON_ERROR_STOP=1 "$DSN"'): (
        README,
        "test_install_and_roles_go_through_psql_without_an_error",
    ),
    ("docs/reference/record.md", "CREATE TABLE outbox ("): (
        README,
        "test_the_sql_that_is_shown_makes_what_install_makes",
    ),
    ("docs/runbook.md", "SELECT pid, usename"): (OPERATIONS, "test_the_queries_run"),
    ("docs/how-to/size-wal.md", "SELECT now()"): (OPERATIONS, "test_the_queries_run"),
    ("README.md", "export CDC_OUTBOX_DSN_FILE="): (README, "test_the_start_with_a_secret_in_a_file_relays"),
    ("docs/how-to/recover-a-lost-slot.md", 'cdc-outbox slot recover --brokers "$BROKERS" --yes'): (
        RECOVER,
        "test_a_slot_that_fell_too_far_behind_is_recovered_by_hand",
    ),
    ("docs/how-to/recover-a-lost-slot.md", 'cdc-outbox slot recover --brokers "$BROKERS" --since 12h --yes'): (
        RECOVER,
        "test_with_since_older_rows_are_left_out",
    ),
    ("docs/how-to/recover-a-lost-slot.md", "slot            cdc_outbox"): (
        RECOVER,
        "test_a_slot_that_fell_too_far_behind_is_recovered_by_hand",
    ),
    ("docs/how-to/recover-a-lost-slot.md", "SELECT count(*) AS rows_to_send"): (
        RECOVER,
        "test_a_slot_that_fell_too_far_behind_is_recovered_by_hand",
    ),
    ("docs/how-to/recover-a-lost-slot.md", 'cdc-outbox run --brokers "$BROKERS" --on-slot-lost recover'): (
        RECOVER,
        "test_with_on_slot_lost_recover_the_relay_recovers_by_itself",
    ),
    ("docs/how-to/recover-a-lost-slot.md", "SELECT pg_size_pretty(wal_bytes"): (
        RECOVER,
        "test_its_other_queries_run_and_find_an_unused_slot",
    ),
    ("docs/how-to/recover-a-lost-slot.md", "SELECT slot_name, wal_status"): (
        RECOVER,
        "test_its_other_queries_run_and_find_an_unused_slot",
    ),
    **{
        ("docs/how-to/secure.md", beginning): (SECURE, test)
        for test, beginnings in {
            "test_the_page_in_order_ends_with_records_over_tls_of_a_relay_that_logs_in": [
                "host=db.example.internal",
                "export CDC_OUTBOX_DSN_FILE",
                "cdc-outbox sql roles | psql -v ON_ERROR_STOP=1",
                "hostssl  shop  cdc_outbox_relay  10.1.2.0/24  scram-sha-256",
                "hostssl  shop  cdc_outbox_relay  10.1.2.0/24  cert",
                "SELECT application_name, ssl",
                "kafka-configs.sh",
            ],
            "test_openssl_prints_the_reason_and_the_table_has_it": ["openssl s_client"],
        }.items()
        for beginning in beginnings
    },
    **{
        ("docs/how-to/harden.md", beginning): (SECURE, "test_a_table_of_another_role_is_installed_as_that_role")
        for beginning in ["cdc-outbox sql install | PGOPTIONS", 'psql "$ADMIN_DSN"']
    },
    **{
        ("docs/how-to/deploy-with-helm.md", beginning): ("tests/docs/test_deploy_with_helm.py", test)
        for test, beginnings in {
            "test_the_values_are_taken_and_the_objects_that_the_page_names_are_made": ["helm lint"],
            "test_from_two_shards_to_four": ["cdc-outbox sql install --shards 4", "for shard in 0 1; do"],
        }.items()
        for beginning in beginnings
    },
    **{
        ("docs/how-to/fail-over.md", beginning): (FAIL_OVER, "test_the_page_in_order")
        for beginning in [
            "SELECT pg_create_physical_replication_slot",
            "wal_level = logical",
            "export CDC_OUTBOX_DSN",
            "SELECT slot_name, synced",
            "pg_ctl stop",
            "SELECT pg_drop_replication_slot",
            "ALTER SYSTEM SET synchronized_standby_slots",
        ]
    },
    **{
        ("docs/how-to/prune.md", beginning): (PRUNE, "test_the_page_in_order")
        for beginning in ["cdc-outbox prune --older-than 7d\n", "public.outbox 48211", "GRANT cdc_outbox_pruner"]
    },
    ("docs/how-to/monitor.md", "$ cdc-outbox status"): (
        STATUS,
        "test_beside_a_relay_its_own_view_is_shown_and_watched",
    ),
    ("docs/how-to/monitor.md", "cdc-outbox status --http off"): (
        STATUS,
        "test_without_a_relay_the_database_has_the_cost_of_the_slot_and_limits_are_judged",
    ),
    **{
        ("docs/how-to/prune.md", beginning): (PRUNE, "test_whole_days_at_once")
        for beginning in ["cdc-outbox sql install --partitioned", "cdc-outbox prune --older-than 7d --partitions-ahead"]
    },
    ("docs/how-to/delete-at-once.md", "cdc-outbox sql install --delete-after-insert"): (PRUNE, "test_no_rows_at_all"),
    ("docs/how-to/delete-at-once.md", "CREATE FUNCTION outbox_delete_at_once"): (PRUNE, "test_no_rows_at_all_by_hand"),
    ("docs/how-to/delete-at-once.md", "BEGIN;"): (PRUNE, "test_no_rows_at_all_by_hand"),
    ("docs/how-to/replay.md", "cdc-outbox replay --since"): (REPLAY, "test_the_page_in_order"),
    ("docs/how-to/replay.md", "public.outbox 2"): (REPLAY, "test_the_page_in_order"),
    ("docs/how-to/replay.md", "cdc-outbox replay --id"): (REPLAY, "test_the_page_in_order"),
    ("docs/how-to/prune.md", 'cdc-outbox run --brokers "$BROKERS" --prune-after 7d'): (PRUNE, "test_the_relay_prunes"),
    ("docs/how-to/check.md", 'cdc-outbox check --brokers "$BROKERS"\n'): (CHECK, "test_the_page_in_order"),
    (
        "docs/how-to/check.md",
        "cdc-outbox emit --aggregate-type smoke-test --aggregate-id 1 --type SmokeTest --payload '{}' --wait 10s",
    ): (CHECK, "test_the_page_in_order"),
    ("docs/how-to/check.md", "ok    config.postgres-tls"): (CHECK, "test_the_page_in_order"),
    ("docs/how-to/check.md", "18d1a1a0-5b0c-4a6c-a0f5-f4b9d6a0c3de"): (CHECK, "test_the_page_in_order"),
    **{
        ("docs/how-to/outbox-without-a-table.md", beginning): (WITHOUT_A_TABLE, "test_the_page_in_order")
        for beginning in ["cdc-outbox sql install", "cdc-outbox run", "BEGIN;", "SELECT pg_logical_emit_message"]
    },
    **{
        ("docs/how-to/trace-events.md", beginning): (
            "tests/docs/test_trace_events.py",
            "test_the_consumers_span_is_a_child_of_the_one_in_which_the_event_was_written",
        )
        for beginning in ["cdc-outbox run", "import os", "from opentelemetry import"]
    },
    ("docs/reference/record.md", "cdc-outbox run"): (RECORD, "test_the_command_for_cloudevents_runs"),
    ("docs/troubleshooting.md", "SELECT slot_name"): (TROUBLESHOOTING, "test_its_queries_run"),
    ("docs/troubleshooting.md", "SELECT pid"): (TROUBLESHOOTING, "test_its_queries_run"),
    **{
        (f"docs/how-to/{page}.md", beginning): (APPLICATION, test)
        for page, (test, beginnings) in APPLICATION_PAGES.items()
        for beginning in beginnings
    },
    ("docs/tutorial.md", "export DSN="): (TUTORIAL, "test_the_addresses_of_the_servers_are_those_of_compose"),
    **{
        ("docs/tutorial.md", beginning): (TUTORIAL, "test_the_tutorial_from_top_to_bottom")
        for beginning in [
            'psql "$DSN" -c \'CREATE TABLE customers',
            "cdc-outbox sql install --apply",
            "psql -v ON_ERROR_STOP=1 \"$DSN\" <<'SQL'",
            "cdc-outbox run",
            "# shop.py",
            "python shop.py",
            'psql "$DSN" -c \'CREATE TABLE points',
            "# rewards.py",
            "python rewards.py",
            "Ada gets",
            "GROUP=again",
            "Ada was here",
            'psql "$DSN" --no-align',
            "1|100",
            "cdc-outbox sql uninstall",
        ]
    },
    **{
        (page, beginning): (
            "tests/docs/test_migration_pages.py",
            {
                "docs/how-to/migrate-from-debezium.md": "test_a_slot_and_a_publication_of_debezium_are_taken_over",
                "docs/how-to/come-from-a-polling-outbox.md": "test_a_table_that_was_polled_is_relayed_as_it_is",
                "docs/how-to/emit-from-a-trigger.md": (
                    "test_a_trigger_announces_what_happens_to_a_table_and_a_rollback_takes_it_back"
                ),
            }[page],
        )
        for page, beginnings in MIGRATION_BLOCKS.items()
        for beginning in beginnings
    },
    **{
        (f"docs/how-to/emit-from-{languages}-languages.md", beginning): ("tests/examples/test_languages.py", test)
        for languages, test, beginnings in (
            (
                "other",
                "test_the_page_shows_what_is_run",
                ["func register", "async function register", "    static void register"],
            ),
            ("other", "test_programs_that_are_only_shown_call_the_function_with_its_arguments", ["SELECT outbox_emit"]),
            (
                "more",
                "test_programs_that_are_only_shown_call_the_function_with_its_arguments",
                [
                    "Customer.transaction",
                    "await using var transaction",
                    "$db->beginTransaction",
                    "let mut transaction",
                ],
            ),
        )
        for beginning in beginnings
    },
    ("docs/how-to/consume-once.md", "import os"): (
        APPLICATION,
        "test_the_loop_killed_again_and_again_has_each_effect_once",
    ),
    **{
        ("docs/how-to/consume-once-in-other-languages.md", beginning): ("tests/examples/test_consumers.py", test)
        for beginning, test in {
            "    /** Gives ten points": "test_the_page_shows_what_is_run",
            "// credit gives ten points": "test_the_page_shows_what_is_run",
            "// Give ten points": "test_the_page_shows_what_is_run",
            "spring.kafka.consumer": "test_the_page_shows_the_properties_of_spring",
        }.items()
    },
    **{
        ("docs/how-to/schema-registry.md", beginning): ("tests/docs/test_schema_registry.py", "test_the_page_in_order")
        for beginning in [
            "cdc-outbox sql install",
            "# formats.py",
            "import psycopg",
            "from confluent_kafka.schema_registry.json_schema",
            "from confluent_kafka.schema_registry.avro",
        ]
    },
    ("docs/how-to/test-events.md", "# test_orders.py"): (PLUGIN, "test_the_page_followed_in_a_new_project"),
    ("docs/how-to/test-events.md", "# conftest.py"): (PLUGIN, "test_a_database_of_the_readers_own"),
}
"""By page and the beginning of the block: the file and the name of the test that runs it, or compares with it."""

NOT_RUN: Final[dict[tuple[str, str], str]] = {
    (
        "docs/runbook.md",
        "cdc-outbox status ",
    ): "each command and path is tried by the tests of its own; that they exist is checked",
    (
        "docs/runbook.md",
        "ALTER SYSTEM SET max_slot",
    ): "changes a server that other tests use; that it is SQL is checked",
    (
        "docs/how-to/size-wal.md",
        "ALTER SYSTEM SET max_slot",
    ): "changes a server that other tests use; that it is SQL is checked",
    ("README.md", "make demo"): "minutes long, and runs this very test; that the targets exist is checked",
    ("examples/registration/README.md", "make example"): "tests/examples/test_registration.py plays the same story",
    (
        "examples/registration/README.md",
        "docker compose",
    ): "needs images; tests/examples/test_compose.py runs what its services run",
    ("docs/tutorial.md", "python3 -m venv"): "needs a package index; the Makefile has installed what is tested here",
    ("docs/how-to/register-events.md", "pip install"): "needs a package index; tests/unit/app builds that wheel",
    ("docs/how-to/test-events.md", "pip install"): "needs a package index; the test of the page installs the wheel",
    ("docs/scaling.md", "CREATE PUBLICATION cdc_outbox_0_of_2"): "what sql/shards.sql makes; that it is SQL is checked",
    ("CONTRIBUTING.md", "make help"): "developers' tools; that the targets exist is checked",
    ("docs/how-to/monitor.md", "kubectl port-forward"): "needs a Kubernetes cluster",
    ("docs/benchmarks.md", "make bench"): "minutes to an hour long; that the target exists is checked",
    (
        "docs/reliability.md",
        "make prune-soak",
    ): "an hour long; tests/end_to_end/test_prune.py does the same for seconds",
    ("docs/reliability.md", "make chaos"): "hours long; tests/faults/test_chaos.py plays a few seeds the same way",
}
"""By page and the beginning of the block: why nobody runs it."""


def parse_json(block: Block) -> None:
    for document in block.text.splitlines() if "\n{" in block.text else [block.text]:
        json.loads(document)


def parse_ini(block: Block) -> None:
    configparser.ConfigParser(allow_no_value=True, interpolation=None).read_string(f"[all]\n{block.text}")


def parse_promql(block: Block) -> None:
    """Brackets match, and every metric is one that the relay serves."""
    versions = Versions("1", "2", "3", "4")
    served = {sample.name for metric in build_registry(Counters(), versions).collect() for sample in metric.samples}
    described = {
        name
        for metric in build_registry(Counters(), versions).collect()
        for name in (metric.name, f"{metric.name}_total")
    }
    for line in re.sub(r"#.*", "", block.text).split("\n"):
        assert all(line.count(one) == line.count(other) for one, other in ("()", "{}", "[]")), line
        for name in re.findall(r"\bcdc_outbox_\w+", line):
            assert name in served | described or re.sub(r"_(bucket|sum|count)$", "", name) in described, name


def parse_sh(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


PARSED: Final[dict[str, Callable[[Block], None]]] = {
    "json": parse_json,
    "toml": lambda block: tomllib.loads(block.text) and None,
    "ini": parse_ini,
    "properties": parse_ini,
    "promql": parse_promql,
    "yaml": lambda block: list(yaml.safe_load_all(block.text)) and None,
}
"""Languages for which reading a block is proof enough."""

DRAWN: Final = {"mermaid": ("flowchart", "sequenceDiagram", "stateDiagram")}
"""Pictures: GitHub draws them; that they begin as such is checked."""


def named(block: Block) -> list[tuple[str, str]]:
    """Where the two tables name this block."""
    keys = [*RUN_BY, *NOT_RUN]
    return [(page, beginning) for page, beginning in keys if page == block.page and block.text.startswith(beginning)]


@pytest.mark.parametrize("block", all_blocks(), ids=str)
def test_every_block_is_run_parsed_or_listed_with_a_reason(block: Block) -> None:
    if block.language in PARSED:
        PARSED[block.language](block)
    elif block.language in DRAWN:
        assert block.text.startswith(DRAWN[block.language])
    else:
        assert len(named(block)) == 1, (
            f"{block}: {block.language or 'no language'}, {block.first_line!r}: add it to RUN_BY"
        )


@pytest.mark.parametrize("block", [each for each in all_blocks() if each.language in {"sh", "bash"}], ids=str)
def test_every_shell_block_is_one_that_bash_can_read(block: Block) -> None:
    parse_sh(block)


def parse_sql(database: Database, text: str) -> None:
    """PL/pgSQL reads each statement of a body before it runs any: here it returns before the first."""
    statements = re.sub(r"^(BEGIN|COMMIT);$", "", text, flags=re.MULTILINE)
    statements = re.sub(r"^SELECT\b", "PERFORM", statements, flags=re.MULTILINE)
    database.execute(f"DO $doc$ BEGIN RETURN; {statements.rstrip().removesuffix(';')}; END $doc$")


def test_every_sql_block_is_sql(database: Database) -> None:
    for block in all_blocks():
        if block.language == "sql":
            parse_sql(database, block.text)
    with pytest.raises(psycopg.errors.SyntaxError):
        parse_sql(database, "SELECT count(*) FORM outbox WHERE;")


def test_the_tables_name_blocks_that_are_there_and_tests_that_are_there() -> None:
    seen = {key for block in all_blocks() for key in named(block)}
    assert sorted({*RUN_BY, *NOT_RUN} - seen) == []
    for file, name in set(RUN_BY.values()):
        functions = [
            node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if isinstance(node, ast.FunctionDef)
        ]
        assert name in functions, f"{file} has no {name}"


def test_no_page_is_left_out() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/design.md", "docs/troubleshooting.md"} <= set(PAGES)
    assert len(all_blocks()) > 15
