"""The Django apps on a real server: migrated there and back, read through the model, tested as Django tests."""

from __future__ import annotations

import io
import unittest
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.app import OutboxUsageError, capture, emit, once
from cdc_outbox.commands.install import InstallOptions, apply_roles
from cdc_outbox.commands.installation import read_installation
from tests.integration.app import django_project

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.postgres import Database

ORDER = {"aggregate_type": "order", "aggregate_id": 42, "type": "OrderPlaced", "payload": {"total": 99}}


@pytest.fixture
def project(database: Database) -> Iterator[Database]:
    """The test's database as Django's `default`, empty."""
    with django_project.database(database.dsn):
        yield database


@pytest.fixture
def migrated(project: Database) -> Database:
    migrate()
    return project


def migrate(*arguments: str) -> str:
    from django.core.management import call_command

    said = io.StringIO()
    call_command("migrate", *arguments, verbosity=1, stdout=said)
    return said.getvalue()


def test_migrate_installs_what_sql_install_and_sql_consumer_install(project: Database) -> None:
    said = migrate()

    assert "Applying cdc_outbox.0001_outbox... OK" in said
    assert "Applying cdc_outbox_inbox.0001_inbox... OK" in said
    assert read_installation(project.dsn, InstallOptions()).complete
    apply_roles(project.dsn, InstallOptions(), pytest.fail)
    assert project.execute("SELECT inbox_claim('mailer', '1')") == [(True,)]
    assert "No migrations to apply" in migrate()


def test_there_is_nothing_left_for_makemigrations(migrated: Database) -> None:
    from django.core.management import call_command

    call_command("makemigrations", "--check", "--dry-run", verbosity=0)
    call_command("check", verbosity=0)


def test_migrated_back_the_functions_are_gone_and_the_rows_still_there(migrated: Database) -> None:
    from django.db import transaction

    with transaction.atomic():
        emit("default", **ORDER)

    migrate("cdc_outbox", "zero")
    migrate("cdc_outbox_inbox", "zero")

    found = read_installation(migrated.dsn, InstallOptions())
    assert (found.table, found.function, found.publication) == (True, False, False)
    assert migrated.execute("SELECT count(*), to_regclass('inbox') FROM outbox") == [(1, None)]

    migrate()
    assert read_installation(migrated.dsn, InstallOptions()).complete


def test_an_outbox_that_is_there_already_is_taken_over(project: Database) -> None:
    from cdc_outbox.commands.install import apply_install

    apply_install(project.dsn, InstallOptions(payload_type="json"), pytest.fail)
    project.execute("SELECT outbox_emit('order', '1', 'OrderPlaced', '{}')")

    migrate()

    assert project.execute("SELECT count(*) FROM outbox") == [(1,)]


@pytest.mark.parametrize("payload_type", ["json", "jsonb", "text"])
def test_the_model_reads_what_was_emitted_word_for_word(migrated: Database, payload_type: str) -> None:
    from django.db import transaction

    from cdc_outbox.app.django.models import OutboxEvent

    if payload_type != "json":
        from cdc_outbox.commands.install import apply_install

        migrated.execute(f"ALTER TABLE outbox ALTER payload TYPE {payload_type} USING payload::text::{payload_type}")
        apply_install(migrated.dsn, InstallOptions(payload_type=payload_type), pytest.fail)
    with transaction.atomic():
        event_id = emit(
            "default", **{**ORDER, "payload": '{"total": 99}'}, headers={"a": "b"}, payload_type=payload_type
        )

    event = OutboxEvent.objects.get(type="OrderPlaced")

    assert (event.id, event.aggregatetype, event.aggregateid) == (event_id, "order", "42")
    assert (event.payload, event.headers) == ('{"total": 99}', {"a": "b"})


def test_tests_of_django_may_use_both_in_their_transaction(migrated: Database) -> None:
    from django.db import transaction
    from django.test import TestCase

    class Tests(TestCase):
        def test_emit_and_once_in_a_test_case(self) -> None:
            with capture() as events:
                emit("default", **ORDER)
                with once("default", consumer="mailer", message_id="1") as first:
                    assert first is True
            outer = transaction.atomic()
            with pytest.raises(OutboxUsageError), outer, once("default", consumer="mailer", message_id="2"):
                pytest.fail("it would not be committed by once")
            assert [event.type for event in events] == ["OrderPlaced"]

    result = unittest.TestResult()
    unittest.TestSuite([Tests("test_emit_and_once_in_a_test_case")]).run(result)

    assert (result.testsRun, result.errors, result.failures) == (1, [], [])
    assert migrated.execute("SELECT (SELECT count(*) FROM outbox), (SELECT count(*) FROM inbox)") == [(0, 0)]


def test_on_commit_is_too_late(migrated: Database) -> None:
    from django.db import transaction

    def too_late() -> None:
        with pytest.raises(OutboxUsageError, match=r"transaction\.atomic"):
            emit("default", **ORDER)

    with transaction.atomic():
        transaction.on_commit(too_late)

    assert migrated.execute("SELECT count(*) FROM outbox") == [(0,)]


def test_an_alias_that_django_does_not_know_is_its_own_error() -> None:
    from django.utils.connection import ConnectionDoesNotExist

    with pytest.raises(ConnectionDoesNotExist):
        emit("elsewhere", **ORDER)
