"""`sql install --source message` on a real server: what it makes, how it and the table take each other's place, how it goes."""

from __future__ import annotations

import secrets
import uuid
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from cdc_outbox.commands.emit import NewEvent, emit_event
from cdc_outbox.commands.install import (
    PAYLOAD_TYPES,
    InstallOptions,
    PayloadType,
    apply_install,
    apply_roles,
    apply_uninstall,
)
from cdc_outbox.commands.installation import read_installation
from cdc_outbox.identifiers import TableName

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

MESSAGE = InstallOptions(source="message")

ODD = InstallOptions(
    table=TableName('My "app".v1; --', "Out'box"),
    publication="Pub\"li'cation",
    source="message",
    message_prefix="o'rders",
)


def unexpected(warning: str) -> None:
    raise AssertionError(warning)


def functions(database: Database, name: str = "outbox_emit") -> list[str]:
    """Their parameters."""
    query = "SELECT pg_get_function_identity_arguments(oid) FROM pg_proc WHERE proname = %s"
    return [arguments for (arguments,) in database.execute(query, [name])]


@pytest.mark.parametrize("options", [MESSAGE, ODD], ids=["default names", "other names"])
def test_it_makes_a_function_and_a_publication_without_tables_and_uninstall_takes_them_away(
    database: Database, options: InstallOptions
) -> None:
    for _ in range(2):
        apply_install(database.dsn, options, unexpected)
    apply_roles(database.dsn, options, unexpected)
    found = read_installation(database.dsn, options)
    assert (found.table, found.published, found.options_as_installed) == (False, False, True)
    assert found.complete_for("message")
    assert not found.complete_for("table")
    assert uuid.UUID(emit_event(database.dsn, options.table, NewEvent("order", "1", "Placed", b"{}")))
    assert database.execute("SELECT count(*) FROM pg_class WHERE relname ILIKE 'out%box'") == [(0,)]
    apply_uninstall(
        database.dsn, InstallOptions(options.table, options.publication, f"s_{secrets.token_hex(6)}"), unexpected
    )
    found = read_installation(database.dsn, options)
    assert (found.function, found.publication) == (False, False)


@pytest.mark.parametrize("payload_type", PAYLOAD_TYPES)
def test_table_and_messages_take_each_others_place_and_grants_stay(
    database: Database, payload_type: PayloadType
) -> None:
    role = f"r_{secrets.token_hex(6)}"
    apply_install(database.dsn, InstallOptions(), unexpected)
    database.execute(
        f"CREATE ROLE {role}; GRANT EXECUTE ON FUNCTION outbox_emit(text, text, text, json, jsonb, uuid) TO {role}"
    )
    apply_install(database.dsn, InstallOptions(source="message", payload_type=payload_type), unexpected)
    emit_event(database.dsn, MESSAGE.table, NewEvent("order", "1", "Placed", b"{}"))
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]
    apply_install(database.dsn, InstallOptions(), unexpected)
    emit_event(database.dsn, MESSAGE.table, NewEvent("order", "1", "Placed", b"{}"))
    assert database.execute("SELECT count(*) FROM outbox") == [(1,)]
    assert len(functions(database)) == 3
    assert database.execute(f"SELECT has_function_privilege('{role}', oid, 'EXECUTE') FROM pg_proc"
                            " WHERE proname = 'outbox_emit' AND prosecdef") == [(True,)]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("", "1", "T", "{}", None), psycopg.errors.CheckViolation),
        ((None, "1", "T", "{}", None), psycopg.errors.NotNullViolation),
        (("order", "1", "T", "{}", "[1]"), psycopg.errors.CheckViolation),
        (("order", "1", "T", "{", None), psycopg.errors.InvalidTextRepresentation),
    ],
)
@pytest.mark.parametrize("options", [MESSAGE, InstallOptions()], ids=["message", "table"])
def test_a_wrong_event_is_refused_with_the_same_error_with_and_without_a_table(
    database: Database, options: InstallOptions, arguments: tuple[Any, ...], error: type[psycopg.Error]
) -> None:
    apply_install(database.dsn, options, unexpected)
    with pytest.raises(error) as refusal:
        database.execute("SELECT outbox_emit(%s, %s, %s, %s, %s)", arguments)
    if arguments[0] is None:
        assert refusal.value.diag.message_primary == "aggregatetype is NULL: it names the topic of the event"
        assert "such as order" in str(refusal.value.diag.message_hint)


def test_the_id_is_the_callers_or_a_new_one(database: Database) -> None:
    apply_install(database.dsn, MESSAGE, unexpected)
    mine = uuid.uuid4()
    call = "SELECT outbox_emit('order', '1', 'T', '{}', NULL, %s)"
    assert database.execute(call, [mine]) == [(mine,)]
    (one,), (other,) = (database.execute(call, [None])[0] for _ in range(2))
    assert one != other
    server = database.execute("SELECT current_setting('server_version_num')::int")[0][0]
    assert {one.version, other.version} == {7 if server >= 180_000 else 4}
