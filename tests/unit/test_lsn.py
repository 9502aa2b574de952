"""LSNs are read and written as PostgreSQL does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.lsn import UNSET, WalRate, format_lsn, parse_lsn


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0/0", 0),
        ("0/1", 1),
        ("16/B374D848", 0x16_B374D848),
        ("16/b374d848", 0x16_B374D848),
        ("1/00000001", 0x1_00000001),
        ("FFFFFFFF/FFFFFFFF", 2**64 - 1),
    ],
)
def test_an_lsn_is_two_hexadecimal_halves(text: str, value: int) -> None:
    assert parse_lsn(text) == value


def test_the_lower_half_is_written_without_leading_zeros() -> None:
    assert format_lsn(0x1_0000000A) == "1/A"
    assert format_lsn(UNSET) == "0/0"


@given(st.integers(0, 2**64 - 1))
def test_what_is_written_reads_as_the_same_lsn(value: int) -> None:
    assert parse_lsn(format_lsn(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "0",
        "0/",
        "/0",
        "1/2/3",
        "G/0",
        "-1/0",
        "0x1/0",
        " 0/0",
        "0/0\n",
        "123456789/0",
        "0/123456789",
        "\N{ARABIC-INDIC DIGIT ONE}/0",
    ],
)
def test_anything_else_is_no_lsn(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        parse_lsn(text)


def test_the_rate_of_wal_needs_two_positions() -> None:
    rate = WalRate()
    assert rate.bytes_per_second is None
    rate.add(10.0, 1000)
    assert rate.bytes_per_second is None
    rate.add(40.0, 4000)
    assert rate.bytes_per_second == 100.0


def test_the_rate_of_wal_is_that_of_the_last_two_minutes() -> None:
    rate = WalRate()
    for minute in range(10):
        rate.add(60.0 * minute, 600_000)
    for second in range(0, 180, 30):
        rate.add(600.0 + second, 600_000 + 1000 * second)

    assert rate.bytes_per_second == 1000.0


def test_the_rate_of_wal_begins_anew_when_the_server_is_another_one() -> None:
    rate = WalRate()
    rate.add(0.0, 5000)
    rate.add(1.0, 10)
    assert rate.bytes_per_second is None
