"""Django's admin, system checks and `outbox_status`, in a project on a real server."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from cdc_outbox.app import emit
from tests.integration.app import django_project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database


@pytest.fixture
def project(database: Database) -> Iterator[Database]:
    with django_project.database(database.dsn):
        yield database


@pytest.fixture
def migrated(project: Database) -> Database:
    command("migrate", verbosity=0)
    return project


def command(*arguments: str, **options: Any) -> str:
    from django.core.management import call_command

    printed = io.StringIO()
    call_command(*arguments, stdout=printed, **options)
    return printed.getvalue()


def emitted(count: int = 1) -> list[Any]:
    from django.db import transaction

    with transaction.atomic():
        return [
            emit("default", aggregate_type="order", aggregate_id=number, type="OrderPlaced", payload={"n": number})
            for number in range(count)
        ]


# --- the checks --------------------------------------------------------------------------------------------------------


def findings() -> list[Any]:
    from django.core import checks

    found: list[Any] = checks.run_checks(databases=["default"])
    return [each for each in found if (each.id or "").startswith("cdc_outbox.")]


def test_before_the_migration_the_check_names_the_command_that_is_typed(project: Database) -> None:
    (found,) = findings()
    assert found.id == "cdc_outbox.W001"

    typed(found.hint)

    assert findings() == []


def test_objects_that_were_dropped_are_found_and_the_hint_brings_them_back(migrated: Database) -> None:
    emitted()
    migrated.execute(
        "DROP ROUTINE outbox_emit(text, text, text, json, jsonb, uuid), outbox_emit(text, bigint, text, json, jsonb, uuid),"
        " outbox_emit(text, uuid, text, json, jsonb, uuid); DROP PUBLICATION cdc_outbox"
    )

    (found,) = findings()
    assert found.id == "cdc_outbox.E002"
    assert "function public.outbox_emit, no publication" in found.msg
    typed(found.hint)

    assert findings() == []
    assert migrated.execute("SELECT count(*) FROM outbox") == [(1,)]


def typed(hint: str) -> None:
    """Run the commands that a hint names."""
    for line in hint.removeprefix("Run: ").split(" && "):
        python, manage, *arguments = line.split()
        assert (python, manage) == ("python", "manage.py")
        command(*arguments, verbosity=0)


def test_migrate_of_a_new_project_is_not_refused_by_the_check(project: Database) -> None:
    assert "Applying cdc_outbox.0001_outbox... OK" in command("migrate", skip_checks=False)


def test_a_router_keeps_the_check_from_another_database(project: Database, settings_of: Callable[..., None]) -> None:
    settings_of(DATABASE_ROUTERS=["tests.integration.app.test_django_operations.Elsewhere"])

    assert findings() == []


class Elsewhere:
    """A router for a project whose outbox is in another database."""

    def allow_migrate(self, _db: str, app_label: str, **_: Any) -> bool | None:
        return False if app_label == "cdc_outbox" else None


@pytest.fixture
def settings_of() -> Iterator[Callable[..., None]]:
    from django.test import override_settings

    changed = []

    def change(**settings: Any) -> None:
        changed.append(override_settings(**settings))
        changed[-1].enable()

    yield change
    for each in changed:
        each.disable()


# --- the admin ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def browser(migrated: Database) -> Any:
    """A superuser who has logged in."""
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("ada"))
    return client


def test_the_admin_lists_events_and_shows_one(browser: Any) -> None:
    first, second = emitted(2)

    listed = browser.get("/admin/cdc_outbox/outboxevent/").content.decode()
    shown = browser.get("/admin/cdc_outbox/outboxevent/2/change/").content.decode()

    assert listed.index(str(second)) < listed.index(str(first))
    assert str(second) in shown
    assert "{&quot;n&quot;:1}" in shown


@pytest.mark.parametrize("text", ["OrderPlaced", "1", "by id"])
def test_the_admin_finds_an_event(browser: Any, text: str) -> None:
    second = str(emitted(2)[1])

    answer = browser.get("/admin/cdc_outbox/outboxevent/", {"q": second if text == "by id" else text})

    assert answer.status_code == 200
    assert second in answer.content.decode()


def test_the_admin_changes_nothing(browser: Any, migrated: Database) -> None:
    emitted()

    assert browser.get("/admin/cdc_outbox/outboxevent/add/").status_code == 403
    assert browser.post("/admin/cdc_outbox/outboxevent/1/change/", {"type": "Other"}).status_code == 403
    assert browser.post("/admin/cdc_outbox/outboxevent/1/delete/", {"post": "yes"}).status_code == 403
    browser.post(
        "/admin/cdc_outbox/outboxevent/", {"action": "delete_selected", "_selected_action": "1", "post": "yes"}
    )
    assert migrated.execute("SELECT type FROM outbox") == [("OrderPlaced",)]


# --- outbox_status -----------------------------------------------------------------------------------------------------


def status(*arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    from django.core.management import call_command

    printed = io.StringIO()
    try:
        call_command("outbox_status", *arguments, stdout=printed, no_color=True)
    except SystemExit as end:
        return int(str(end.code)), printed.getvalue()
    return 0, printed.getvalue()


def test_the_status_names_what_to_run_at_each_stage(project: Database) -> None:
    code, text = status()
    assert code == 1
    assert "no table public.outbox: run manage.py migrate cdc_outbox" in text

    command("migrate", verbosity=0)
    code, text = status()
    assert code == 1
    assert "no slot cdc_outbox in this database: start the relay" in text


def test_the_status_beside_a_relay(
    migrated: Database, kafka: KafkaCluster, relay: Callable[..., Relay], tmp_path: Any
) -> None:
    emitted(3)
    topic = kafka.unique_topic_prefix() + "{aggregatetype}"
    running = relay("--topic", topic, database=migrated, kafka=kafka)
    kafka.consume(topic.format(aggregatetype="order"), 3)

    code, text = status("--json")
    running.terminate()
    assert running.wait() == 0
    later, _ = status("--slot", "cdc_outbox")

    document = json.loads(text)
    assert (code, document["findings"], document["rows"]) == (0, [], 3)
    assert document["slot"]["relay_connected"] is True
    assert later == 1
