"""docs/how-to/deploy-with-helm.md, done as it says: what needs a cluster is held against what the chart renders."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from tests.deploy.charts import helm, one
from tests.docs.pages import ROOT, Block, read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from tests.plugins.outbox import Outbox

PAGE: Final = "docs/how-to/deploy-with-helm.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with the page's values file in it."""
    helm("version")  # absent: skipped, or failed in CI
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    (tmp_path / "fleet.yaml").write_text(beginning("# fleet.yaml").text)
    return tmp_path


def beginning(text: str) -> Block:
    """The block of the page that begins so."""
    [found] = [each for each in read(PAGE).blocks if each.text.startswith(text)]
    return found


def commands(program: str) -> list[list[str]]:
    """The words of the indented lines that begin so."""
    return [shlex.split(found) for found in re.findall(rf"^ {{4,}}({program} .+)$", read(PAGE).prose, re.MULTILINE)]


def test_the_values_are_taken_and_the_objects_that_the_page_names_are_made(
    folder: Path, shell: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = shell(beginning("helm lint").text)
    manifests = list(yaml.safe_load_all(done.stdout.partition("\n---\n")[2]))
    names = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in manifests}
    assert {"statefulset/fleet-billing-of-2", "deployment/fleet-orders"} <= names
    assert {each["metadata"]["namespace"] for each in manifests} == {"shop"}

    [scale] = [words[4] for words in commands("kubectl") if words[3] == "scale"]
    assert scale in names
    [wait] = [words[5:] for words in commands("kubectl") if words[3] == "wait"]
    assert wait == [f"pod/fleet-billing-of-2-{index}" for index in range(2)]
    secrets = {words[6] for words in commands("kubectl") if words[3] == "create"}
    assert secrets == {
        volumes(each)[0]["secret"]["secretName"] for each in manifests if "template" in each.get("spec", {})
    }

    [install, upgrade] = commands("helm upgrade")
    for words in (install, upgrade):
        rest = [word for word in words[2:] if word != "--install"]
        assert rest == ["fleet", "deploy/helm/cdc-outbox", "--namespace", "shop", "--values", "fleet.yaml"]


def test_the_job_that_the_page_names_is_that_of_four_shards(folder: Path) -> None:
    text = (folder / "fleet.yaml").read_text()
    (folder / "fleet.yaml").write_text(text.replace("shards: 2 ", "shards: 4 "))
    done = helm("template", "fleet", folder / "deploy/helm/cdc-outbox", "--values", folder / "fleet.yaml")
    job = one(list(yaml.safe_load_all(done.stdout)), "Job")
    assert [words[-1] for words in commands("kubectl") if words[3] == "logs"] == [f"job/{job['metadata']['name']}"]


@pytest.mark.since_postgres(15)
def test_from_two_shards_to_four(outbox: Outbox, shell: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    variables = {"DSN": outbox.database.dsn, "CDC_OUTBOX_DSN": outbox.database.dsn}
    shell("cdc-outbox sql install --shards 2 --apply", **variables)
    for index in range(2):
        shell(f"cdc-outbox slot create --slot cdc_outbox_{index}_of_2", **variables)
    shell(beginning("cdc-outbox sql install --shards 4").text, **variables)
    assert outbox.slots() == sorted(f"cdc_outbox_{index}_of_{count}" for count in (2, 4) for index in range(count))
    shell(beginning("for shard in 0 1; do").text, **variables)
    assert outbox.slots() == [f"cdc_outbox_{index}_of_4" for index in range(4)]


def volumes(workload: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = workload["spec"]["template"]["spec"]["volumes"]
    return found
