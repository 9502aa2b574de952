"""A handful of random schedules of faults, each judged; `make chaos` plays as many as you like."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import ConfigurationError
from tests.chaos.faults import CARRY
from tests.chaos.play import play
from tests.chaos.schedule import KINDS, LONGEST_SECONDS, OVERLAPPING, SHORTEST_SECONDS, schedule
from tests.chaos.stage import Stage
from tests.plugins.absence import absent
from tests.servers.kafka import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEDS = (1, 3, 12, 26)
"""Few, so that they cost a minute; together they hold a fault of every sort."""

MANY = range(1, 501)


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    try:
        stage = Stage()
    except (ConfigurationError, KafkaUnavailable) as error:
        absent(str(error))
    with stage:
        yield stage


@pytest.mark.nightly
@pytest.mark.postgres
@pytest.mark.kafka
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_lost_or_out_of_order_whatever_fails(seed: int, stage: Stage, tmp_path: Path) -> None:
    outcome = play(stage, schedule(seed), tmp_path / f"seed-{seed}")
    assert not outcome.findings, "\n".join([*outcome.findings, f"make chaos SEEDS=1 FIRST={seed}"])
    assert len(outcome.faults) == len(outcome.schedule.faults)
    assert outcome.verdict is not None
    assert outcome.verdict.events > 500, "the writers hardly wrote: this test says less than it should"


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert [schedule(seed) for seed in MANY] == [schedule(seed) for seed in MANY]
    assert len({schedule(seed).faults for seed in MANY}) == len(MANY)


def test_faults_of_one_lane_never_overlap_and_no_more_than_three_are_on_at_once() -> None:
    for seed in MANY:
        plan = schedule(seed)
        assert SHORTEST_SECONDS <= plan.seconds <= LONGEST_SECONDS
        for one, other in itertools.combinations(plan.faults, 2):
            assert one.mapping != other.mapping or one.until < other.at or other.until < one.at, seed
        for fault in plan.faults:
            assert sum(other.at <= fault.at <= other.until for other in plan.faults) <= OVERLAPPING, seed
            assert fault.at + fault.seconds <= plan.seconds


def test_every_kind_of_fault_is_drawn_and_can_be_carried_out() -> None:
    drawn = {fault.kind for seed in MANY for fault in schedule(seed).faults}
    assert drawn == set(KINDS)
    assert {kind.name for kind in KINDS} == set(CARRY)


def test_the_seeds_of_this_file_have_a_fault_of_every_sort() -> None:
    mappings = {fault.kind.mapping for seed in SEEDS for fault in schedule(seed).faults}
    assert mappings == {kind.mapping for kind in KINDS}
    assert {schedule(seed).relays for seed in SEEDS} == {1, 2}
    assert {schedule(seed).cold for seed in SEEDS} == {True, False}
    assert {schedule(seed).impatient for seed in SEEDS} == {True, False}
