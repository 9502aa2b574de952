"""The manifests, built by kustomize and read as a cluster would: schemas of two versions, and what the pods are allowed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from cdc_outbox.config.settings import OPTIONS
from tests.docs import pages
from tests.plugins.absence import absent

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "kubernetes"
RECIPES: Final = ("base", "overlays/standby-pair", "overlays/standby-pair-monitored", "overlays/sidecar")
MONITORED: Final = "overlays/standby-pair-monitored"
PAGE: Final = "docs/how-to/deploy-on-kubernetes.md"
VERSIONS: Final = ("1.29", "1.33", "1.37")
"""Of Kubernetes: native sidecars are switched on since the first, stable in the second; the third is the newest known."""

Manifest = dict[str, Any]


@cache
def built(recipe: str) -> list[Manifest]:
    """What `kubectl apply -k` would send for a recipe of ours."""
    return build(FOLDER / recipe)


def build(folder: Path) -> list[Manifest]:
    """What `kubectl apply -k` would send."""
    kubectl, kustomize = shutil.which("kubectl"), shutil.which("kustomize")
    if kubectl is None and kustomize is None:
        absent("kubectl and kustomize are missing")
    command = [kustomize, "build"] if kubectl is None else [kubectl, "kustomize"]
    done = subprocess.run([*command, folder], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def one(recipe: str, kind: str) -> Manifest:
    (found,) = [each for each in built(recipe) if each["kind"] == kind]
    return found


def pod(recipe: str) -> Manifest:
    template: Manifest = one(recipe, "Deployment")["spec"]["template"]
    return template


def relay(recipe: str) -> Manifest:
    spec = pod(recipe)["spec"]
    (found,) = [each for each in [*spec.get("initContainers", []), *spec["containers"]] if each["name"] == "relay"]
    return dict(found)


def of_kubernetes(manifests: list[Manifest]) -> list[Manifest]:
    return [each for each in manifests if not each["apiVersion"].startswith("monitoring.coreos.com/")]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_manifest_is_what_this_version_of_kubernetes_takes(recipe: str, version: str) -> None:
    for manifest in of_kubernetes(built(recipe)):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    manifest = yaml.safe_load(yaml.safe_dump(one("base", "Deployment")))
    manifest["spec"]["template"]["spec"]["containers"][0]["livenessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_pods_are_as_restricted_as_the_pod_security_standard_asks(recipe: str) -> None:
    spec = pod(recipe)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 65532
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert not any("hostPath" in volume for volume in spec["volumes"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_pod_is_given_longer_to_end_than_the_relay_takes(recipe: str) -> None:
    default = OPTIONS["shutdown-timeout"].default
    assert default is not None
    assert pod(recipe)["spec"]["terminationGracePeriodSeconds"] > int(default.removesuffix("s"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_probes_ask_for_what_a_restart_cures(recipe: str) -> None:
    container = relay(recipe)
    (port,) = [each["name"] for each in container["ports"]]
    for probe in ("startupProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/livez", "port": port}
    if recipe.endswith("sidecar"):
        assert "readinessProbe" not in container, "it would be the whole pod's"
    else:
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_secret_is_a_file_that_the_relay_reads(recipe: str) -> None:
    container = relay(recipe)
    (mount,) = container["volumeMounts"]
    (file,) = [each["value"] for each in container["env"] if each["name"] == "CDC_OUTBOX_DSN_FILE"]
    assert Path(file).parent == Path(mount["mountPath"])
    (volume,) = [each for each in pod(recipe)["spec"]["volumes"] if each["name"] == mount["name"]]
    assert volume["secret"]["secretName"] == "cdc-outbox"
    assert "Secret" not in [each["kind"] for each in built(recipe)], "a secret has no place in a repository"


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_setting_is_one_that_the_relay_has(recipe: str) -> None:
    maps = [each["data"] for each in built(recipe) if each["kind"] == "ConfigMap"]
    names = {name for data in maps for name in data} | {each["name"] for each in relay(recipe)["env"]}
    known = {variable for option in OPTIONS.values() for variable in (option.variable, f"{option.variable}_FILE")}
    assert "CDC_OUTBOX_BROKERS" in names
    assert names <= known


def test_the_sidecar_is_a_native_one() -> None:
    assert relay("overlays/sidecar")["restartPolicy"] == "Always"


def test_the_pair_is_two_on_two_nodes_of_which_a_drain_takes_one() -> None:
    deployment = one("overlays/standby-pair", "Deployment")
    assert deployment["spec"]["replicas"] == 2
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert spread["labelSelector"]["matchLabels"].items() <= labels.items()
    budget = one("overlays/standby-pair", "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"] == deployment["spec"]["selector"]["matchLabels"]


def test_prometheus_finds_the_pods_their_port_and_their_job() -> None:
    monitor = one(MONITORED, "PodMonitor")["spec"]
    labels = pod(MONITORED)["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert monitor["jobLabel"] in labels
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in [each["name"] for each in relay(MONITORED)["ports"]]


def test_the_cluster_gets_the_alert_rules_that_promtool_has_tested() -> None:
    tested = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    assert one(MONITORED, "PrometheusRule")["spec"] == tested


@pytest.mark.parametrize("recipe", [each for each in RECIPES if each != MONITORED])
def test_nothing_but_the_monitored_pair_needs_the_prometheus_operator(recipe: str) -> None:
    assert of_kubernetes(built(recipe)) == built(recipe)


def test_the_overlays_of_the_page_are_built_as_they_stand_there(tmp_path: Path) -> None:
    ours = os.path.relpath(FOLDER / "overlays" / "standby-pair", tmp_path)
    overlay, several = (block.text for block in pages.read(PAGE).blocks if block.language == "yaml")
    whole, replaced = re.subn(r"https://\S+/overlays/standby-pair\S*", ours, overlay + several)
    assert replaced == 1
    (tmp_path / "kustomization.yaml").write_text(whole)
    manifests = build(tmp_path)
    for manifest in of_kubernetes(manifests):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)
    (deployment,) = [each for each in manifests if each["kind"] == "Deployment"]
    assert (deployment["metadata"]["namespace"], deployment["metadata"]["name"]) == ("shop", "cdc-outbox-billing")
    template = deployment["spec"]["template"]
    assert template["spec"]["containers"][0]["image"].startswith("registry.internal/cdc-outbox@sha256:")
    assert template["metadata"]["labels"]["app.kubernetes.io/instance"] == "cdc-outbox-billing"
    (settings,) = [each for each in manifests if each["kind"] == "ConfigMap"]
    assert settings["data"]["CDC_OUTBOX_KAFKA_SECURITY_PROTOCOL"] == "SSL"


def test_every_folder_with_manifests_is_checked_here() -> None:
    folders = {str(path.parent.relative_to(FOLDER)) for path in FOLDER.rglob("kustomization.yaml")}
    assert folders == {*RECIPES, "monitoring"}
