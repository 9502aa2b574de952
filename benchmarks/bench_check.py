"""CPU per row of our own path, against a committed baseline: fails when it has become much dearer. Seconds, no servers.

In: baseline.json. Out: one line a case; exit code 1 when a case costs more than `LIMIT` times its baseline.

The unit is not a microsecond, which differs from machine to machine and from minute to minute, but a turn of a calibration
loop that does the same kinds of things (slices, small calls, tuples, a dictionary), timed in turns with it: CPU time of
this thread, the least of many rounds. A busy machine makes both dearer. A doubling is beyond the limit, noise is not.

    python -m benchmarks.bench_check            compare
    python -m benchmarks.bench_check --write    make this the baseline, after a change that is meant
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.fed import Feed

BASELINE: Final = Path(__file__).parent / "baseline.json"

LIMIT: Final = 1.5
"""Times the baseline. Measured: a machine with ten times more to do than it has cores moves a case by a seventh at most."""

CHEAPER: Final = 0.7
"""Times the baseline: so much better that the baseline should be written again, or it would let half of it slip back."""

ROUNDS: Final = 25
"""Of which the least counts: some of them are not disturbed."""

ROWS: Final = 4_000
"""Of one round: 20 to 40 ms, less than most machines let a process run without a break."""

CASES: Final[dict[str, tuple[int, bytes | None]]] = {
    "10 rows per transaction": (10, None),
    "1 row per transaction": (1, None),
    "1000 rows per transaction": (1000, None),
    "10 rows per transaction, headers": (10, b'{"tenant": "a", "source": "web"}'),
}


def calibrate() -> None:
    """About the work of `ROWS` rows, of the same kind."""
    data, cache, taken = bytes(300), {b"order": "outbox.event.order"}, []
    for number in range(ROWS):
        at = 30
        for _ in range(7):
            length = int.from_bytes(data[at : at + 4], "big")
            at += 5 + length
        record = (
            cache[b"order"],
            data[40:48],
            data[50:250],
            [("id", data[1:37]), ("type", data[3:14])],
            number,
        )
        taken.append(_same(record))
        if len(taken) > 1000:
            taken.clear()


def _same(
    record: tuple[str, bytes, bytes, list[tuple[str, bytes]], int],
) -> tuple[str, int]:
    topic, _key, _value, _headers, number = record
    return topic, number


def measure() -> dict[str, float]:
    """Calibration turns per row, by case."""
    feeds = {name: Feed(ROWS, per_transaction, headers) for name, (per_transaction, headers) in CASES.items()}
    least = dict.fromkeys(feeds, float("inf"))
    unit = float("inf")
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        for _ in range(ROUNDS):
            unit = min(unit, _cpu(calibrate))
            for name, feed in feeds.items():
                least[name] = min(least[name], _cpu(feed.run))
    finally:
        gc.enable()
    return {name: cpu / unit for name, cpu in least.items()}


def _cpu(work: Callable[[], None]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began


def judge(found: dict[str, float], baseline: dict[str, float]) -> list[str]:
    """What is wrong, one line each."""
    wrong = [
        f"{name}: {cost:.2f} is {cost / baseline[name]:.2f} times its baseline {baseline[name]:.2f}; the limit is {LIMIT}"
        for name, cost in found.items()
        if name in baseline and cost > LIMIT * baseline[name]
    ]
    wrong += [f"{name}: has no baseline" for name in found.keys() - baseline.keys()]
    return wrong


def main() -> None:
    """Compare, or write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bench_check", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--write", action="store_true", help="make what is found the baseline")
    options = parser.parse_args()
    found = measure()
    if options.write:
        document = {"unit": "calibration turns per row", "python": platform.python_version(),
                    "cases": {name: round(cost, 3) for name, cost in found.items()}}  # fmt: skip
        BASELINE.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    baseline: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))["cases"]
    for name, cost in found.items():
        ratio = cost / baseline.get(name, cost)
        better = "; much cheaper: write a new baseline (--write)" if ratio < CHEAPER else ""
        print(f"{name:<36}{cost:8.2f}{ratio:8.2f} of the baseline{better}")
    wrong = judge(found, baseline)
    if wrong:
        raise SystemExit("the path of an event has become dearer:\n" + "\n".join(wrong))


if __name__ == "__main__":
    main()
