"""The figures of many seeds, for a terminal and for a note."""

from __future__ import annotations

import statistics
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.chaos.play import Outcome


def line(outcome: Outcome) -> str:
    """One seed in one line."""
    verdict = outcome.verdict
    counted = "no verdict" if verdict is None else f"{verdict.events} events, {verdict.duplicates} duplicates"
    recovery = "-" if outcome.recovery_seconds is None else f"{outcome.recovery_seconds:.1f} s"
    end = f"FAILED, see {outcome.folder}" if outcome.findings else "ok"
    faults = f"{len(outcome.faults)} fault{'s' * (len(outcome.faults) != 1)}"
    words = (f"seed {outcome.seed}", str(outcome.schedule), faults, counted, f"caught up in {recovery}")
    return f"{', '.join(words)}, took {outcome.seconds:.0f} s: {end}"


def table(outcomes: Sequence[Outcome]) -> str:
    """All seeds together."""
    judged = [outcome.verdict for outcome in outcomes if outcome.verdict is not None]
    failed = [outcome for outcome in outcomes if outcome.findings]
    kinds = Counter(name for outcome in outcomes for name in outcome.faults)
    planes = Counter(plane for outcome in outcomes for plane in outcome.planes)
    codes = Counter(code for outcome in outcomes for code in outcome.exit_codes)
    events = sum(verdict.events for verdict in judged)
    duplicates = sum(verdict.duplicates for verdict in judged)
    rows = [
        ("seeds", f"{len(outcomes)}: {len(outcomes) - len(failed)} ok, {len(failed)} failed"),
        ("transactions", f"{sum(verdict.transactions for verdict in judged):,}"),
        ("events", f"{events:,}"),
        ("duplicates", f"{duplicates:,} ({duplicates / max(1, events):.2%} of the events)"),
        ("lost", f"{sum(verdict.lost for verdict in judged)}"),
        ("keys out of order", f"{sum(verdict.out_of_order for verdict in judged)}"),
        ("confirmed too early", f"{sum(verdict.early for verdict in judged)}"),
        ("relays started", f"{sum(outcome.relays_started for outcome in outcomes)} ({_counted(planes)})"),
        ("relays told to stop", ", ".join(f"exit code {code}: {count}" for code, count in sorted(codes.items()))),
        ("caught up after healing", _spread([outcome.recovery_seconds for outcome in outcomes])),
        ("fast shutdown of PostgreSQL", _spread([took for outcome in outcomes for took in outcome.shutdown_seconds])),
        ("faults", f"{sum(kinds.values())}"),
        *((f"  {name}", f"{count}") for name, count in sorted(kinds.items())),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:{width}}  {value}" for name, value in rows]
    for outcome in failed:
        lines += ["", f"seed {outcome.seed} failed; its logs are in {outcome.folder}"]
        lines += [f"  {finding}" for finding in outcome.findings]
    return "\n".join(lines)


def recoveries(outcomes: Sequence[Outcome]) -> str:
    """Markdown: for each kind of fault that was played alone, what it took until everything committed was confirmed."""
    lines = [
        "| Fault, alone | lasted | then caught up within | duplicates | lost, out of order |",
        "|---|---|---|---|---|",
    ]
    for name in sorted({outcome.schedule.faults[0].kind.name for outcome in outcomes}):
        of_kind = [outcome for outcome in outcomes if outcome.schedule.faults[0].kind.name == name]
        verdicts = [outcome.verdict for outcome in of_kind if outcome.verdict is not None]
        took = [outcome.recovery_seconds for outcome in of_kind if outcome.recovery_seconds is not None]
        lasted = of_kind[0].schedule.faults[0].seconds
        wrong = sum(verdict.lost + verdict.out_of_order for verdict in verdicts)
        again = sorted(verdict.duplicates for verdict in verdicts)
        cells = (
            f"`{name}`",
            f"{lasted:g} s" if lasted else "a moment",
            f"{statistics.median(took):.1f} s, at most {max(took):.1f} s"
            if len(took) == len(of_kind)
            else "not always",
            f"{again[0]} to {again[-1]} of {sum(verdict.events for verdict in verdicts) // len(verdicts):,}"
            if again
            else "-",
            f"{wrong}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _counted(planes: Counter[str]) -> str:
    return ", ".join(f"{plane} plane: {count}" for plane, count in sorted(planes.items()))


def _spread(seconds: Sequence[float | None]) -> str:
    known = sorted(each for each in seconds if each is not None)
    if not known:
        return "-"
    ninth = known[min(len(known) - 1, len(known) * 9 // 10)]
    return f"median {statistics.median(known):.1f} s, nine of ten within {ninth:.1f} s, at most {known[-1]:.1f} s"
