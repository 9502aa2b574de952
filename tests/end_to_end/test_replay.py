"""Replay: the same records once more, marked, of just the rows that were chosen; the slot does not notice."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.plugins.command import run_command, started_command
from tests.plugins.outbox import event_id, ids
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    import subprocess

    from tests.plugins.kafka import Record
    from tests.plugins.outbox import Outbox

MARK: Final = "outbox.replay"


def arguments(outbox: Outbox, *more: str) -> list[str]:
    return ["replay", "-b", outbox.kafka.brokers, "--topic", outbox.prefix + "{aggregatetype}", *more]


def replay(outbox: Outbox, *more: str, dsn: str = "") -> subprocess.CompletedProcess[str]:
    return run_command(*arguments(outbox, *more), dsn=dsn or outbox.database.dsn)


def marked(records: list[Record]) -> list[Record]:
    return [record for record in records if any(name == MARK for name, _ in record.headers)]


def without_mark(record: Record) -> tuple[Any, ...]:
    headers = [header for header in record.headers if header[0] != MARK]
    return record.topic, record.partition, record.key, record.value, headers


def test_the_same_records_come_once_more_marked_in_the_order_of_seq_and_the_slot_stays_where_it_was(
    outbox: Outbox,
) -> None:
    outbox.create()
    for number in range(30):
        outbox.add(aggregateid=str(number % 3), payload=f'{{"n":  {number}}}', headers='{"a": "b", "c": 1.50}')
    outbox.drain()
    first = outbox.records()
    before = outbox.slot()
    began = time.time()
    done = replay(outbox, "--key", "1", "--key", "2", "--yes")
    assert (done.returncode, done.stdout) == (0, "public.outbox 20\n"), done.stderr
    assert "sent: 20 rows" in done.stderr
    again = marked(outbox.records())
    for key in (b"1", b"2"):
        wanted = [without_mark(record) for record in first if record.key == key]
        assert [without_mark(record) for record in again if record.key == key] == wanted
        assert len(wanted) == 10
    assert len(again) == 20
    for record in again:
        stamp = datetime.fromisoformat((record.header(MARK) or b"").decode())
        assert began - 1 < stamp.timestamp() < time.time()
    assert outbox.slot() == before


def test_a_dry_run_shows_how_many_and_the_first_of_them_and_needs_no_kafka(outbox: Outbox) -> None:
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox ADD created_at timestamptz")
    written = [outbox.add(aggregateid=str(n), created_at=f"2026-01-{n:02} 12:00Z") for n in range(1, 21)]

    def chosen(*selection: str) -> tuple[int, list[str]]:
        done = run_command("replay", "--dry-run", *selection, dsn=outbox.database.dsn)
        assert done.returncode == 0, done.stderr
        shown = [line.split()[0] for line in done.stderr.splitlines() if " to outbox.event.order" in line]
        return int(done.stdout.split()[1]), shown

    assert chosen("--all") == (20, written[:10])
    assert chosen("--id", written[3].upper(), "--id", written[7]) == (2, [written[3], written[7]])
    assert chosen("--key", "5") == (1, [written[4]])
    assert chosen("--key", "5", "--to-seq", "4") == (0, [])
    assert chosen("--from-seq", "3", "--to-seq", "4") == (2, written[2:4])
    assert chosen("--since", "2026-01-18", "--until", "2026-01-20T12:00:00+00:00") == (2, written[17:19])
    assert chosen("--since", "2026-01-20T13:00+01:00") == (1, [written[19]])
    assert not outbox.slots()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "which rows?"),
        (["--since", "yesterday"], "ISO 8601"),
        (["--all", "--rate", "0"], "above 0"),
    ],
)
def test_ambiguous_arguments_are_a_usage_error(given: list[str], said: str) -> None:
    done = run_command("replay", "--dry-run", *given)
    assert done.returncode == 2
    assert said in " ".join(done.stderr.split())


def test_without_a_terminal_it_needs_yes(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    done = replay(outbox, "--all")
    assert (done.returncode, done.stdout) == (2, "public.outbox 1\n")
    assert "--yes" in done.stderr
    assert outbox.records() == []


def test_at_a_rate_it_takes_its_time_and_an_interrupted_one_ends_with_75(outbox: Outbox) -> None:
    outbox.create()
    outbox.add_all([{} for _ in range(300)])
    began = time.monotonic()
    done = replay(outbox, "--from-seq", "1", "--to-seq", "60", "--rate", "40", "--yes")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began > 1.3
    with started_command(*arguments(outbox, "--all", "--rate", "20", "--yes"), dsn=outbox.database.dsn) as command:
        eventually(lambda: len(outbox.records()) > 65, "the second one sends")
        command.interrupt()
        assert command.wait() == 75
        assert "stopped after" in "".join(command.stderr)
    assert len(marked(outbox.records())) < 300


def test_an_event_that_cannot_be_sent_meets_the_policy(outbox: Outbox) -> None:
    outbox.create()
    good, bad, behind = outbox.add(), outbox.add(aggregatetype="no topic"), outbox.add()
    shown = replay(outbox, "--all", "--dry-run")
    assert "cannot be sent" in shown.stderr
    assert bad in shown.stderr
    stopped = replay(outbox, "--all", "--yes")
    assert stopped.returncode == 65
    assert bad in stopped.stderr
    skipped = replay(outbox, "--all", "--yes", "--on-poison", "skip")
    assert skipped.returncode == 0, skipped.stderr
    assert {good, behind} == set(ids(outbox.records()))
    letters = outbox.prefix + "letters"
    sent = replay(outbox, "--id", bad, "--yes", "--on-poison", "dead-letter", "--dead-letter-topic", letters)
    assert sent.returncode == 0, sent.stderr
    (letter,) = [record for record in outbox.records() if record.topic == letters]
    assert event_id(letter) == bad


def test_a_role_that_may_not_read_gets_the_grant_as_cure(outbox: Outbox) -> None:
    outbox.create()
    outbox.add()
    outbox.database.execute("CREATE ROLE blind LOGIN PASSWORD 'blind-password'")
    done = replay(outbox, "--all", "--yes", dsn=outbox.database.dsn_for("blind", "blind-password"))
    assert done.returncode == 77
    assert "role blind may not read public.outbox: " in done.stderr
    assert 'GRANT SELECT ON "public"."outbox" TO "blind"' in done.stderr
    assert "--no-snapshot" not in done.stderr


def test_a_table_without_the_column_of_the_option_is_refused_with_its_name(outbox: Outbox) -> None:
    outbox.create()
    done = run_command("replay", "--since", "2026-01-01", "--dry-run", dsn=outbox.database.dsn)
    assert done.returncode == 78
    assert "cannot be chosen by time" in done.stderr


def test_its_last_rows_do_not_wait_for_others(outbox: Outbox) -> None:
    outbox.create()
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    outbox.add_all([{} for _ in range(5)])
    began = time.monotonic()
    done = replay(outbox, "--all", "--yes", "-X", "linger.ms=20000")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 10
