"""`python -m benchmarks`: one run, one table, one JSON file, one chart. `make bench ARGS='--help'` lists the options."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from benchmarks import raw
from benchmarks.chart import draw
from benchmarks.child import Failed
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.drain import drain
from benchmarks.memory import memory
from benchmarks.publish import publish
from benchmarks.report import Results, table
from benchmarks.rig import Backlog, Rig, servers
from benchmarks.snapshot import copy, snapshot
from benchmarks.steady import Plan, steady

SCENARIOS: Final = ("drain", "steady", "memory", "snapshot")

ROWS_OF_MANY_TOPICS: Final = 10
"""Rows in a transaction of a backlog over many topics."""

PUBLISHED: Final = {"rows": 200_000, "repeat": 5, "steady_repeat": 1, "seconds": 5.0, "probes": 10, "outage": 20.0,
                    "rates": [10, 100, 1000, 2500, 10000], "topics": [1, 20, 400], "drain_topics": [1, 50]}  # fmt: skip
"""What `--publish` runs, unless an option changes it: the run behind the figures in the documents."""

T = TypeVar("T")


def main() -> None:
    """Run what was asked for."""
    options = _options()
    if options.chart_only:
        Path(options.chart).write_text(
            draw(json.loads(Path(options.json).read_text(encoding="utf-8"))), encoding="utf-8"
        )
        return
    with servers(durable=options.durable) as rig:
        results = Results(
            {
                name: value
                for name, value in vars(options).items()
                if name not in {"json", "chart", "publish", "chart_only"}
            },
            str(rig.run("SHOW server_version")[0][0]),
        )
        contenders = _present(options.against, results)
        for scenario in options.run:
            _SCENARIOS[scenario](rig, options, contenders, results)
    document = results.document()
    print(table(document))
    Path(options.json).parent.mkdir(parents=True, exist_ok=True)
    Path(options.json).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    Path(options.chart).parent.mkdir(parents=True, exist_ok=True)
    Path(options.chart).write_text(draw(document), encoding="utf-8")
    _say(f"written: {options.json}, {options.chart}")
    if options.publish:
        publish(document)


def _present(names: list[str], results: Results) -> list[Contender]:
    contenders = []
    for name in names:
        missing = CONTENDERS[name].missing()
        if missing:
            _say(f"left out: {name}: {missing}")
            results.left_out[CONTENDERS[name].name] = missing
        else:
            contenders.append(CONTENDERS[name])
    return contenders


def _drain(rig: Rig, options: argparse.Namespace, contenders: list[Contender], results: Results) -> None:
    shapes = [(per_transaction, 1) for per_transaction in options.per_transaction]
    shapes += [(ROWS_OF_MANY_TOPICS, topics) for topics in options.drain_topics if topics != 1]
    for per_transaction, topics in shapes:
        backlog = rig.backlog(options.rows, per_transaction, options.payload_bytes, options.seed, topics)
        readers = [contender for contender in contenders if not contender.polls]
        for turn in range(options.repeat):
            for reader in raw.READERS:
                results.drains.append(_timed(f"{reader}, {_shape(backlog)}", raw.drain, rig, backlog, reader))
            order = random.Random(options.seed + turn).sample(readers, len(readers))
            for contender in order:
                _drain_one(rig, backlog, contender, results)
        for _ in range(options.repeat):  # after the others: what it writes would be more WAL for them to read
            for contender in contenders:
                if contender.polls:
                    _drain_one(rig, backlog, contender, results)


def _drain_one(rig: Rig, backlog: Backlog, contender: Contender, results: Results) -> None:
    results.drains.append(_timed(f"{contender.name}, {_shape(backlog)}", drain, rig, backlog, contender))


def _shape(backlog: Backlog) -> str:
    return f"{backlog.per_transaction} rows/tx, {backlog.topics} topics"


def _steady(rig: Rig, options: argparse.Namespace, contenders: list[Contender], results: Results) -> None:
    for turn in range(options.steady_repeat or options.repeat):
        for topics in options.topics:
            plan = Plan(options.rates, topics, options.seconds, options.probes, options.seed + turn, options.cores)
            for contender in contenders:
                title = f"{contender.name}, {topics} topics"
                try:
                    found, rest = _timed(title, steady, rig, contender, plan)
                except Failed as failure:  # a contender that ends or stalls: the others' figures stay
                    _say(f"{title}: {failure}")
                    results.left_out[title] = " ".join(str(failure).split())[:300]
                    continue
                results.steady += found
                if topics == options.topics[0]:
                    results.rests.append(rest)


def _memory(rig: Rig, options: argparse.Namespace, contenders: list[Contender], results: Results) -> None:
    for contender in contenders:
        if not contender.polls:  # a polling worker holds one batch, whatever happens
            results.memories.append(
                _timed(
                    f"{contender.name}, memory",
                    memory,
                    rig,
                    contender,
                    options.rows,
                    options.payload_bytes,
                    options.outage,
                    options.seed,
                )
            )


def _snapshot(rig: Rig, options: argparse.Namespace, contenders: list[Contender], results: Results) -> None:
    rig.install()
    rig.fill(options.rows, min(options.rows, 1000), options.payload_bytes, options.seed)
    rows = options.rows // min(options.rows, 1000) * min(options.rows, 1000)
    for _ in range(options.repeat):
        results.snapshots.append(_timed("COPY", copy, rig, rows))
        for contender in contenders:
            if not contender.polls:
                results.snapshots.append(_timed(f"{contender.name}, first start", snapshot, rig, contender, rows))


_SCENARIOS: Final[dict[str, Callable[[Rig, argparse.Namespace, list[Contender], Results], None]]] = {
    "drain": _drain,
    "steady": _steady,
    "memory": _memory,
    "snapshot": _snapshot,
}


def _timed(title: str, function: Callable[..., T], *arguments: object) -> T:
    began = time.monotonic()
    result = function(*arguments)
    _say(f"{title}: done in {time.monotonic() - began:.1f} s")
    return result


def _say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _words(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def words(text: str) -> list[str]:
        found = text.split(",")
        unknown = set(found) - set(known)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))}: none of {', '.join(known)}")
        return found

    return words


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").splitlines()[0])
    everyone = tuple(CONTENDERS)
    usual = ["relay", "native", "polling-delete", "polling-indexed", "debezium", "debezium-tuned"]
    add = parser.add_argument
    add("--run", type=_words(SCENARIOS), default=list(SCENARIOS), help=f"some of {','.join(SCENARIOS)}")
    add(
        "--against",
        type=_words(everyone),
        default=usual,
        help=f"some of {','.join(everyone)}; default {','.join(usual)}",
    )
    add("--rows", type=int, help="of the backlog, the outage and the first start (50000)")
    add("--per-transaction", type=_numbers, default=[1, 10, 1000], help="shapes of the backlog (1,10,1000)")
    add("--drain-topics", type=_numbers, help="over how many topics a backlog of 10 rows/tx goes (1)")
    add("--payload-bytes", type=int, default=200, help="of the json payload (200: rows of about 290 B)")
    add("--repeat", type=int, help="turns of each (1); medians are shown")
    add("--steady-repeat", type=int, help="turns of the steady rates, which take long (as --repeat)")
    add("--cores", type=float, help="limits each contender at a steady rate: 0.1, in a control group (needs root)")
    add("--rates", type=_numbers, help="single-row transactions a second (100,1000)")
    add("--topics", type=_numbers, help="over how many topics the steady rate goes (1)")
    add("--seconds", type=float, help="at each rate (5)")
    add("--probes", type=int, help="single events after a second of silence (5)")
    add("--outage", type=float, help="seconds without Kafka (5)")
    add("--seed", type=int, default=1, help="draws the keys, and the order of the contenders")
    add("--durable", action="store_true", help="PostgreSQL waits for the disk at each commit")
    add("--json", default="build/benchmarks.json", help="the figures go there")
    add("--chart", default="build/benchmarks.svg", help="the chart goes there")
    add("--chart-only", action="store_true", help="draw the chart of the figures in --json, run nothing")
    add("--publish", action="store_true", help="a full run, whose figures go into docs/ and the README's chart")
    options = parser.parse_args()
    small = {
        "rows": 50_000,
        "repeat": 1,
        "seconds": 5.0,
        "probes": 5,
        "outage": 5.0,
        "rates": [100, 1000],
        "topics": [1],
        "drain_topics": [1],
    }
    for name, value in (PUBLISHED if options.publish else small).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        raise SystemExit(str(failure)) from None
