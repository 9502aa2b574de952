"""The Helm chart, rendered by helm; and a container of it run as a process: its arguments, its variables, its secret."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

import yaml

from tests.plugins.absence import absent

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "helm" / "cdc-outbox"
MOUNT: Final = "/run/secrets/cdc-outbox"

Manifest = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("helm") or absent("helm is missing (.ci/install)")
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, cwd=ROOT)


def template(
    values: Manifest, *arguments: str, release: str = "fleet", chart: Path = CHART
) -> subprocess.CompletedProcess[str]:
    """`helm template` with these values in a file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        return helm("template", release, chart, "--values", file, *arguments)


def rendered(values: Manifest, *arguments: str, **options: Any) -> list[Manifest]:
    """The manifests."""
    done = template(values, *arguments, **options)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def refused(values: Manifest) -> str:
    """What helm prints when it renders nothing."""
    done = template(values)
    assert done.returncode != 0, "helm takes these values"
    return done.stderr


def fleet(*relays: Manifest, **values: Any) -> Manifest:
    """Values with relays; each has a secret and brokers unless it says otherwise."""
    given = [{"secret": {"name": "cdc-outbox"}, "brokers": "kafka:9092", **relay} for relay in relays]
    return {"image": {"repository": "registry.example.com/cdc-outbox"}, "relays": given, **values}


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (found,) = [each for each in manifests if each["kind"] == kind]
    return found


def container(manifest: Manifest) -> Manifest:
    """The only container of a workload."""
    (found,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(found)


def variables(manifest: Manifest, *, index: int = 0) -> dict[str, str]:
    """The variables of its container, as the kubelet resolves them in the pod or the completion with this index."""
    found: dict[str, str] = {}
    for each in container(manifest).get("env", []):
        if "valueFrom" in each:
            path = each["valueFrom"]["fieldRef"]["fieldPath"]
            assert (
                path
                == {
                    "StatefulSet": "metadata.labels['apps.kubernetes.io/pod-index']",
                    "Job": "metadata.annotations['batch.kubernetes.io/job-completion-index']",
                }[manifest["kind"]]
            )
            found[each["name"]] = str(index)
        else:
            found[each["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found.get(name[1], name[0]), str(each["value"]))
    return found


def as_process(manifest: Manifest, secret: Path, *, index: int = 0) -> tuple[list[str], dict[str, str]]:
    """Arguments and variables for a process on this machine: the image's command unless the manifest has one, and the files of
    the folder `secret` in place of the mounted ones.
    """
    found = variables(manifest, index=index)
    assert "command" not in container(manifest), "the image has the entry point"
    local = {name: value.replace(MOUNT, str(secret)) for name, value in found.items() if name != "POD_INDEX"}
    return container(manifest).get("args", ["run"]), {"CDC_OUTBOX_HTTP": "off", **local}
