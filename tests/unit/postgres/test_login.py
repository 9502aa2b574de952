"""What the text of a failed login tells: SQLSTATE, message and source function, in any language."""

from __future__ import annotations

import ast
from pathlib import Path

import psycopg
import pytest

import cdc_outbox
from cdc_outbox import errors
from cdc_outbox.postgres.errors import translate
from cdc_outbox.postgres.login import Refusal, refusals

GERMAN = (
    'connection failed: connection to server at "127.0.0.1", port 5432 failed: SCHWERWIEGEND:  28P01: Passwort-'
    "Authentifizierung für Benutzer »relay« fehlgeschlagen\nLOCATION:  auth_failed, auth.c:329\n"
)
STARTING = (
    'connection failed: connection to server at "10.0.0.2", port 5432 failed: FATAL:  57P03: 起動しています\n'
    "LOCATION:  ProcessStartupPacket, postmaster.c:2352\n"
)


def test_a_server_s_report_has_code_message_and_function() -> None:
    assert refusals(GERMAN) == [
        Refusal(
            'server at "127.0.0.1", port 5432 failed: SCHWERWIEGEND: Passwort-Authentifizierung für Benutzer »relay« '
            "fehlgeschlagen",
            "28P01",
            "auth_failed",
        )
    ]


def test_libpq_s_own_message_has_no_code() -> None:
    (found,) = refusals("connection failed: fe_sendauth: no password supplied\n")
    assert found == Refusal("fe_sendauth: no password supplied")


def test_several_hosts_are_several_refusals_and_equal_ones_count_once() -> None:
    text = f"{GERMAN}\nMultiple connection attempts failed. All failures were:\n- host: 'a': {GERMAN}\n- host: 'b': {GERMAN}"
    assert [each.sqlstate for each in refusals(text)] == ["28P01"]
    both = f"{GERMAN}\nMultiple connection attempts failed. All failures were:\n- host: 'a': {GERMAN}\n- host: 'b': {STARTING}"
    assert [each.sqlstate for each in refusals(both)] == ["28P01", "57P03"]


def report(sqlstate: str, function: str) -> psycopg.OperationalError:
    return psycopg.OperationalError(
        f'connection failed: connection to server at "h", port 1 failed: X:  {sqlstate}: …\nLOCATION:  {function}, a.c:1\n'
    )


@pytest.mark.parametrize(
    ("sqlstate", "function", "kind", "cure"),
    [
        ("28P01", "auth_failed", errors.AccessRefused, "CDC_OUTBOX_DSN_FILE"),
        ("28000", "ClientAuthentication", errors.AccessRefused, "`host` line"),
        ("28000", "InitializeSessionUserId", errors.AccessRefused, "sql roles"),
        ("28000", "auth_failed", errors.AccessRefused, "sslcert=FILE"),
        ("28000", "SomethingNew", errors.AccessRefused, "user and password"),
        ("42501", "InitPostgres", errors.AccessRefused, "ALTER ROLE"),
        ("42501", "CheckMyDatabase", errors.AccessRefused, "GRANT CONNECT"),
        ("3D000", "InitPostgres", errors.CannotConnect, "dbname=NAME"),
        ("53300", "InitProcess", errors.Unreachable, "max_connections"),
        ("57P03", "ProcessStartupPacket", errors.NotAccepting, "waited for"),
        ("08P01", "", errors.CannotConnect, "PgBouncer"),
        ("0A000", "", errors.CannotConnect, "PgBouncer"),
        ("42704", "assignable_custom_variable_name", errors.CannotConnect, "NAME=VALUE"),
        ("22023", "parse_and_validate_value", errors.CannotConnect, "NAME=VALUE"),
    ],
)
def test_the_code_decides_and_where_one_has_several_reasons_the_source_function(
    sqlstate: str, function: str, kind: type[errors.CdcOutboxError], cure: str
) -> None:
    error = translate(report(sqlstate, function))
    assert type(error) is kind
    assert cure in error.cure


MESSAGES = {"message", "message_primary", "message_detail", "message_hint"}
"""Attributes that hold what a server has reported."""

OWN_TEXT = ("postgres/errors.py", "check/report.py")
"""Where text decides that no server has a part in: libpq's own messages, and findings that are compared with each other."""


def test_no_decision_is_made_by_the_words_of_a_server() -> None:
    package = Path(cdc_outbox.__file__).parent
    found = []
    for folder in ("postgres", "relay", "check", "commands", "cli"):
        for path in sorted((package / folder).glob("*.py")):
            nodes = filter(_compares_a_message, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
            found += [f"{path.relative_to(package)}:{getattr(node, 'lineno', 0)}" for node in nodes]
    found = [each for each in found if not each.startswith(OWN_TEXT)]
    assert not found


def _compares_a_message(node: ast.AST) -> bool:
    operands: list[ast.AST] = []
    if isinstance(node, ast.Compare) and any(isinstance(each, (ast.In, ast.NotIn, ast.Eq)) for each in node.ops):
        operands = [node.left, *node.comparators]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in {"search", "match", "fullmatch", "findall"}:
            operands = list(node.args)
        elif node.func.attr in {"startswith", "endswith", "find", "index"}:
            operands = [node.func.value]
    return any(_is_message(each) for each in operands)


def _is_message(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str" and node.args:
        return isinstance(node.args[0], ast.Name) and node.args[0].id == "error"
    return isinstance(node, ast.Attribute) and node.attr in MESSAGES
