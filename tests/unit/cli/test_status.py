"""What `status` says of the time until the slot is lost, for a person."""

from __future__ import annotations

import pytest

from cdc_outbox.cli.status import _lines
from cdc_outbox.commands.status import Look
from cdc_outbox.observe.status_document import StatusDocument


@pytest.mark.parametrize(
    ("wal_status", "safe", "seconds", "words"),
    [
        ("reserved", 10 << 30, 11_500.0, "10.0 GiB of WAL; 3 h at the present rate, if it stood still"),
        ("reserved", 10 << 30, None, "10.0 GiB of WAL; nothing is written now"),
        ("unreserved", -4096, 0.0, "0 bytes of WAL; 0 s at the present rate, if it stood still"),
        ("reserved", None, None, "no limit is set (max_slot_wal_keep_size)"),
        ("lost", None, None, "it is lost"),
        (None, None, None, "unknown"),
    ],
)
def test_the_time_until_the_slot_is_lost(wal_status: str, safe: int, seconds: float, words: str) -> None:
    document = StatusDocument(
        None, "s", "p", ("public.outbox",), wal_status=wal_status, safe_wal_bytes=safe, seconds_until_lost=seconds
    )

    assert dict(_lines(Look(document, "none answers", False, None)))["until lost"] == words


def test_what_somebody_else_wrote_does_not_reach_the_terminal_as_it_is() -> None:
    document = StatusDocument(None, "s", "p", (), last_error="no \x1b[31mred")

    assert dict(_lines(Look(document, "none answers", False, None)))["last error"] == r"'no \x1b[31mred'"
