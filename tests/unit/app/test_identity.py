"""Event ids: RFC 9562, UUID version 7."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from cdc_outbox.app import identity, uuid7


def milliseconds(made: uuid.UUID) -> int:
    return made.int >> 80


def test_an_id_is_of_version_7_and_has_the_time_of_its_creation() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid7()
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= milliseconds(made) <= after + 1


def test_ids_of_one_process_only_grow_in_all_threads() -> None:
    with ThreadPoolExecutor(4) as pool:
        batches = list(pool.map(lambda _: [uuid7() for _ in range(1000)], range(8)))

    assert all(batch == sorted(batch) for batch in batches)
    assert len({made for batch in batches for made in batch}) == 8000


def test_ids_grow_also_while_the_clock_stands_still_or_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_last", 0)  # and what it was comes back: ids made here are an hour ahead
    now = time.time_ns() + 3_600_000_000_000
    monkeypatch.setattr(identity.time, "time_ns", lambda: now)
    made = [uuid7() for _ in range(5000)]
    monkeypatch.setattr(identity.time, "time_ns", lambda: now - 10_000_000_000)
    made += [uuid7() for _ in range(5000)]

    assert made == sorted(set(made))
    assert milliseconds(made[-1]) - milliseconds(made[0]) < 10, "ten thousand in a row borrow a few milliseconds"


def test_the_example_of_the_rfc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_last", 0)
    monkeypatch.setattr(identity.time, "time_ns", lambda: 0x017F22E279B0 * 1_000_000 + 0xCC3 * 1_000_000 // 4096 + 1)
    monkeypatch.setattr(identity.secrets, "randbits", lambda bits: 0x18C4DC0C0C07398F & ((1 << bits) - 1))
    made = uuid7()
    monkeypatch.setattr(identity, "_last", 0)

    assert str(made) == "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
