"""Names and parameters, as each driver must get them."""

from __future__ import annotations

import pytest

from cdc_outbox.app.calls import colon, dollar, explain, function_call, function_of, percent
from cdc_outbox.identifiers import TableName, parse_table

CALL = function_call('"public"."outbox_emit"', ("text", "json", "bytea"), ("order", "{}", b""), "Install it.")


def test_each_parameter_is_sent_as_text_or_bytea_in_the_style_of_the_driver() -> None:
    assert (
        CALL.sql(percent) == 'SELECT "public"."outbox_emit"('
        "CAST(%s AS pg_catalog.text), CAST(CAST(%s AS pg_catalog.text) AS pg_catalog.json), CAST(%s AS pg_catalog.bytea))"
    )
    assert (
        CALL.sql(dollar) == 'SELECT "public"."outbox_emit"('
        "CAST($1 AS pg_catalog.text), CAST(CAST($2 AS pg_catalog.text) AS pg_catalog.json), CAST($3 AS pg_catalog.bytea))"
    )
    assert (
        CALL.sql(colon) == 'SELECT "public"."outbox_emit"('
        "CAST(:p1 AS pg_catalog.text), CAST(CAST(:p2 AS pg_catalog.text) AS pg_catalog.json), CAST(:p3 AS pg_catalog.bytea))"
    )


@pytest.mark.parametrize(
    "table", ["outbox", "public.outbox", "App.Outbox", '"App"."Out""box"', '"a.b".c', "größe", "_x.y1$", '"x y"']
)
def test_a_table_is_the_one_that_the_commands_understand(table: str) -> None:
    named = parse_table(table)

    assert function_of(table, "_emit") == TableName(named.schema, f"{named.name}_emit").quoted


class ServerError(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("permission denied")
        self.sqlstate = sqlstate


class Wrapped(Exception):
    def __init__(self, orig: Exception) -> None:
        super().__init__(str(orig))
        self.orig = orig


@pytest.mark.parametrize(
    ("state", "said"), [("42883", "Install it."), ("3F000", "Install it."), ("42501", "EXECUTE on")]
)
def test_a_note_is_added_also_to_a_wrapped_error(state: str, said: str) -> None:
    caused = RuntimeError("something else")
    caused.__cause__ = ServerError(state)
    for error in (ServerError(state), Wrapped(ServerError(state)), Wrapped(Wrapped(ServerError(state))), caused):
        explain(error, CALL)
        assert said in error.__notes__[0]


@pytest.mark.parametrize("error", [ServerError("22P02"), ValueError("x"), Wrapped(ValueError("x"))])
def test_other_errors_are_left_as_they_are(error: Exception) -> None:
    explain(error, CALL)

    assert not hasattr(error, "__notes__")
