"""One schedule, from a fresh database to its verdict.

In: a stage, a schedule, a folder. Out: an `Outcome`; the folder stays when something is wrong, with everybody's logs in it.
Never: a wait without a deadline.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from cdc_outbox.lsn import format_lsn
from tests.chaos.faults import Faults
from tests.chaos.journal import Journal
from tests.chaos.relays import Relays
from tests.chaos.stage import Scene, Stage
from tests.chaos.verdict import Verdict, judge
from tests.chaos.watch import Watch
from tests.chaos.writers import Writers
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.schedule import Schedule

START_SECONDS: Final = 30.0
"""For a relay to stream before anything is broken."""

COLD_EVENTS: Final = 300
"""Events that are there before the relay first starts, in a cold start."""

FAULTS_SECONDS: Final = 120.0
"""For all faults to be over: ten seconds of them, and restarts of servers on a busy machine."""

RECOVERY_SECONDS: Final = 60.0
"""From healing to caught up. The longest pauses: the relay's back-off (15 s), librdkafka's (10 s)."""


@dataclass(slots=True)
class Outcome:
    """What one seed came to. `findings` is empty when all is well."""

    seed: int
    schedule: Schedule
    findings: list[str] = field(default_factory=list)
    verdict: Verdict | None = None
    faults: list[str] = field(default_factory=list)
    relays_started: int = 0
    planes: list[str] = field(default_factory=list)
    """The plane that each relay chose: native or python (CDC_OUTBOX_NATIVE)."""
    exit_codes: list[int] = field(default_factory=list)
    """Of relays that were told to stop."""
    shutdown_seconds: list[float] = field(default_factory=list)
    """Fast shutdowns of PostgreSQL."""
    recovery_seconds: float | None = None
    seconds: float = 0.0
    folder: str = ""
    """Where its logs are, if it failed."""
    broken: bool = False
    """The stage is in doubt: the next seed needs a new one."""


def play(stage: Stage, plan: Schedule, folder: Path, *, aloud: bool = False) -> Outcome:
    """Play one schedule. Raises nothing that it brought about: that is in the outcome."""
    began = time.monotonic()
    outcome = Outcome(plan.seed, plan)
    folder.mkdir(parents=True)
    logs = {path: path.stat().st_size for path in stage.logs}
    journal = Journal(folder / "events.log", aloud=aloud)
    journal.note(f"seed {plan.seed}: {plan}")
    for fault in plan.faults:
        journal.note(f"planned at {fault.at:5.2f} s: {fault}")
    try:
        _play(stage, plan, folder, journal, outcome)
    except Exception as error:  # noqa: BLE001  (a finding like any other)
        journal.finding(f"{type(error).__name__}: {error}")
        outcome.broken = True
    outcome.findings = journal.findings
    journal.close()
    outcome.seconds = time.monotonic() - began
    if outcome.findings:
        for number, (path, size) in enumerate(logs.items()):
            (folder / f"{number}-{path.name}").write_bytes(path.read_bytes()[size:])
        outcome.folder = str(folder)
    else:
        shutil.rmtree(folder)
    return outcome


def _play(stage: Stage, plan: Schedule, folder: Path, journal: Journal, outcome: Outcome) -> None:
    scene = Scene(stage, plan.seed)
    relays = Relays(scene, journal, folder, count=plan.relays, impatient=plan.impatient)
    faults = Faults(plan.faults, scene, relays, journal)
    watch = Watch(scene.database, scene.slot)
    writers = Writers(scene.database, plan.seed, plan.writers)
    try:
        with watch, writers:
            _break(plan, journal, relays, faults, watch, writers)
            stage.heal()
            relays.heal()
            journal.note("all is healed")
            healed = time.monotonic()
            writers.stop()
            target = scene.mark()
            journal.note(f"writers have stopped before {format_lsn(target)}")
            if _catches_up(relays, watch, target, journal):
                outcome.recovery_seconds = time.monotonic() - healed
                journal.note(f"caught up {outcome.recovery_seconds:.1f} s after healing")
            _all_at_work(relays, journal)
            relays.stop()
        verdict = judge(scene.witness.transactions(), scene.records(), writers, watch.samples, prefix=scene.prefix)
        for line in verdict.findings:
            journal.finding(line)
        outcome.verdict = verdict
    finally:
        faults.cancel()
        relays.close()
        outcome.faults = faults.done
        outcome.relays_started = len(relays.started)
        outcome.planes = relays.planes()
        outcome.exit_codes = relays.exit_codes
        outcome.shutdown_seconds = faults.shutdown_seconds
    if relays.tracebacks():
        journal.finding(f"{relays.tracebacks()} relays printed a traceback")
    scene.close()


def _break(plan: Schedule, journal: Journal, relays: Relays, faults: Faults, watch: Watch, writers: Writers) -> None:
    """From the first start to the end of the last fault."""
    if plan.cold:
        eventually(lambda: len(writers.committed) >= COLD_EVENTS, "the writers write")
    for number in range(plan.relays):
        relays.start(number)
    if not plan.cold:
        eventually(relays.streaming, "a relay streams", seconds=START_SECONDS)
    journal.begin()
    journal.note("faults begin")
    faults.start()
    end = time.monotonic() + plan.seconds

    def over() -> bool:
        relays.supervise()
        if watch.confirmed:  # the slot is there: what is committed from now on comes in commit order
            writers.share.set()
        return faults.over and time.monotonic() >= end

    eventually(over, "the faults are over", seconds=FAULTS_SECONDS)
    faults.join()


def _catches_up(relays: Relays, watch: Watch, target: int, journal: Journal) -> bool:
    def caught_up() -> bool:
        relays.supervise()
        return watch.confirmed >= target and relays.streaming()  # a slot that is just being made shows already

    try:
        eventually(caught_up, "caught up", seconds=RECOVERY_SECONDS)
    except AssertionError:
        where = f"confirmed {format_lsn(watch.confirmed)} of {format_lsn(target)}"
        journal.finding(f"not caught up {RECOVERY_SECONDS:g} s after all was healed: {where}")
        return False
    return True


def _all_at_work(relays: Relays, journal: Journal) -> None:
    """The other relay too finds its place again: a relay in a back-off does not know yet that all is confirmed."""

    def at_work() -> bool:
        relays.supervise()
        return relays.at_work()

    try:
        eventually(at_work, "all relays at work", seconds=RECOVERY_SECONDS)
    except AssertionError:
        journal.finding(f"a relay neither streams nor stands by {RECOVERY_SECONDS:g} s after all was healed")
