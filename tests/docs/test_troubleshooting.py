"""Whoever has an error message in hand finds it in docs/troubleshooting.md, by its words."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest

from tests.docs.messages import messages
from tests.docs.pages import ROOT, block, read

if TYPE_CHECKING:
    from tests.plugins.postgres import Database

PAGE: Final = "docs/troubleshooting.md"

ALSO: Final = {
    "replication slot … is active for PID …": "PostgreSQL's words, passed on as they are",
    "this is a bug in cdc-outbox": "what stands below a traceback",
    "malformed pgoutput …": "one entry for all protocol errors",
    "--shard and --prune-after exclude each other: a shard's slot does not show what the other shards have delivered": "usage",
    "--source message and --prune-after exclude each other: messages are in no table, so there is nothing to delete": "usage",
    "--partitions-ahead needs --prune-after": "usage",
    "standby": "an event at level info, which makes people ask",
}
"""Entries beside the messages of our errors and the events at level warning or error, and why."""


def entries() -> dict[str, str]:
    """By title, the text below it. Titles that follow one another share the text."""
    found: dict[str, str] = {}
    waiting: list[str] = []
    for part in re.split(r"^(?=##)", read(PAGE).prose, flags=re.MULTILINE):
        heading, _, text = part.partition("\n")
        title = re.fullmatch(r"### `(.+)`", heading)
        if title is None:
            assert not waiting, f"nothing is said about {waiting}"
            continue
        assert title[1] not in found, f"{title[1]!r} is there twice"
        waiting.append(title[1])
        found[title[1]] = ""
        if text.strip():
            found |= dict.fromkeys(waiting, text.strip())
            waiting = []
    return found


def loud_events() -> set[str]:
    """Events at level warning or error. The reference is held against the code by a test of its own."""
    table = (ROOT / "docs" / "reference" / "logs.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w.-]+)` \| ([\w, ]+) \|", table, re.MULTILINE)
    return {event for event, levels in rows if {"warning", "error", "any"} & set(levels.split(", "))}


def test_every_message_that_the_program_can_print_is_found_by_its_words() -> None:
    missing = sorted(set(messages()) - set(entries()))

    assert not missing, f"{PAGE} lacks a heading, ### `…`, for {missing}"


def test_every_warning_of_the_log_is_there() -> None:
    assert loud_events() >= {"kafka.unreachable", "postgres.disconnected", "backpressure", "stopped"}
    assert sorted(loud_events() - set(entries())) == []


def test_nothing_is_explained_that_nobody_prints_any_more() -> None:
    assert sorted(set(entries()) - set(messages()) - loud_events() - set(ALSO)) == []


def test_every_entry_says_with_which_exit_code_it_ends_or_that_the_relay_tries_again() -> None:
    said = entries()
    for message, codes in messages().items():
        named = {int(code) for code in re.findall(r"\b\d\d\b", re.sub(r"`[^`]*`", "", said[message])[:200])}
        assert codes <= named, f"{message!r} ends with {codes}: {said[message]!r}"
        assert ("Waits (69)" in said[message]) == (69 in codes), message


def test_the_oracle_reads_messages_of_every_way_in_which_the_program_makes_them() -> None:
    found = messages()

    assert found["stopped before it was done"] == {75}
    assert found["slot … is lost: the server has removed WAL that it still needed"] == {78}
    assert found["PostgreSQL refuses the login: …"] == {77}, "made by a function that is given the beginning"
    assert found["the file that … names is empty"] == {78}, "made by a method that is given the end"
    assert found["Kafka refuses the login: …"] == {77}, "made from a table"
    assert len(found) > 100


@pytest.mark.parametrize(
    "first_line",
    [
        "SELECT slot_name, active, wal_status, safe_wal_size,",
        "SELECT pid, datname, usename, application_name, state, xact_start",
    ],
)
def test_its_queries_run(database: Database, first_line: str) -> None:
    database.execute("SELECT pg_create_logical_replication_slot('kept', 'pgoutput')")
    with database.connect(autocommit=False) as connection:
        connection.execute("SELECT 1")
        query = block(PAGE, first_line).text.replace("interval '10 minutes'", "interval '0'")
        assert database.execute(query)
