"""sql/consumer.sql on a real server: a message is claimed once, and only by who may."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from cdc_outbox.commands.install import apply_consumer, render_consumer
from cdc_outbox.errors import AccessRefused, ConfigurationError
from cdc_outbox.identifiers import TableName

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

CLAIM = "SELECT inbox_claim(%s, %s)"


@pytest.fixture
def inbox(database: Database) -> Database:
    apply_consumer(database.dsn, pytest.fail)
    return database


def login(database: Database, *grants: str) -> str:
    """A DSN of a new role that may do what `grants` says (`{}` is its name)."""
    role, password = f"consumer_{secrets.token_hex(4)}", secrets.token_hex(8)
    database.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    for grant in grants:
        database.execute(grant.format(role))
    return database.dsn_for(role, password)


def claims(database: Database) -> list[tuple[str, str]]:
    return [(who, what) for who, what in database.execute("SELECT consumer, message_id FROM inbox ORDER BY 1, 2")]


def test_the_first_claim_is_true_and_every_other_false(inbox: Database) -> None:
    assert [inbox.execute(CLAIM, ["mailer", "1"])[0][0] for _ in range(3)] == [True, False, False]
    assert inbox.execute(CLAIM, ["mailer", "2"]) == [(True,)]
    assert inbox.execute(CLAIM, ["rewards", "1"]) == [(True,)]
    assert claims(inbox) == [("mailer", "1"), ("mailer", "2"), ("rewards", "1")]


def test_a_claim_that_was_rolled_back_was_none(inbox: Database) -> None:
    connection = inbox.connect(autocommit=False)
    connection.execute(CLAIM, ["mailer", "1"])
    connection.rollback()

    assert inbox.execute(CLAIM, ["mailer", "1"]) == [(True,)]


@pytest.mark.parametrize(("end", "second"), [("commit", False), ("rollback", True)])
def test_a_second_claim_waits_for_how_the_first_ends(inbox: Database, end: str, second: bool) -> None:
    first = inbox.connect(autocommit=False)
    first.execute(CLAIM, ["mailer", "1"])
    other = inbox.connect()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: other.execute(CLAIM, ["mailer", "1"]).fetchone())
        while not inbox.execute("SELECT 1 FROM pg_locks WHERE NOT granted AND pid = %s", [other.info.backend_pid]):
            assert not waiting.done(), "it did not wait"
        getattr(first, end)()

        assert waiting.result(timeout=10) == (second,)


@pytest.mark.parametrize("arguments", [(None, "1"), ("mailer", None)])
def test_an_empty_consumer_and_an_empty_message_are_refused(
    inbox: Database, arguments: tuple[str | None, str | None]
) -> None:
    with pytest.raises(psycopg.errors.NotNullViolation):
        inbox.execute(CLAIM, arguments)


def test_prune_deletes_what_is_older_and_returns_the_count(inbox: Database) -> None:
    for message in ("1", "2", "3"):
        inbox.execute(CLAIM, ["mailer", message])
    inbox.execute("UPDATE inbox SET claimed_at = now() - interval '8 days' WHERE message_id <> '3'")

    assert inbox.execute("SELECT inbox_prune('7 days')") == [(2,)]
    assert claims(inbox) == [("mailer", "3")]
    assert inbox.execute("SELECT inbox_prune('7 days')") == [(0,)]
    assert inbox.execute("SELECT inbox_prune(NULL)") == [(0,)]


def test_a_consumer_needs_execute_and_nothing_else(inbox: Database) -> None:
    allowed = login(inbox, "GRANT USAGE ON SCHEMA public TO {}", "GRANT EXECUTE ON FUNCTION public.inbox_claim TO {}")
    with psycopg.connect(allowed, autocommit=True) as connection:
        assert connection.execute(CLAIM, ["mailer", "1"]).fetchone() == (True,)
        for forbidden in ("SELECT FROM inbox", "DELETE FROM inbox", "SELECT inbox_prune('1 day')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden.encode())
    with psycopg.connect(login(inbox)) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute(CLAIM, ["mailer", "2"])


def test_objects_of_the_callers_search_path_are_not_used(inbox: Database) -> None:
    dsn = login(inbox, "GRANT CREATE, USAGE ON SCHEMA public TO {}", "GRANT EXECUTE ON FUNCTION inbox_claim TO {}")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE inbox (consumer text, message_id text)")

        assert connection.execute("SELECT public.inbox_claim('mailer', '1')").fetchone() == (True,)
        assert connection.execute("SELECT count(*) FROM inbox").fetchone() == (0,)


def test_applied_twice_it_keeps_claims_grants_and_comments(inbox: Database) -> None:
    inbox.execute(CLAIM, ["mailer", "1"])
    dsn = login(inbox, "GRANT EXECUTE ON FUNCTION inbox_claim TO {}")
    inbox.execute("COMMENT ON TABLE inbox IS 'ours'")

    apply_consumer(inbox.dsn, pytest.fail)

    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute(CLAIM, ["mailer", "1"]).fetchone() == (False,)
    assert inbox.execute("SELECT obj_description('inbox'::regclass)") == [("ours",)]


def test_another_name_has_its_own_functions_and_stands_beside_the_first(inbox: Database) -> None:
    apply_consumer(inbox.dsn, pytest.fail, TableName("My app", "Seen"))

    assert inbox.execute('SELECT "My app"."Seen_claim"(%s, %s)', ["mailer", "1"]) == [(True,)]
    assert inbox.execute(CLAIM, ["mailer", "1"]) == [(True,)]


@pytest.mark.parametrize(
    "columns",
    ["id int PRIMARY KEY", "consumer text, message_id text, claimed_at timestamptz", "consumer text PRIMARY KEY"],
)
def test_a_table_that_is_no_inbox_is_left_alone(database: Database, columns: str) -> None:
    database.execute(f"CREATE TABLE inbox ({columns})")

    with pytest.raises(ConfigurationError, match="is there already, and is no inbox") as refusal:
        apply_consumer(database.dsn, pytest.fail)

    assert "use another name" in refusal.value.cure
    assert database.execute("SELECT count(*) FROM pg_proc WHERE proname ~ '^inbox_'") == [(0,)]


def test_a_role_without_create_gets_the_cure(database: Database) -> None:
    database.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")  # as it is since PostgreSQL 15
    with pytest.raises(AccessRefused) as refusal:
        apply_consumer(login(database), pytest.fail)

    assert "CREATE on the schema" in refusal.value.cure


def test_the_text_runs_in_the_transaction_of_the_caller_and_is_removed_by_the_command_of_its_head(
    database: Database,
) -> None:
    connection = database.connect(autocommit=False)
    connection.execute(render_consumer().encode())
    for line in render_consumer().splitlines():
        if line.startswith("--   DROP "):
            connection.execute(line.removeprefix("--   ").encode())
    connection.commit()

    assert database.execute("SELECT to_regclass('inbox'), to_regproc('inbox_claim'), to_regproc('inbox_prune')") == [
        (None, None, None)
    ]
