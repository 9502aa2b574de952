"""`once` on a real server, by every kind of connection: claim and effect together, or neither."""

from __future__ import annotations

import contextlib
import secrets
from typing import TYPE_CHECKING
from uuid import UUID

import psycopg
import pytest

from cdc_outbox.app import OutboxUsageError, once
from cdc_outbox.commands.install import apply_consumer
from tests.integration.app.adapters import ADAPTERS
from tests.integration.app.test_emit import FAMILIES

if TYPE_CHECKING:
    from tests.integration.app.adapters import Adapter
    from tests.plugins.postgres import Database

MESSAGE = {"consumer": "mailer", "message_id": "01a207b6-8329-7897-99bd-428955e6b3ed"}
EFFECTS = "SELECT (SELECT count(*) FROM orders), (SELECT count(*) FROM inbox)"


class Failed(Exception):
    """The effect cannot be had now."""


def consume(adapter: Adapter, **how: bool) -> bool:
    with adapter.once(**MESSAGE, **how) as first:
        if first:
            adapter.execute("INSERT INTO orders VALUES (1)")
    return first


def consume_and_fail(adapter: Adapter, **how: bool) -> None:
    with contextlib.suppress(Failed), adapter.once(**MESSAGE, **how) as first:
        assert first is True
        adapter.execute("INSERT INTO orders VALUES (1)")
        raise Failed


def test_the_first_time_takes_effect_and_is_committed_and_the_second_does_not(adapter: Adapter, shop: Database) -> None:
    assert consume(adapter) is True
    assert shop.execute(EFFECTS) == [(1, 1)], "committed when the block has ended"

    assert consume(adapter) is False
    assert shop.execute(EFFECTS) == [(1, 1)]


def test_an_effect_that_failed_leaves_the_message_unclaimed(adapter: Adapter, shop: Database) -> None:
    consume_and_fail(adapter)
    assert shop.execute(EFFECTS) == [(0, 0)]

    assert consume(adapter) is True
    assert shop.execute(EFFECTS) == [(1, 1)]


def test_inside_a_transaction_it_is_refused_unless_the_caller_commits(adapter: Adapter, shop: Database) -> None:
    with adapter.transaction():
        adapter.execute("INSERT INTO orders VALUES (0)")
        with pytest.raises(OutboxUsageError, match="nested=True"):
            consume(adapter)
        consume_and_fail(adapter, nested=True)
        assert consume(adapter, nested=True) is True
        assert shop.execute(EFFECTS) == [(0, 0)], "not before the outer transaction"

    assert shop.execute(EFFECTS) == [(2, 1)]
    assert consume(adapter, nested=True) is False, "without one outside, it begins its own"


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name.startswith("psycopg")])
def test_psycopg_in_autocommit_is_as_good(name: str, shop: Database) -> None:
    with ADAPTERS[name](shop.dsn, autocommit=True) as adapter:
        adapter.execute("SELECT 1")
        assert [consume(adapter), consume(adapter)] == [True, False]

    assert shop.execute(EFFECTS) == [(1, 1)]


@pytest.mark.parametrize("name", [name for name in ADAPTERS if name.startswith("sqlalchemy")])
def test_sqlalchemy_in_autocommit_is_refused_since_it_would_only_pretend(name: str, shop: Database) -> None:
    with (
        ADAPTERS[name](shop.dsn, autocommit=True) as adapter,
        pytest.raises(OutboxUsageError, match="not in a transaction"),
    ):
        consume(adapter)

    assert shop.execute(EFFECTS) == [(0, 0)]


@pytest.mark.parametrize("name", ["psycopg_connection", "sqlalchemy_session", "sqlalchemy_async_session"])
def test_a_transaction_that_a_mere_query_has_begun_is_refused_too(name: str, shop: Database) -> None:
    with ADAPTERS[name](shop.dsn) as adapter:
        adapter.execute("SELECT 1")
        with pytest.raises(OutboxUsageError, match="in a transaction already"):
            consume(adapter)


def test_django_without_autocommit_is_refused_since_it_would_not_commit(shop: Database) -> None:
    from django.db import connection

    with ADAPTERS["django_alias"](shop.dsn) as adapter:
        connection.set_autocommit(False)
        with pytest.raises(OutboxUsageError, match="in a transaction already"):
            consume(adapter)
        connection.set_autocommit(True)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_role_with_nothing_but_execute_may_claim(name: str, shop: Database) -> None:
    role, password = f"mailer_{secrets.token_hex(4)}", secrets.token_hex(8)
    shop.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT USAGE ON SCHEMA public TO {role}")
    with ADAPTERS[name](shop.dsn_for(role, password)) as adapter:
        with pytest.raises(Exception, match="permission denied") as refusal, adapter.once(**MESSAGE):
            pytest.fail("the claim was refused")
        assert 'EXECUTE on "public"."inbox_claim"' in refusal.value.__notes__[0]

        shop.execute(f"GRANT EXECUTE ON FUNCTION inbox_claim TO {role}")
        with adapter.once(**MESSAGE) as first:
            assert first is True


def test_a_missing_inbox_is_reported_with_the_command(database: Database) -> None:
    with (
        psycopg.connect(database.dsn) as connection,
        pytest.raises(psycopg.errors.UndefinedFunction) as refusal,
        once(connection, **MESSAGE),
    ):
        pytest.fail("there is no inbox")

    assert "Run `cdc-outbox sql consumer --apply`" in refusal.value.__notes__[0]


@pytest.mark.parametrize(
    "message_id", [MESSAGE["message_id"], MESSAGE["message_id"].encode(), UUID(MESSAGE["message_id"])]
)
def test_an_id_may_be_the_headers_bytes_a_text_or_a_uuid(shop: Database, message_id: str | bytes | UUID) -> None:
    with psycopg.connect(shop.dsn) as connection:
        for expected in (True, False):
            with once(connection, consumer="mailer", message_id=message_id) as first:
                assert first is expected

    assert shop.execute("SELECT consumer, message_id FROM inbox") == [tuple(MESSAGE.values())]


def test_each_consumer_and_each_inbox_has_its_own_first_time(shop: Database) -> None:
    from cdc_outbox.identifiers import parse_table

    apply_consumer(shop.dsn, pytest.fail, parse_table("seen"))
    with psycopg.connect(shop.dsn) as connection:
        for how in ({"consumer": "mailer"}, {"consumer": "rewards"}, {"consumer": "mailer", "table": "seen"}):
            with once(connection, message_id="1", **how) as first:
                assert first is True
