"""A handful of random schedules of faults, each judged; `make chaos` plays as many as you like."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import ConfigurationError
from tests.chaos.faults import CARRY
from tests.chaos.play import play
from tests.chaos.schedule import CLUSTER_KINDS, KINDS, LONGEST_SECONDS, OVERLAPPING, SHORTEST_SECONDS, schedule
from tests.chaos.stage import Stage
from tests.plugins.absence import absent
from tests.servers.kafka import KafkaUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEEDS = (1, 3, 12, 26)
"""Few, so that they cost a minute; together they hold a fault of every sort."""

MANY = range(1, 501)


THREE_BROKER_SEEDS = (4, 9, 18)
"""The same on three brokers; together they hold each act on a broker."""


def set_up(*, three_brokers: bool) -> Stage:
    try:
        return Stage(three_brokers=three_brokers)
    except (ConfigurationError, KafkaUnavailable) as error:
        absent(str(error))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with set_up(three_brokers=False) as stage:
        yield stage


@pytest.fixture(scope="module")
def three_broker_stage() -> Iterator[Stage]:
    with set_up(three_brokers=True) as stage:
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


@pytest.mark.nightly
@pytest.mark.postgres
@pytest.mark.kafka
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", THREE_BROKER_SEEDS)
def test_nothing_is_lost_or_out_of_order_whatever_happens_to_three_brokers(
    seed: int, three_broker_stage: Stage, tmp_path: Path
) -> None:
    outcome = play(three_broker_stage, schedule(seed, three_brokers=True), tmp_path / f"seed-{seed}")
    assert not outcome.findings, "\n".join([*outcome.findings, f"make chaos SEEDS=1 FIRST={seed} BROKERS=3"])
    assert len(outcome.faults) == len(outcome.schedule.faults)
    assert outcome.verdict is not None
    assert outcome.verdict.events > 500, "the writers hardly wrote: this test says less than it should"


@pytest.mark.parametrize("three_brokers", [False, True])
def test_a_schedule_is_a_function_of_its_seed(three_brokers: bool) -> None:
    first, second = ([schedule(seed, three_brokers=three_brokers) for seed in MANY] for _ in range(2))
    assert first == second
    assert len({plan.faults for plan in first}) == len(MANY)


@pytest.mark.parametrize("three_brokers", [False, True])
def test_faults_of_one_lane_never_overlap_and_no_more_than_three_are_on_at_once(three_brokers: bool) -> None:
    for seed in MANY:
        plan = schedule(seed, three_brokers=three_brokers)
        assert SHORTEST_SECONDS <= plan.seconds <= LONGEST_SECONDS
        for one, other in itertools.combinations(plan.faults, 2):
            assert one.mapping != other.mapping or one.until < other.at or other.until < one.at, seed
        for fault in plan.faults:
            assert sum(other.at <= fault.at <= other.until for other in plan.faults) <= OVERLAPPING, seed
            assert fault.at + fault.seconds <= plan.seconds


def test_every_kind_of_fault_is_drawn_and_can_be_carried_out() -> None:
    for kinds, three_brokers in ((KINDS, False), (CLUSTER_KINDS, True)):
        drawn = {fault.kind for seed in MANY for fault in schedule(seed, three_brokers=three_brokers).faults}
        assert drawn == set(kinds)
    assert {kind.name for kind in (*KINDS, *CLUSTER_KINDS)} == set(CARRY)


def test_the_seeds_of_this_file_have_a_fault_of_every_sort() -> None:
    mappings = {fault.kind.mapping for seed in SEEDS for fault in schedule(seed).faults}
    assert mappings == {kind.mapping for kind in KINDS}
    assert {schedule(seed).relays for seed in SEEDS} == {1, 2}
    assert {schedule(seed).cold for seed in SEEDS} == {True, False}
    assert {schedule(seed).impatient for seed in SEEDS} == {True, False}
    plans = [schedule(seed, three_brokers=True) for seed in THREE_BROKER_SEEDS]
    acts = {fault.kind.name for plan in plans for fault in plan.faults if fault.mapping == "cluster"}
    assert acts == {kind.name for kind in CLUSTER_KINDS if kind.mapping == "cluster"}
