"""Names are parsed as SQL would, and quoted as SQL and the replication commands need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName, parse_table, quote_identifier, quote_literal

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("outbox", "public", "outbox"),
        ("app.outbox", "app", "outbox"),
        ("App.OutBox", "app", "outbox"),
        ('"App"."OutBox"', "App", "OutBox"),
        ('app."Out.Box"', "app", "Out.Box"),
        ('"say ""hi""".t', 'say "hi"', "t"),
        (" app . outbox ", "app", "outbox"),
        ('"with space"', "public", "with space"),
        ("events_2026", "public", "events_2026"),
        ("ÄPFEL", "public", "Äpfel"),
        ("İstanbul", "public", "İstanbul"),
    ],
)
def test_unquoted_parts_fold_as_the_server_folds_them(text: str, schema: str, name: str) -> None:
    """Only A to Z: in UTF-8 databases PostgreSQL leaves every other letter as it is."""
    assert parse_table(text) == TableName(schema, name)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        ".",
        "a.",
        ".a",
        "a..b",
        "a.b.c",
        "a b",
        '"a',
        'a"',
        '""',
        '"a"b',
        'a."',
        '"a\0"',
        "a\0",
        '"a" "b"',
        "a.b.",
    ],
)
def test_what_is_no_table_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a table name"):
        parse_table(text)


@given(names, names)
def test_a_table_name_reads_back_from_how_it_is_shown_and_how_it_is_quoted(schema: str, name: str) -> None:
    table = TableName(schema, name)
    assert parse_table(str(table)) == table
    assert parse_table(table.quoted) == table


@given(st.text(max_size=30))
def test_parsing_ends_in_a_name_or_a_value_error(text: str) -> None:
    try:
        table = parse_table(text)
    except ValueError:
        return
    assert table.schema
    assert table.name


def test_plain_names_are_shown_without_quotes() -> None:
    assert str(TableName("app", "outbox_2")) == "app.outbox_2"
    assert str(TableName("App", "out box")) == '"App"."out box"'


@given(names)
def test_a_quoted_identifier_ends_only_where_it_should(name: str) -> None:
    quoted = quote_identifier(name)
    assert (quoted[0], quoted[-1]) == ('"', '"')
    assert '"' not in quoted[1:-1].replace('""', "")
    assert quoted[1:-1].replace('""', '"') == name


@given(names)
def test_a_literal_doubles_its_quotes_and_leaves_backslashes(value: str) -> None:
    quoted = quote_literal(value)
    assert (quoted[0], quoted[-1]) == ("'", "'")
    assert "'" not in quoted[1:-1].replace("''", "")
    assert quoted[1:-1].replace("''", "'") == value


def test_a_nul_cannot_be_quoted() -> None:
    for quote in (quote_identifier, quote_literal):
        with pytest.raises(ConfigurationError, match="NUL"):
            quote("a\0b")
