"""The check of the CPU cost of a row: it runs, and a doubled cost does not pass."""

from __future__ import annotations

import json

from benchmarks.bench_check import BASELINE, CASES, judge
from benchmarks.fed import Feed


def test_a_doubling_cannot_pass() -> None:
    baseline = json.loads(BASELINE.read_text())["cases"]
    assert len(judge({name: 2 * cost for name, cost in baseline.items()}, baseline)) == len(baseline)


def test_noise_cannot_fail_it() -> None:
    baseline = json.loads(BASELINE.read_text())["cases"]
    assert not judge({name: 1.3 * cost for name, cost in baseline.items()}, baseline)


def test_every_case_has_its_baseline() -> None:
    assert json.loads(BASELINE.read_text())["cases"].keys() == CASES.keys()
    assert judge({"new": 1.0}, {}) == ["new: has no baseline"]


def test_what_it_feeds_goes_all_the_way_through_the_relay() -> None:
    for per_transaction, headers in CASES.values():
        Feed(95, per_transaction, headers).run()  # asserts that each row became a record, and was acknowledged
