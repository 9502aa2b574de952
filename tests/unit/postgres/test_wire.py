"""The messages inside CopyData, byte by byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.errors import ProtocolError
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import wire
from tests.plugins import wire_builder as build

lsns = st.integers(0, 2**64 - 1)
clocks = st.integers(-(2**63), 2**63 - 1)


@given(lsns, clocks, st.booleans())
def test_a_keepalive_reads_back(wal_end: int, sent_at: int, reply: bool) -> None:
    message = build.keepalive(wal_end, sent_at=sent_at, reply_requested=reply)
    assert message[0] == wire.KEEPALIVE
    assert wire.parse_keepalive(message) == (wal_end, sent_at, reply)


def test_a_keepalive_in_bytes() -> None:
    message = bytes.fromhex("6b 00000016b374d848 0002b5e3a1b2c3d4 01")
    assert wire.parse_keepalive(message) == wire.PrimaryKeepalive(Lsn(0x16_B374D848), 0x2B5E3A1B2C3D4, True)


@given(st.integers(0, 40).filter(lambda length: length != 18))
def test_a_keepalive_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError, match=f"has {length} bytes instead of 18"):
        wire.parse_keepalive(b"k" * length)


def test_a_pgoutput_message_begins_behind_the_header() -> None:
    message = build.xlogdata(b"payload", start=1, end=2, sent_at=3)
    assert message[0] == wire.XLOGDATA
    assert message[wire.XLOGDATA_HEADER_BYTES :] == b"payload"


@given(lsns, lsns, st.booleans())
def test_a_status_distinguishes_received_and_delivered_and_applied_as_delivered(
    write: int, flush: int, reply: bool
) -> None:
    message = wire.encode_status(write=write, flush=flush, unix_time=wire.POSTGRES_EPOCH_SECONDS, reply_requested=reply)
    assert build.read_status(message) == (write, flush, flush, 0, reply)


def test_the_clock_of_a_status_counts_microseconds_since_2000() -> None:
    message = wire.encode_status(write=1, flush=0, unix_time=1_794_000_000.25, reply_requested=False)
    assert build.read_status(message).clock == build.clock(1_794_000_000.25) == 847_315_200_250_000
