"""The flush LSN is the end of the longest delivered prefix, whatever order deliveries are reported in."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cdc_outbox.errors import ProtocolError
from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.relay.ledger import AckLedger


@dataclass
class Entry:
    """What came: a transaction with its records, or a keepalive, which is a transaction without any."""

    end: int | None
    commit_time: float = 0.0
    delivered: list[bool] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.end is not None and all(self.delivered)


def flush_of(entries: list[Entry], *, before: int = 0) -> int:
    """From scratch: walk from the first entry to the first that is not delivered."""
    flush = before
    for entry in entries:
        if not entry.done:
            break
        assert entry.end is not None
        flush = entry.end
    return flush


class Ledger(RuleBasedStateMachine):
    """Everything a stream may bring and everything Kafka may report, beside a list that forgets nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = AckLedger()
        self.entries: list[Entry] = []
        self.transactions: list[tuple[Transaction, Entry]] = []
        self.open: Entry | None = None
        self.highest = 0
        self.received = 0
        self.events = 0
        self.events_taken = 0
        self.flushed = 0

    @precondition(lambda self: self.open is None)
    @rule(commit_time=st.integers(0, 10**9))
    def begin(self, commit_time: int) -> None:
        self.open = Entry(None, commit_time)
        self.entries.append(self.open)
        self.transactions.append((self.ledger.begin(commit_time), self.open))

    @precondition(lambda self: self.open is not None)
    @rule(records=st.integers(1, 4))
    def hand_over(self, records: int) -> None:
        transaction, entry = self.transactions[-1]
        transaction.outstanding += records
        transaction.events += records
        self.events += records
        entry.delivered += [False] * records

    @precondition(lambda self: self.open is not None)
    @rule(further=st.integers(1, 100))
    def commit(self, further: int) -> None:
        assert self.open is not None
        self.highest += further
        self.ledger.commit(Lsn(self.highest))
        self.open.end = self.highest
        self.open = None
        self.received = max(self.received, self.highest)

    @rule(further=st.integers(-50, 100))
    def keepalive(self, further: int) -> None:
        wal_end = max(0, self.highest + further)
        self.ledger.keepalive(Lsn(wal_end))
        self.received = max(self.received, wal_end)
        if self.open is None and wal_end > self.highest:
            self.highest = wal_end
            self.entries.append(Entry(wal_end))

    @precondition(lambda self: any(not all(entry.delivered) for entry in self.entries))
    @rule(data=st.data())
    def report(self, data: st.DataObject) -> None:
        """Any record of any transaction: the order of reports means nothing across partitions."""
        waiting = [pair for pair in self.transactions if not all(pair[1].delivered)]
        transaction, entry = data.draw(st.sampled_from(waiting))
        transaction.outstanding -= 1
        entry.delivered[entry.delivered.index(False)] = True

    @rule()
    def report_everything(self) -> None:
        for transaction, entry in self.transactions:
            transaction.outstanding = 0
            entry.delivered = [True] * len(entry.delivered)

    @rule()
    def advance(self) -> None:
        taken = self.ledger.advance()
        self.events_taken += sum(transaction.events for transaction in taken)
        assert self.ledger.flush_lsn == flush_of(self.entries)
        done = next((number for number, entry in enumerate(self.entries) if not entry.done), len(self.entries))
        assert self.events_taken == sum(len(entry.delivered) for entry in self.entries[:done])
        assert self.ledger.idle == (done == len(self.entries))

    @precondition(lambda self: self.open is not None)
    @rule()
    def a_second_begin_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="Begin inside a transaction"):
            self.ledger.begin(0)

    @precondition(lambda self: self.open is None)
    @rule(end_lsn=st.integers(0, 2**64 - 1))
    def a_commit_without_a_begin_is_refused(self, end_lsn: int) -> None:
        with pytest.raises(ProtocolError, match="Commit without a Begin"):
            self.ledger.commit(Lsn(end_lsn))

    @precondition(lambda self: self.open is not None)
    @rule(back=st.integers(0, 100))
    def a_commit_that_does_not_go_forward_is_refused(self, back: int) -> None:
        with pytest.raises(ProtocolError, match="ends at or before"):
            self.ledger.commit(Lsn(max(0, self.highest - back)))

    @invariant()
    def nothing_undelivered_is_passed(self) -> None:
        assert self.ledger.flush_lsn <= flush_of(self.entries)

    @invariant()
    def the_received_lsn_is_the_highest_of_all_commits_and_keepalives(self) -> None:
        assert self.ledger.received_lsn == self.received
        assert self.ledger.flush_lsn <= self.ledger.received_lsn

    @invariant()
    def the_flush_lsn_only_grows(self) -> None:
        assert self.ledger.flush_lsn >= self.flushed
        self.flushed = self.ledger.flush_lsn

    @invariant()
    def the_oldest_is_the_first_that_is_not_delivered(self) -> None:
        waiting = (entry.commit_time for entry in self.entries if not entry.done)
        assert self.ledger.oldest_commit_time == next(waiting, None)

    @invariant()
    def a_transaction_is_open_from_its_begin_to_its_commit(self) -> None:
        assert self.ledger.in_transaction == (self.open is not None)

    def teardown(self) -> None:
        """Whatever happened: once everything is reported and committed, the last end is reached."""
        self.report_everything()
        self.ledger.advance()
        assert self.ledger.flush_lsn == flush_of(self.entries)
        assert self.ledger.idle == (self.open is None)
        if self.open is None:
            assert self.ledger.flush_lsn == self.highest


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def handed_over(ledger: AckLedger, end_lsn: int, records: int = 1, commit_time: float = 0.0) -> Transaction:
    """A whole transaction, nothing of it delivered."""
    transaction = ledger.begin(commit_time)
    transaction.outstanding = transaction.events = records
    ledger.commit(Lsn(end_lsn))
    return transaction


def test_a_new_ledger_confirms_nothing() -> None:
    ledger = AckLedger()
    assert ledger.advance() == []
    assert (ledger.flush_lsn, ledger.idle, ledger.in_transaction, ledger.oldest_commit_time) == (
        UNSET,
        True,
        False,
        None,
    )


def test_a_later_transaction_waits_for_an_earlier_one() -> None:
    ledger = AckLedger()
    first, second = handed_over(ledger, 100), handed_over(ledger, 200)
    second.outstanding -= 1
    assert ledger.advance() == []
    assert ledger.flush_lsn == UNSET
    first.outstanding -= 1
    assert ledger.advance() == [first, second]
    assert ledger.flush_lsn == 200


def test_an_open_transaction_is_not_delivered_though_all_of_it_so_far_is() -> None:
    ledger = AckLedger()
    transaction = ledger.begin(0)
    transaction.events = 3
    assert ledger.advance() == []
    ledger.commit(Lsn(100))
    assert ledger.advance() == [transaction]
    assert ledger.flush_lsn == 100


def test_a_quiet_outbox_in_a_busy_database_moves_with_the_keepalives() -> None:
    ledger = AckLedger()
    for wal_end in (100, 200, 300):
        ledger.keepalive(Lsn(wal_end))
        assert ledger.flush_lsn == wal_end
    assert ledger.idle


def test_a_keepalive_behind_an_undelivered_transaction_waits_for_it() -> None:
    ledger = AckLedger()
    transaction = handed_over(ledger, 100)
    ledger.keepalive(Lsn(500))
    ledger.advance()
    assert ledger.flush_lsn == UNSET
    transaction.outstanding -= 1
    ledger.advance()
    assert ledger.flush_lsn == 500


def test_a_keepalive_inside_a_transaction_moves_nothing() -> None:
    """Measured: while a large transaction is sent, keepalives carry its commit LSN."""
    ledger = AckLedger()
    transaction = ledger.begin(0)
    transaction.events = transaction.outstanding = 1
    ledger.keepalive(Lsn(99))
    transaction.outstanding -= 1
    ledger.advance()
    assert ledger.flush_lsn == UNSET
    ledger.commit(Lsn(100))
    ledger.advance()
    assert ledger.flush_lsn == 100


def test_a_keepalive_that_lies_back_is_left() -> None:
    """After a reconnect decoding starts again at the restart LSN, and the first ones are lower than what is confirmed."""
    ledger = AckLedger()
    ledger.keepalive(Lsn(100))
    ledger.keepalive(Lsn(50))
    ledger.keepalive(UNSET)
    assert ledger.flush_lsn == 100


def test_no_lsn_is_reported_below_what_the_slot_has_confirmed() -> None:
    """Decoding begins at the restart LSN, before the confirmed one, and the first keepalives tell how far it is."""
    ledger = AckLedger(Lsn(100))
    ledger.keepalive(Lsn(99))
    assert ledger.flush_lsn == UNSET
    ledger.keepalive(Lsn(100))
    assert ledger.flush_lsn == 100


def test_any_number_of_keepalives_behind_a_stuck_transaction_is_one_entry() -> None:
    ledger = AckLedger()
    handed_over(ledger, 1)
    for wal_end in range(2, 10_000):
        ledger.keepalive(Lsn(wal_end))
    assert len(ledger._queue) == 2


def test_empty_transactions_join_the_keepalives() -> None:
    """Servers before 15 send Begin and Commit for every transaction of the database."""
    ledger = AckLedger()
    transaction = handed_over(ledger, 10)
    handed_over(ledger, 20, records=0)
    ledger.keepalive(Lsn(30))
    transaction.outstanding = 0
    ledger.advance()
    assert ledger.flush_lsn == 30


def test_a_report_from_an_earlier_connection_moves_nothing() -> None:
    earlier, now = AckLedger(), AckLedger()
    late = handed_over(earlier, 1000)
    waiting = handed_over(now, 500)
    late.outstanding -= 1
    assert now.advance() == []
    assert now.flush_lsn == UNSET
    assert waiting.outstanding == 1


def test_the_oldest_commit_is_that_of_the_first_that_waits() -> None:
    ledger = AckLedger()
    first, _ = handed_over(ledger, 100, commit_time=1.0), handed_over(ledger, 200, commit_time=2.0)
    assert ledger.oldest_commit_time == 1.0
    first.outstanding = 0
    assert ledger.oldest_commit_time == 2.0


def test_an_open_transaction_counts_as_waiting() -> None:
    ledger = AckLedger()
    ledger.begin(3.0)
    assert ledger.oldest_commit_time == 3.0
    assert not ledger.idle


def test_a_keepalive_never_counts_as_waiting_and_an_error_names_the_lsn() -> None:
    ledger = AckLedger()
    transaction = handed_over(ledger, 0x1_00000000, commit_time=1.0)
    ledger.keepalive(Lsn(0x2_00000000))
    transaction.outstanding = 0
    assert ledger.oldest_commit_time is None
    ledger.begin(2.0)
    with pytest.raises(ProtocolError, match="ends at or before 2/0") as raised:
        ledger.commit(Lsn(0x1_FFFFFFFF))
    assert raised.value.where == {"lsn": "1/FFFFFFFF"}
