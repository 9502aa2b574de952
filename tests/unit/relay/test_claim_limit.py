"""What may be confirmed after looks at the catalog, described relations and delivered rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cdc_outbox.kafka.transaction import Transaction
from cdc_outbox.lsn import UNSET, Lsn
from cdc_outbox.relay import claim_limit
from cdc_outbox.relay.claim_limit import BLIND_SECONDS, LOOK_SECONDS, ClaimLimit
from tests.plugins.scripted import Clock

if TYPE_CHECKING:
    import pytest


def rows(lsn: int) -> Transaction:
    """A delivered transaction with a row, that ends one byte behind its commit LSN."""
    transaction = Transaction(0, Lsn(lsn))
    transaction.end_lsn = Lsn(lsn + 1)
    transaction.events = 1
    return transaction


def test_the_position_of_a_keepalive_is_confirmed_up_to_the_last_look() -> None:
    limit = ClaimLimit(Lsn(100))
    assert limit.claim(Lsn(90)) == 90
    assert limit.claim(Lsn(500)) == 100
    limit.looked(Lsn(300))
    assert limit.claim(Lsn(500)) == 300


def test_rows_of_a_relation_that_was_described_before_are_confirmed_at_once() -> None:
    limit = ClaimLimit(Lsn(100))
    limit.delivered([rows(200)])
    assert limit.claim(Lsn(201)) == 201
    assert not limit.holds_rows


def test_a_described_relation_holds_its_transaction_and_all_later_ones_until_a_look_covers_it() -> None:
    limit = ClaimLimit(Lsn(100))
    limit.delivered([rows(200)])
    limit.described(Lsn(300))
    assert limit.look_wanted.is_set()
    limit.delivered([rows(300), rows(350)])
    assert limit.claim(Lsn(351)) == 201
    assert limit.holds_rows
    limit.looked(Lsn(299))
    assert limit.claim(Lsn(351)) == 299
    limit.looked(Lsn(320))
    assert limit.claim(Lsn(351)) == 351
    assert not limit.holds_rows


def test_a_second_description_also_waits_for_a_later_look() -> None:
    limit = ClaimLimit(Lsn(100))
    limit.described(Lsn(200))
    limit.described(Lsn(300))
    limit.delivered([rows(200), rows(300)])
    limit.looked(Lsn(250))
    assert limit.claim(Lsn(301)) == 250
    limit.looked(Lsn(310))
    assert limit.claim(Lsn(301)) == 301


def test_a_backlog_from_before_the_look_is_not_held() -> None:
    limit = ClaimLimit(Lsn(1000))
    limit.described(Lsn(200))
    limit.delivered([rows(200)])
    assert limit.claim(Lsn(201)) == 201
    assert not limit.look_wanted.is_set()


def test_a_transaction_delivered_before_the_described_one_is_confirmed() -> None:
    limit = ClaimLimit(Lsn(100))
    limit.described(Lsn(300))
    limit.delivered([rows(200)])
    assert limit.claim(Lsn(201)) == 201


def test_a_keepalive_that_waits_for_long_asks_for_a_look_and_without_any_the_limit_is_lifted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr(claim_limit, "time", clock)
    limit = ClaimLimit(Lsn(100))
    assert limit.claim(Lsn(500)) == 100
    assert not limit.look_wanted.is_set()
    clock.now += LOOK_SECONDS + 1
    assert limit.claim(Lsn(500)) == 100
    assert limit.look_wanted.is_set()
    clock.now += BLIND_SECONDS
    assert limit.claim(Lsn(500)) == 500


def test_without_tables_there_is_no_limit() -> None:
    assert ClaimLimit(UNSET, tables=False).claim(Lsn(500)) == 500


def test_with_a_gap_nothing_is_confirmed_however_long_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(claim_limit, "time", clock)
    limit = ClaimLimit(UNSET, gap=True)
    limit.described(Lsn(200))
    limit.delivered([rows(200)])
    clock.now += 10 * BLIND_SECONDS
    assert limit.claim(Lsn(201)) == UNSET
    assert not limit.holds_rows
