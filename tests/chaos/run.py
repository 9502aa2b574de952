"""`python -m tests.chaos --seeds 20 --first 4711 --jobs 2`: play seeds, print a line for each and a table at the end.

`--brokers 3`: on a cluster of three brokers, of which one is killed, stopped or frozen, or two are away at once.

`--each 3`: every kind of fault alone, three times, and a table of the seconds that it takes to recover from each.

Exit code 1 when a seed failed. Its logs stay in a folder that is named; `--seeds 1 --first THAT` plays it again, aloud.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing.util import Finalize
from pathlib import Path

from tests.chaos.play import Outcome, play
from tests.chaos.schedule import CLUSTER_KINDS, KINDS, Schedule, alone, schedule
from tests.chaos.stage import Stage
from tests.chaos.summary import line, recoveries, table

_stage: list[Stage] = []
"""Of this worker process: servers are started for its first seed, and serve all."""


def main() -> int:
    """Play."""
    options = _options()
    folder = Path(tempfile.mkdtemp(prefix="cdc-outbox-chaos-"))
    plans = _plans(options)
    print(f"{len(plans)} schedules, {options.jobs} at a time; logs of failed ones in {folder}", flush=True)
    began = time.monotonic()
    outcomes: list[Outcome] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn, initializer=_end_with_parent) as workers:
        try:
            playing = [
                workers.submit(
                    _play, plan, folder / f"{number:03}-seed-{plan.seed}", len(plans) == 1, options.brokers == 3
                )
                for number, plan in enumerate(plans)
            ]
            for done in as_completed(playing):
                outcomes.append(done.result())
                print(line(outcomes[-1]), flush=True)
        except KeyboardInterrupt:
            workers.shutdown(cancel_futures=True)
            print("interrupted; what was played so far:")
    complete = len(outcomes) == len(plans)
    outcomes.sort(key=lambda outcome: outcome.seed)
    if options.each:
        print(f"\n{recoveries(outcomes)}")
    print(f"\n{table(outcomes)}\n\n{time.monotonic() - began:.0f} s in all")
    return 0 if complete and not any(outcome.findings for outcome in outcomes) else 1


def _plans(options: argparse.Namespace) -> list[Schedule]:
    three_brokers = options.brokers == 3
    if options.each:
        kinds = CLUSTER_KINDS if three_brokers else KINDS
        return [alone(kind, number) for number in range(options.each) for kind in kinds]
    seeds = range(options.first, options.first + options.seeds)
    return [schedule(seed, three_brokers=three_brokers) for seed in seeds]


def _end_with_parent() -> None:
    """A worker whose parent is gone has nobody to play for; its servers end with it."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _play(plan: Schedule, folder: Path, aloud: bool, three_brokers: bool) -> Outcome:
    logging.getLogger("psycopg").setLevel(logging.ERROR)  # connections that break are what this is about
    if not _stage:
        stage = Stage(three_brokers=three_brokers).__enter__()
        _stage.append(stage)
        Finalize(stage, stage.__exit__, args=(None, None, None), exitpriority=1)
    outcome = play(_stage[0], plan, folder, aloud=aloud)
    if outcome.broken:
        _stage.pop().__exit__(None, None, None)
    return outcome


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many (20)")
    parser.add_argument("--first", type=int, default=1, help="the first one (1)")
    parser.add_argument(
        "--each", type=int, default=0, metavar="TIMES", help="no seeds: each kind of fault alone, so often"
    )
    parser.add_argument(
        "--brokers", type=int, choices=(1, 3), default=1, help="one behind a proxy, or a cluster of three (1)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="so many at a time, each on servers of its own (1)")
    return parser.parse_args()
