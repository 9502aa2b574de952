"""Judged once all is healed and quiet: nothing lost, nothing invented, nothing out of order, nothing confirmed too early.

In: what the witness saw committed, what the writers know, what a consumer reads, what the watch sampled. Out: a `Verdict`.
Never: a word of the relay's taken for it.

Four independent checks:

* the oracle: committed events are consumed, nothing else is, each key in commit order (`tests.plugins.oracle`);
* the writers' own numbers: for a key that one writer has, the first coming of each row in the order of writing, whatever the
  witness says; what was surely committed is in the witness, what was surely rolled back is not;
* key, topic and value of every record are what was written, byte for byte;
* the confirmed flush LSN: topics stamp records with the broker's clock on arrival (LogAppendTime), which is this machine's.
  When a sample says that the server had confirmed `c` by the time `t`, every event of a transaction that ends at or before
  `c` must have arrived by `t`. It cannot raise a false alarm: the sample's time is taken after the server's answer, and what
  is confirmed was delivered, so it had arrived, earlier still. It can miss what is early by less than the 30 ms between two
  samples.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cdc_outbox.lsn import format_lsn
from tests.plugins.oracle import examine
from tests.plugins.outbox import event_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.watch import Sample
    from tests.chaos.writers import Writers, Written
    from tests.plugins.kafka import Record
    from tests.plugins.oracle import Event, Transaction

SHOWN = 10
"""Of each sort of finding."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Numbers, and a line for each thing that is wrong."""

    transactions: int
    events: int
    records: int
    duplicates: int
    lost: int
    out_of_order: int
    """Keys."""
    early: int
    """Transactions that were confirmed before they had arrived."""
    findings: list[str]


def judge(
    transactions: Sequence[Transaction],
    records: Sequence[Record],
    writers: Writers,
    samples: Sequence[Sample],
    *,
    prefix: str,
) -> Verdict:
    """Hold everything against everything. `prefix`: of the topics."""
    written = writers.written
    committed = [event for transaction in transactions for event in transaction.events]
    found = examine(committed, records, rolled_back=writers.rolled_back)
    numbers = _out_of_number(records, written)
    early = _early(transactions, records, samples)
    findings = [
        *_listed("lost", [_row(written, event.id) for event in found.lost]),
        *_listed("rolled back, and sent all the same", [_row(written, event.id) for event in found.ghosts]),
        *_listed("never committed, or under another key", [_row(written, event.id) for event in found.strangers]),
        *_listed(
            "out of commit order",
            [
                f"key {key}: {_row(written, wanted)} was due, {_row(written, came)} came"
                for key, (wanted, came) in found.disorder.items()
            ],
        ),
        *_listed("out of the order in which one writer wrote", numbers),
        *_listed("confirmed before it had arrived", early),
        *_listed("not as written", _changed(records, written, prefix)),
        *_listed("answered as committed, but not in the database", _broken_word(committed, writers)),
    ]
    return Verdict(
        transactions=len(transactions),
        events=len(committed),
        records=len(records),
        duplicates=found.duplicates,
        lost=len(found.lost),
        out_of_order=len({*found.disorder, *(line.split()[1].rstrip(":") for line in numbers)}),
        early=len(early),
        findings=findings,
    )


def _out_of_number(records: Sequence[Record], written: dict[str, Written]) -> list[str]:
    """Keys of one writer whose rows did not come in the order of their numbers, duplicates dropped."""
    wrong: dict[str, str] = {}
    last: dict[str, int] = {}
    for id_ in dict.fromkeys(event_id(record) for record in records):
        row = written.get(id_)
        if row is None or not row.number:
            continue
        if row.number < last.get(row.key, 0):
            wrong.setdefault(row.key, f"key {row.key}: number {row.number} came after {last[row.key]}")
        last[row.key] = row.number
    return list(wrong.values())


def _early(transactions: Sequence[Transaction], records: Sequence[Record], samples: Sequence[Sample]) -> list[str]:
    """Transactions with an event that arrived after a sample said that they were confirmed."""
    arrived: dict[str, int] = {}
    for record in records:
        id_ = event_id(record)
        arrived[id_] = min(record.timestamp, arrived.get(id_, record.timestamp))
    highest: list[
        Sample
    ] = []  # samples that say more than all before them: a server that crashed may say less for a while
    for sample in samples:
        if not highest or sample.confirmed > highest[-1].confirmed:
            highest.append(sample)
    wrong = []
    for transaction in transactions:
        place = bisect_left(highest, transaction.end_lsn, key=lambda sample: sample.confirmed)
        times = [arrived[event.id] for event in transaction.events if event.id in arrived]
        if place < len(highest) and (len(times) < len(transaction.events) or max(times) > highest[place].time):
            late = max(times) - highest[place].time if times else float("inf")
            wrong.append(
                f"{format_lsn(transaction.end_lsn)} ({len(transaction.events)} events) by {late:.0f} ms: "
                f"the slot stood at {format_lsn(highest[place].confirmed)}"
            )
    return wrong


def _changed(records: Sequence[Record], written: dict[str, Written], prefix: str) -> list[str]:
    wrong: dict[str, list[str]] = defaultdict(list)
    for record in records:
        id_ = event_id(record)
        row = written.get(id_)
        if row is None:
            continue  # a stranger, found elsewhere
        wanted = (prefix + row.aggregate_type, row.key.encode(), row.payload.encode())
        if (record.topic, record.key, record.value) != wanted:
            wrong[id_].append(f"{_row(written, id_)} in {record.topic} at {record.partition}/{record.offset}")
    return [lines[0] for lines in wrong.values()]


def _broken_word(committed: Sequence[Event], writers: Writers) -> list[str]:
    """PostgreSQL's, or ours: if this happens, the seed proves nothing."""
    ids = {event.id for event in committed}
    lost = [f"{id_} was committed, says the server's answer" for id_ in writers.committed - ids]
    return lost + [f"{id_} was rolled back" for id_ in writers.rolled_back & ids]


def _row(written: dict[str, Written], id_: str) -> str:
    row = written.get(id_)
    return f"{id_} (nobody wrote it)" if row is None else f"{id_} (key {row.key}, number {row.number or '-'})"


def _listed(what: str, lines: list[str]) -> list[str]:
    more = [f"{what}: and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return [f"{what}: {line}" for line in lines[:SHOWN]] + more
