"""One stage at a time, in nanoseconds: decode, plan, route, ledger. For `make bench-micro`; no part of `make test`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from benchmarks.fed import Feed, row
from cdc_outbox.config.settings import Settings
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import pgoutput, wire
from cdc_outbox.records.mapping import Mappings, RowMapping
from cdc_outbox.relay.ledger import AckLedger
from tests.plugins import wire_builder as build
from tests.plugins.scripted import begin, commit

AT = wire.XLOGDATA_HEADER_BYTES

RELATION = build.relation()
BEGIN = begin(0x1000000)
COMMIT = commit(0x1000000)
ROW = row(4711)
ROW_WITH_HEADERS = row(4711, b'{"tenant": "a", "source": "web"}')
ROW_WITH_NUMBERS = row(4711, b'{"tenant": "a", "attempt": 3}')


class Benchmark(Protocol):
    """pytest-benchmark's fixture."""

    def __call__(self, function: Callable[..., object], *arguments: object) -> object:
        """Call it very often, and time it."""


def mapping() -> RowMapping:
    """The way of the rows of the table that `sql install` makes."""
    relation = pgoutput.decode(RELATION)
    assert isinstance(relation, pgoutput.Relation)
    return Mappings(Settings(brokers="b")).rows(relation)


def test_decode_begin(benchmark: Benchmark) -> None:
    """The first message of a transaction."""
    benchmark(pgoutput.begin_reader(AT), BEGIN)


def test_decode_commit(benchmark: Benchmark) -> None:
    """The last one."""
    benchmark(pgoutput.commit_reader(AT), COMMIT)


def test_decode_relation(benchmark: Benchmark) -> None:
    """Once for each connection, and after each change of the table."""
    benchmark(pgoutput.decode, RELATION, 0)


def test_plan_compiled(benchmark: Benchmark) -> None:
    """Once for each connection too."""
    benchmark(mapping)


def test_plan_reads_a_row(benchmark: Benchmark) -> None:
    """An Insert becomes an event."""
    benchmark(mapping().event, ROW)


def test_row_to_record(benchmark: Benchmark) -> None:
    """An Insert becomes an event, and that a record."""
    benchmark(mapping().record, ROW, Transaction(1_794_000_000_000))


def test_row_with_headers(benchmark: Benchmark) -> None:
    """A headers object of strings is parsed."""
    benchmark(mapping().record, ROW_WITH_HEADERS, Transaction(1_794_000_000_000))


def test_row_with_a_number_among_the_headers(benchmark: Benchmark) -> None:
    """One with a number keeps the number's text, which takes another way."""
    benchmark(mapping().record, ROW_WITH_NUMBERS, Transaction(1_794_000_000_000))


def test_ledger_one_transaction(benchmark: Benchmark) -> None:
    """Begin, ten records out, ten reports in, commit, acknowledged."""
    ledger, lsn = AckLedger(), 0x1000000

    def turn() -> None:
        nonlocal lsn
        lsn += 400
        transaction = ledger.begin(0, Lsn(lsn))
        for _ in range(10):
            transaction.outstanding += 1
            transaction.events += 1
        ledger.commit(Lsn(lsn + 8))
        for _ in range(10):
            transaction.outstanding -= 1
        ledger.advance()

    benchmark(turn)


def test_the_whole_path_of_a_thousand_rows(benchmark: Benchmark) -> None:
    """From the message to the acknowledgement, with nothing at either end. As `make bench-check`."""
    feed = Feed(1000, 10)
    benchmark(feed.run)
