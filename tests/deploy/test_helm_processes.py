"""The chart's containers run as processes on real servers: what a values file says is what streams, and an upgrade is safe."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_install
from tests.deploy.charts import Manifest, as_process, container, fleet, one, rendered
from tests.plugins.command import run_command, started_command
from tests.plugins.oracle import judge
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugins.command import Command
    from tests.plugins.oracle import Witness
    from tests.plugins.outbox import Outbox

SHARDED: Final = pytest.mark.since_postgres(15)
"""Before that, publications have no row filters."""


class Cluster:
    """Pods of a chart as processes. The secret is a folder with a file for each key."""

    def __init__(self, outbox: Outbox, folder: Path, stack: contextlib.ExitStack) -> None:
        self.outbox = outbox
        self._stack = stack
        self._secret = folder / "secret"
        self._secret.mkdir()
        (self._secret / "dsn").write_text(outbox.database.dsn)
        (self._secret / "client-id").write_text("of-the-secret")

    def manifests(self, **relay: object) -> list[Manifest]:
        options = {"topic": self.outbox.prefix + "{aggregatetype}"}
        return rendered(fleet({"name": "orders", "brokers": self.outbox.kafka.brokers, "options": options, **relay}))

    def pod(self, workload: Manifest, index: int = 0) -> Command:
        arguments, env = as_process(workload, self._secret, index=index)
        return self._stack.enter_context(started_command(*arguments, env=env))

    def streaming(self, workload: Manifest) -> list[Command]:
        """All pods of a StatefulSet, each with a slot to itself."""
        pods = [self.pod(workload, index) for index in range(workload["spec"]["replicas"])]
        for pod in pods:
            pod.wait_for_stderr('"event":"streaming"')
        return pods

    def complete(self, job: Manifest, index: int) -> subprocess.CompletedProcess[str]:
        """Run one completion of a job to its end."""
        arguments, env = as_process(job, self._secret, index=index)
        return run_command(*arguments, env=env)

    def refuses(self, job: Manifest, reason: str) -> None:
        """A completion fails for this reason, and with it the job."""
        assert job["spec"]["backoffLimit"] == 0
        done = self.complete(job, job["spec"]["completions"] - 1)
        assert done.returncode == 1, done.stdout + done.stderr
        assert reason in done.stdout

    def passes(self, job: Manifest) -> None:
        """Each completion ends with 0."""
        for index in range(job["spec"]["completions"]):
            done = self.complete(job, index)
            assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def cluster(outbox: Outbox, tmp_path: Path) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(outbox, tmp_path, stack)


def stop(pods: list[Command]) -> None:
    """What Kubernetes does to pods: SIGTERM. Each ends with 0."""
    for pod in pods:
        pod.process.terminate()
    assert [pod.wait() for pod in pods] == [0] * len(pods)


def test_of_a_pair_one_streams_and_one_stands_by_and_takes_over(cluster: Cluster) -> None:
    cluster.outbox.create()
    workload = one(cluster.manifests(kafkaSecrets={"client.id": "client-id"}), "Deployment")
    assert workload["spec"]["replicas"] == 2
    assert container(workload).get("args") is None
    first = cluster.pod(workload)
    first.wait_for_stderr('"event":"streaming"')
    second = cluster.pod(workload)
    second.wait_for_stderr('"event":"standby"')
    written = cluster.outbox.add()
    cluster.outbox.records(1)
    stop([first])
    second.wait_for_stderr('"event":"streaming"')
    assert [record.header("id") for record in cluster.outbox.records(1)] == [written.encode()]


@SHARDED
def test_shards_of_a_set_relay_each_key_once(cluster: Cluster, witness: Witness) -> None:
    apply_install(cluster.outbox.database.dsn, InstallOptions(shards=2), lambda _text: None)
    cluster.streaming(one(cluster.manifests(shards=2), "StatefulSet"))
    assert {"cdc_outbox_0_of_2", "cdc_outbox_1_of_2"} <= set(cluster.outbox.slots())
    cluster.outbox.add_all([{"aggregateid": str(number)} for number in range(50)])
    judge(witness.committed(), cluster.outbox.records(50))


@SHARDED
def test_from_two_shards_to_four_the_job_refuses_until_nothing_can_be_lost_or_out_of_order(
    cluster: Cluster, witness: Witness
) -> None:
    outbox = cluster.outbox
    for shards in (2, 4):
        apply_install(outbox.database.dsn, InstallOptions(shards=shards), lambda _text: None)
    two, four = cluster.manifests(shards=2), cluster.manifests(shards=4)
    old, new, job = one(two, "StatefulSet"), one(four, "StatefulSet"), one(four, "Job")

    cluster.passes(one(two, "Job"))  # a first start
    pods = cluster.streaming(old)
    cluster.passes(one(two, "Job"))  # an upgrade that changes something else
    outbox.add_all([{"aggregateid": str(number)} for number in range(20)])
    cluster.refuses(job, "a relay streams from cdc_outbox_0_of_2")
    stop(pods)
    outbox.add_all([{"aggregateid": str(number)} for number in range(20)])
    cluster.refuses(job, "a first start sends every row in the table again")

    create(outbox)
    cluster.refuses(job, "may not be sent")

    pods = cluster.streaming(old)
    end = outbox.current_lsn()
    outbox.add_all([{"aggregateid": str(number)} for number in range(20)])
    eventually(lambda: confirmed(outbox, end), "the old slots are confirmed")
    cluster.refuses(job, "a relay streams from cdc_outbox_1_of_2")
    stop(pods)
    cluster.passes(job)

    cluster.streaming(new)
    outbox.add_all([{"aggregateid": str(number)} for number in range(20)])
    committed = witness.committed()
    records = outbox.records(lambda found: len({record.header("id") for record in found}) == len(committed))
    judge(committed, records)
    for index in range(2):
        done = run_command("slot", "drop", "--yes", "--slot", f"cdc_outbox_{index}_of_2", dsn=outbox.database.dsn)
        assert done.returncode == 0, done.stderr
    cluster.passes(job)


@SHARDED
def test_the_way_back_to_one_relay_is_checked_when_asked(cluster: Cluster) -> None:
    apply_install(cluster.outbox.database.dsn, InstallOptions(shards=2), lambda _text: None)
    cluster.streaming(one(cluster.manifests(shards=2), "StatefulSet"))
    assert not [each for each in cluster.manifests() if each["kind"] == "Job"]
    job = one(cluster.manifests(upgradeCheck=True), "Job")
    cluster.refuses(job, "a relay streams from cdc_outbox_0_of_2")


def create(outbox: Outbox) -> None:
    for index in range(4):
        done = run_command("slot", "create", "--slot", f"cdc_outbox_{index}_of_4", dsn=outbox.database.dsn)
        assert done.returncode == 0, done.stderr


def confirmed(outbox: Outbox, lsn: str) -> bool:
    query = "SELECT count(*) FROM pg_replication_slots WHERE slot_name ~ '_of_2$' AND database = current_database()"
    return outbox.database.execute(f"{query} AND confirmed_flush_lsn >= '{lsn}'") == [(2,)]
