"""What people type is read as they mean it, and written back so that it reads the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config import value_types
from cdc_outbox.config.value_types import HEADER, HeaderColumn, parse_header, parse_property


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("16777216", 16 * 1024**2),
        ("16MiB", 16 * 1024**2),
        ("16Mi", 16 * 1024**2),
        ("16 mib", 16 * 1024**2),
        ("16MB", 16_000_000),
        ("1GiB", 1024**3),
        ("64kB", 64_000),
        ("64KiB", 65536),
        ("512B", 512),
    ],
)
def test_a_size_is_binary_with_an_i_and_decimal_without(text: str, size: int) -> None:
    assert value_types.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "0MiB", "16M", "-1", "1.5MiB", "MiB", "16 bananas", "1e3"])
def test_a_size_that_could_mean_two_things_or_nothing_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="16MiB"):
        value_types.parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("25", 25), ("25s", 25), ("2m", 120), ("500ms", 0.5), ("1.5m", 90), ("1h", 3600), ("0", 0)]
)
def test_a_duration_has_a_unit_or_is_in_seconds(text: str, seconds: float) -> None:
    assert value_types.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1", "25 minutes", "inf", "nan", "1e3", "s", "2m30s"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        value_types.parse_duration(text)


def test_a_timeout_of_nothing_is_refused_where_it_would_drop_events() -> None:
    with pytest.raises(ValueError, match="above 0"):
        value_types.SECONDS.parse("0s")
    assert value_types.SECONDS_OR_ZERO.parse("0s") == 0


@pytest.mark.parametrize("text", ["0", "-5", "", "1.5", "many", "1" * 30, "\u0661"])
def test_a_count_is_a_whole_number_above_zero(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        value_types.parse_count(text)


@pytest.mark.parametrize("text", ["0", "367", "100000", "-1", "7d", ""])
def test_days_are_a_few_hundred_at_most(text: str) -> None:
    assert (value_types.parse_days("1"), value_types.parse_days("366")) == (1, 366)
    with pytest.raises(ValueError, match="number of days, 1 to 366"):
        value_types.parse_days(text)


@pytest.mark.parametrize("text", ["", "Slot", "a-b", "a b", 'a"b', "ä", "a" * 64, "a\n"])
def test_a_slot_name_is_what_the_server_accepts(text: str) -> None:
    with pytest.raises(ValueError, match="slot name"):
        value_types.parse_slot(text)
    assert value_types.parse_slot("a" * 63) == "a" * 63


@pytest.mark.parametrize(
    ("text", "expected"),
    [("127.0.0.1:8420", ("127.0.0.1", 8420)), ("[::1]:1", ("::1", 1)), ("localhost:0", ("localhost", 0))],
)
def test_an_address_is_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert value_types.split_address(text) == expected
    assert value_types.parse_address(text) == text


@pytest.mark.parametrize(
    "text", ["", "8420", ":8420", "localhost", "a:b", "a:65536", "::1:80", "a:1:2", "[x]:1", "OFF"]
)
def test_an_address_without_host_or_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        value_types.parse_address(text)


def test_columns_are_names_in_order_and_keep_their_case() -> None:
    assert value_types.parse_columns('aggregateid, AggregateId ,"a,b""c"') == ("aggregateid", "AggregateId", 'a,b"c')
    for text in ("", ",", '"', 'a"b', '""'):
        with pytest.raises(ValueError, match="column"):
            value_types.parse_columns(text)


def test_a_header_is_a_column_under_its_own_or_another_name() -> None:
    assert parse_header("tenant") == HeaderColumn("tenant", "tenant")
    assert parse_header("tenant:tenant-id") == HeaderColumn("tenant", "tenant-id")
    assert parse_header('"a:b":x:y') == HeaderColumn("a:b", "x:y")
    for text in ("", ":", ":name", "a:", '"'):
        with pytest.raises(ValueError, match="header-name"):
            parse_header(text)


def test_a_property_that_is_none_is_refused_without_its_text() -> None:
    assert parse_property("sasl.password=a=b c ") == ("sasl.password", "a=b c ")
    for text in ("hunter2", "=hunter2", "hunter 2=x", ""):
        with pytest.raises(ValueError, match="property=value") as raised:
            parse_property(text)
        assert "hunter" not in str(raised.value)


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(st.lists(names.filter(lambda name: name == name.strip() or "\n" not in name), min_size=1, max_size=4))
def test_columns_read_back_as_they_were_shown(columns: list[str]) -> None:
    assert value_types.COLUMNS.parse(value_types.COLUMNS.show(tuple(columns))) == tuple(columns)


@given(names, names.map(str.strip).filter(bool).filter(lambda name: "\n" not in name))
def test_headers_read_back_as_they_were_shown(column: str, name: str) -> None:
    header = HeaderColumn(column, name)
    assert HEADER.parse(HEADER.show(header)) == header


@given(st.integers(1, 2**50))
def test_sizes_read_back_as_they_were_shown(size: int) -> None:
    assert value_types.SIZE.parse(value_types.SIZE.show(size)) == size


@given(st.integers(0, 10**5))
def test_durations_read_back_as_they_were_shown(seconds: int) -> None:
    assert value_types.SECONDS_OR_ZERO.parse(value_types.SECONDS_OR_ZERO.show(float(seconds))) == seconds
