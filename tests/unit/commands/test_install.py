"""The SQL text: the files as they are shipped, and rendered for other names. That it runs is tests/integration's part."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from cdc_outbox.commands import install
from cdc_outbox.commands.install import (
    PAYLOAD_TYPES,
    SQL_VERSION,
    InstallOptions,
    PayloadType,
    emit_function,
    read_sql,
    render_consumer,
    render_install,
    render_roles,
    render_uninstall,
)
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import TableName, parse_table

SQL = Path(__file__).parents[3] / "sql"
FILES = ("outbox", "delete_after_insert", "message", "roles", "uninstall", "consumer")

ODD = InstallOptions(
    table=TableName('My "Schema"', "it's.the$Outbox"),
    publication="Pub\"li'cation",
    slot="other_1",
    payload_type="bytea",
)
ODD_TABLE = '"My ""Schema"""."it\'s.the$Outbox"'
ODD_TABLE_LITERAL = '\'"My ""Schema"""."it\'\'s.the$Outbox"\''


def code(text: str) -> str:
    """Without comments. No string in the files holds two dashes."""
    return re.sub(r"--.*", "", text)


def comments(text: str) -> list[str]:
    return re.findall(r"--(.*)", text)


def render_all(options: InstallOptions) -> str:
    message = render_install(replace(options, source="message"))
    return (
        render_install(replace(options, delete_after_insert=True))
        + message
        + render_roles(options)
        + render_uninstall(options)
    )


def test_the_defaults_render_the_files_byte_for_byte() -> None:
    options = InstallOptions()

    assert render_install(options) == (SQL / "outbox.sql").read_text()
    assert render_install(replace(options, source="message")) == (SQL / "message.sql").read_text()
    assert render_roles(options) == (SQL / "roles.sql").read_text()
    assert render_uninstall(options) == (SQL / "uninstall.sql").read_text()
    assert render_consumer() == (SQL / "consumer.sql").read_text()


def test_no_default_name_is_left_in_the_code_of_a_rendering_for_other_names() -> None:
    default = code(render_all(InstallOptions()))
    text = code(render_all(ODD))

    names = r"\bpublic\b|\.outbox(?:_emit|_delete)?\b|\bcdc_outbox\b|payload +json\b|'json'"
    assert len(re.findall(names, default)) > 30
    assert re.findall(names, text) == []


def test_an_inbox_by_another_name_leaves_none_of_the_default_ones() -> None:
    text = render_consumer(TableName('My "Schema"', "it's.the$Inbox"))

    names = r"\bpublic\b|\.inbox(?:_claim|_prune)?\b"
    assert len(re.findall(names, code(render_consumer()))) > 10
    assert re.findall(names, code(text)) == []
    assert 'CREATE OR REPLACE FUNCTION "My ""Schema"""."it\'s.the$Inbox_claim"(consumer text' in text
    assert 'DELETE FROM "My ""Schema"""."it\'s.the$Inbox" WHERE' in text
    assert 'inbox_table  constant regclass := \'"My ""Schema"""."it\'\'s.the$Inbox"\';' in text


@pytest.mark.parametrize("name", ["", "i" * 58, "in\nbox"])
def test_the_name_of_an_inbox_is_checked_too(name: str) -> None:
    with pytest.raises(ConfigurationError):
        render_consumer(TableName("public", name))


def test_every_name_goes_in_quoted_for_the_place_where_it_stands() -> None:
    text = render_install(ODD)

    assert f"CREATE TABLE IF NOT EXISTS {ODD_TABLE} (" in text
    assert 'CREATE OR REPLACE FUNCTION "My ""Schema"""."it\'s.the$Outbox_emit"(' in text
    assert f"outbox_table  constant regclass := {ODD_TABLE_LITERAL};" in text
    assert "publication_name  constant name := 'Pub\"li''cation';" in text
    assert f'CREATE PUBLICATION "Pub""li\'cation" FOR TABLE {ODD_TABLE}\n' in text
    assert 'IF to_regnamespace(\'"My ""Schema"""\') IS NULL THEN' in text
    assert 'CREATE SCHEMA "My ""Schema""";' in text
    assert "relay_slot        constant name := 'other_1';" in render_uninstall(ODD)
    assert f"GRANT SELECT ON TABLE {ODD_TABLE} TO cdc_outbox_relay;" in render_roles(ODD)


def test_names_in_comments_are_the_rendered_ones_too() -> None:
    assert f"--   GRANT INSERT ON TABLE {ODD_TABLE} TO cdc_outbox_writer" in render_roles(ODD).splitlines()


def test_inserted_values_are_not_parsed_as_placeholders_again() -> None:
    options = InstallOptions(table=TableName("public.outbox", "SCHEMA public"), publication="PUBLICATION cdc_outbox")

    text = render_install(options)

    assert 'CREATE TABLE IF NOT EXISTS "public.outbox"."SCHEMA public" (' in text
    assert 'CREATE PUBLICATION "PUBLICATION cdc_outbox" FOR TABLE "public.outbox"."SCHEMA public"\n' in text


def test_names_of_roles_and_of_the_version_mark_stay_whatever_the_publication_is_called() -> None:
    text = render_all(ODD)

    assert "GRANT EXECUTE ON FUNCTION" in text
    assert text.count("cdc_outbox_writer") == render_all(InstallOptions()).count("cdc_outbox_writer")
    assert "'cdc-outbox:([0-9]+)'" in text


@pytest.mark.parametrize("payload_type", PAYLOAD_TYPES)
def test_the_payload_type_is_that_of_the_column_of_the_parameter_and_of_the_guards(payload_type: PayloadType) -> None:
    text = render_install(InstallOptions(payload_type=payload_type))

    assert f"    payload       {payload_type},\n    headers       jsonb" in text
    assert f"    payload {payload_type},\n    headers jsonb" in text
    assert text.count(f"payload_type  constant regtype := '{payload_type}';") == 2


def test_a_table_typed_in_sql_notation_keeps_its_dots_and_capitals() -> None:
    assert emit_function(parse_table('"my.app"."Outbox"')).quoted == '"my.app"."Outbox_emit"'
    assert 'CREATE TABLE IF NOT EXISTS "my.app"."Outbox" (' in render_install(
        InstallOptions(table=parse_table('"my.app"."Outbox"'))
    )


def test_uninstall_drops_table_and_roles_only_on_request() -> None:
    options = InstallOptions()

    assert re.findall(r"constant boolean := (\w+)", render_uninstall(options)) == ["false", "false"]
    assert re.findall(r"constant boolean := (\w+)", render_uninstall(options, drop_table=True)) == ["true", "false"]
    assert re.findall(r"constant boolean := (\w+)", render_uninstall(options, drop_roles=True)) == ["false", "true"]


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        ("public", "out\nbox"),
        ("public\0", "outbox"),
        ("public", "out\\box"),
        ("$body$", "outbox"),
        ("public", "a$script$"),
        ("public", "$pinned$"),
        ("public", ""),
        ("s" * 64, "outbox"),
        ("public", "t" * 59),
        ("public", "ü" * 30),
        ("public", "\udcff"),
    ],
)
def test_a_table_name_that_no_quoting_makes_safe_or_that_would_be_cut_is_refused(schema: str, name: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        InstallOptions(table=TableName(schema, name))
    assert refusal.value.cure


def test_the_longest_names_pass() -> None:
    assert InstallOptions(table=TableName("s" * 63, "t" * 58), publication="p" * 63, slot="s" * 63)


@pytest.mark.parametrize("other", [{"source": "message"}, {"partitioned": True}, {"table": TableName("s", "t" * 57)}])
def test_rows_that_are_deleted_at_once_are_rows_of_a_plain_table(other: dict[str, object]) -> None:
    assert InstallOptions(table=TableName("s", "t" * 56), delete_after_insert=True)
    with pytest.raises(ConfigurationError) as refusal:
        InstallOptions(**{"delete_after_insert": True, **other})
    assert refusal.value.cure


def test_rows_are_deleted_by_a_trigger_of_the_table_that_is_named() -> None:
    text = render_install(replace(ODD, delete_after_insert=True))

    assert text.startswith(render_install(ODD))
    assert f"AFTER INSERT ON {ODD_TABLE}\n" in text
    assert text.count('"My ""Schema"""."it\'s.the$Outbox_delete"()') == 4
    assert 'DROP FUNCTION IF EXISTS "My ""Schema"""."it\'s.the$Outbox_delete"();' in render_uninstall(ODD)


@pytest.mark.parametrize("publication", ["", "a\tb", "p" * 64, "x$body$"])
def test_a_publication_name_is_checked_in_the_same_way(publication: str) -> None:
    with pytest.raises(ConfigurationError):
        InstallOptions(publication=publication)


@pytest.mark.parametrize("slot", ["", "Slot", "my-slot", "s" * 64, "a'b", "ü"])
def test_a_slot_name_is_what_the_server_allows(slot: str) -> None:
    with pytest.raises(ConfigurationError, match="slot"):
        InstallOptions(slot=slot)


@pytest.mark.parametrize("file", FILES)
def test_the_files_hold_nothing_that_a_driver_or_a_migration_tool_would_take_for_its_own(file: str) -> None:
    text = read_sql(file)

    assert text.isascii()
    assert "%" not in text, "a driver's placeholder"
    assert "?" not in text, "a driver's placeholder"
    assert "\\" not in text, "a psql command, or an escape"
    assert "${" not in text, "a migration tool's placeholder"
    assert re.findall(r"(?<![:\w]):\w", text) == [], "a named parameter"
    assert re.findall(r"^\s*(BEGIN|START TRANSACTION|COMMIT|ROLLBACK)\s*;", text, re.MULTILINE) == []
    assert [line for line in comments(text) if ";" in line] == [], "the end of a statement for a simple splitter"
    assert [line for line in comments(text) if line.count("'") % 2] == [], "an open string for a simple splitter"
    assert [line for line in text.splitlines() if len(line) > 120] == []


@pytest.mark.parametrize("file", sorted(file.stem for file in SQL.glob("*.sql")))
def test_each_file_is_one_statement_that_pins_the_search_path_and_gives_it_back(file: str) -> None:
    statement = code(read_sql(file)).strip()

    head, pinned, tail = re.split(r"EXECUTE \$script\$|\$script\$;", statement)
    assert head.split("\n") == [
        "DO $pinned$",
        "DECLARE",
        "    callers_path  constant pg_catalog.text := pg_catalog.current_setting('search_path');",
        "BEGIN",
        "PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);",
        "",
    ]
    assert tail.split("\n") == [
        "",
        "PERFORM pg_catalog.set_config('search_path', callers_path, true);",
        "END",
        "$pinned$;",
    ]
    assert "search_path" not in re.sub(r"^SET search_path = pg_catalog, pg_temp$", "", pinned, flags=re.MULTILINE)


def test_the_version_in_the_file_is_the_one_of_status() -> None:
    assert re.findall(r"this_version +constant integer := (\d+);", read_sql("outbox")) == [str(SQL_VERSION)]


def test_an_installed_package_reads_its_own_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_sql").mkdir()
    (tmp_path / "_sql" / "outbox.sql").write_text("-- of the package\n")
    monkeypatch.setattr(install.resources, "files", lambda _: tmp_path)

    assert read_sql("outbox") == "-- of the package\n"


def test_missing_files_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.resources, "files", lambda _: tmp_path)
    monkeypatch.setattr(install, "__file__", str(tmp_path / "a" / "b" / "install.py"))

    with pytest.raises(ConfigurationError, match=r"outbox\.sql is not part of this installation"):
        read_sql("outbox")
