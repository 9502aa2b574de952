"""The Helm chart: it renders what Kubernetes takes and what kustomize builds, and refuses what the relay would refuse."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import kubernetes_validate
import pytest
import yaml

from cdc_outbox import __version__
from cdc_outbox.config.settings import OPTIONS
from tests.deploy import test_kubernetes as kustomized
from tests.deploy.charts import (
    CHART,
    ROOT,
    Manifest,
    container,
    fleet,
    helm,
    one,
    refused,
    rendered,
    template,
    variables,
)
from tests.deploy.test_kubernetes import VERSIONS, of_kubernetes
from tests.deploy.test_prometheus import promtool
from tests.plugins.absence import absent
from tests.plugins.command import run_command

EVERYTHING: Final = fleet(
    {"name": "orders", "kafka": {"security.protocol": "sasl_ssl"}, "kafkaSecrets": {"sasl.password": "sasl-password"}},
    {"name": "billing", "shards": 4, "podAnnotations": {"team": "billing"}, "nodeSelector": {"disk": "none"}},
    {
        "name": "audit",
        "replicas": 1,
        "upgradeCheck": True,
        "priorityClassName": "high",
        "env": {"OTEL_SERVICE_NAME": "audit"},
    },
    imagePullSecrets=[{"name": "registry"}],
    serviceMonitor={"enabled": True, "labels": {"release": "prometheus"}},
    rules={"enabled": True, "runbook": "https://wiki.example.com/outbox/"},
    dashboard={"enabled": True},
    networkPolicy={
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"team": "monitoring"}}}],
        "ports": [5432],
    },
)
FLEETS: Final = {
    "pair": fleet({"name": "orders"}),
    "shards": fleet({"name": "orders", "shards": 2}),
    "everything": EVERYTHING,
    "none": fleet(),
}
LIMIT_BYTES: Final = 1_048_576
"""Of a Secret, in which Helm keeps the manifests of a release (compressed, base64)."""


@pytest.mark.parametrize("name", FLEETS)
def test_helm_lint_finds_nothing(name: str, tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(FLEETS[name]))
    done = helm("lint", "--strict", CHART, "--values", tmp_path / "values.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", FLEETS)
def test_each_manifest_is_what_this_version_of_kubernetes_takes(name: str, version: str) -> None:
    manifests = of_kubernetes(rendered(FLEETS[name], "--namespace", "shop"))
    assert manifests
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)
        assert manifest["metadata"]["namespace"] == "shop"


def test_the_chart_has_the_version_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    image = container(one(rendered(FLEETS["pair"]), "Deployment"))["image"]
    assert (
        image
        == container(kustomized.one("base", "Deployment"))["image"]
        == f"registry.example.com/cdc-outbox:{__version__}"
    )


def test_a_kubernetes_that_does_not_number_pods_is_refused() -> None:
    assert template(FLEETS["shards"], "--kube-version", "1.28.0").returncode == 0
    done = template(FLEETS["shards"], "--kube-version", "1.27.9")
    assert "chart requires kubeVersion: >=1.28.0-0" in done.stderr


# --- held against kustomize --------------------------------------------------------------------------------------------


def substance(workload: Manifest, settings: Manifest) -> Manifest:
    """A workload without names and labels; its variables as one mapping."""
    template: Manifest = yaml.safe_load(yaml.safe_dump(workload["spec"]["template"]["spec"]))
    (found,) = template["containers"]
    assert found.pop("imagePullPolicy", "IfNotPresent") == "IfNotPresent"
    found.pop("envFrom", None)
    found["env"] = {**settings, **{each["name"]: each["value"] for each in found["env"] if "value" in each}}
    return {**{key: workload["spec"].get(key) for key in ("replicas", "strategy")}, **template}


def of_kustomize(recipe: str) -> Manifest:
    return substance(kustomized.one(recipe, "Deployment"), kustomized.one(recipe, "ConfigMap")["data"])


def like_kustomize(**relay: Any) -> list[Manifest]:
    values = fleet(
        {"name": "orders", "brokers": "kafka-bootstrap.kafka.svc:9092", **relay}, serviceMonitor={"enabled": True}
    )
    return rendered(values, release="cdc-outbox")


@pytest.mark.parametrize(("recipe", "replicas"), [("base", 1), ("overlays/standby-pair", 2)])
def test_a_relay_is_the_deployment_that_kustomize_builds(recipe: str, replicas: int) -> None:
    assert substance(one(like_kustomize(replicas=replicas), "Deployment"), {}) == of_kustomize(recipe)


def test_a_pod_of_a_shard_differs_from_one_of_the_pair_in_its_shard_alone() -> None:
    pair, shard = of_kustomize("overlays/standby-pair"), substance(one(like_kustomize(shards=3), "StatefulSet"), {})
    assert shard["containers"][0]["env"].pop("CDC_OUTBOX_SHARD") == "$(POD_INDEX)/3"
    assert (shard.pop("replicas"), shard.pop("strategy")) == (3, None)
    assert shard == {key: value for key, value in pair.items() if key not in {"replicas", "strategy"}}


def test_budget_account_and_monitoring_are_those_of_kustomize() -> None:
    manifests = like_kustomize()
    budget, base = one(manifests, "PodDisruptionBudget")["spec"], kustomized.one("base", "PodDisruptionBudget")["spec"]
    selected = one(manifests, "Deployment")["spec"]["selector"]
    assert budget == {**base, "selector": selected}
    account = one(manifests, "ServiceAccount")
    assert (
        account["automountServiceAccountToken"]
        is kustomized.one("base", "ServiceAccount")["automountServiceAccountToken"]
    )
    monitor, theirs = (
        one(manifests, "ServiceMonitor")["spec"],
        kustomized.one(kustomized.MONITORED, "PodMonitor")["spec"],
    )
    (endpoint,) = monitor["endpoints"]
    assert monitor["jobLabel"] == theirs["jobLabel"]
    assert [{key: value for key, value in endpoint.items() if key != "relabelings"}] == theirs["podMetricsEndpoints"]


def test_the_check_before_an_upgrade_is_as_restricted_as_a_relay_and_no_service_counts_it() -> None:
    manifests = rendered(FLEETS["shards"])
    job, workload = one(manifests, "Job"), one(manifests, "StatefulSet")
    for key in (
        "automountServiceAccountToken",
        "enableServiceLinks",
        "securityContext",
        "volumes",
    ):
        assert job["spec"]["template"]["spec"][key] == workload["spec"]["template"]["spec"][key]
    for key in ("image", "resources", "securityContext", "volumeMounts"):
        assert container(job)[key] == container(workload)[key]
    assert variables(job, index=1) == {**variables(workload, index=1), "POD_INDEX": "1"}
    labels = job["spec"]["template"]["metadata"]["labels"]
    for kind in ("Service", "PodDisruptionBudget", "StatefulSet"):
        selector = one(manifests, kind)["spec"]["selector"]
        assert not selector.get("matchLabels", selector).items() <= labels.items()
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-upgrade,pre-rollback"


# --- a fleet -----------------------------------------------------------------------------------------------------------


def test_each_relay_has_its_objects_and_their_selectors_meet_its_pods_alone() -> None:
    manifests = rendered(EVERYTHING)
    workloads = [each for each in manifests if each["kind"] in {"Deployment", "StatefulSet"}]
    pods = {each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"] for each in workloads}
    assert set(pods) == {"fleet-orders", "fleet-billing-of-4", "fleet-audit"}
    for each in manifests:
        if each["kind"] in {"Deployment", "StatefulSet", "Service", "PodDisruptionBudget"}:
            selector = each["spec"]["selector"]
            meets = [
                name for name, labels in pods.items() if selector.get("matchLabels", selector).items() <= labels.items()
            ]
            assert meets == [each["metadata"]["name"]]
    policy = one(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    (*_, job) = [each for each in manifests if each["kind"] == "Job"]
    assert all(
        policy.items() <= labels.items() for labels in (*pods.values(), job["spec"]["template"]["metadata"]["labels"])
    )


def test_a_set_with_another_number_of_shards_is_another_set_whose_selector_does_not_meet_the_old_pods() -> None:
    two, four = (one(rendered(fleet({"name": "orders", "shards": count})), "StatefulSet") for count in (2, 4))
    assert (two["metadata"]["name"], four["metadata"]["name"]) == ("fleet-orders-of-2", "fleet-orders-of-4")
    assert not four["spec"]["selector"]["matchLabels"].items() <= two["spec"]["template"]["metadata"]["labels"].items()


def test_a_relay_takes_the_defaults_key_by_key_unless_it_has_its_own() -> None:
    own = {"snapshot": False, "max-in-flight-events": 1_000_000, "max-delay": 0.5, "table": ["public.a", "b"]}
    values = fleet(
        {"name": "orders", "options": own, "kafka": {"linger.ms": 5}},
        defaults={"options": {"snapshot": True, "on-poison": "skip"}, "kafka": {"linger.ms": 1, "client.id": "fleet"}},
    )
    assert variables(one(rendered(values), "Deployment")) == {
        "CDC_OUTBOX_BROKERS": "kafka:9092",
        "CDC_OUTBOX_DSN_FILE": "/run/secrets/cdc-outbox/dsn",
        "CDC_OUTBOX_SNAPSHOT": "false",
        "CDC_OUTBOX_MAX_IN_FLIGHT_EVENTS": "1000000",
        "CDC_OUTBOX_MAX_DELAY": "0.5",
        "CDC_OUTBOX_TABLE": "public.a,b",
        "CDC_OUTBOX_ON_POISON": "skip",
        "CDC_OUTBOX_WAIT_FOR_TABLE": "300s",
        "CDC_OUTBOX_KAFKA_LINGER_MS": "5",
        "CDC_OUTBOX_KAFKA_CLIENT_ID": "fleet",
    }


def test_every_option_of_the_schema_reaches_the_relay_under_its_name(tmp_path: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    known = schema["properties"]["defaults"]["properties"]["options"]["properties"]
    chosen = {name: OPTIONS[name].default or OPTIONS[name].example or "x" for name in known}
    typed = {
        name: yaml.safe_load(text) if known[name].get("type") != ["string"] else text for name, text in chosen.items()
    }
    typed |= {name: chosen[name] for name, rule in known.items() if "enum" in rule}
    del typed["kafka-config"]  # a file, which `config show` reads
    manifests = rendered(fleet({"name": "orders", "options": typed}))
    found = {name: value for name, value in variables(one(manifests, "Deployment")).items() if "_DSN" not in name}
    done = run_command("config", "show", "--json", dsn="host=db", env=found)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)["options"]
    assert {name: shown[name]["origin"] for name in typed} == dict.fromkeys(typed, "environment")


def test_five_hundred_relays_are_one_release() -> None:
    values = fleet(*({"name": f"db-{number}", "secret": {"name": f"db-{number}"}} for number in range(500)))
    done = template(values)
    assert done.returncode == 0, done.stderr
    manifests = list(yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(set(names)) == len(names)
    assert [kind for kind, _ in names].count("Deployment") == 500
    assert len(gzip.compress(done.stdout.encode())) * 4 / 3 < LIMIT_BYTES / 2


# --- monitoring --------------------------------------------------------------------------------------------------------


def test_rules_and_dashboard_are_those_that_are_tested() -> None:
    manifests = rendered(EVERYTHING)
    tested = (ROOT / "deploy/prometheus/rules.yml").read_text()
    own = tested.replace("https://cdc-outbox.example.com/runbook/", "https://wiki.example.com/outbox/")
    assert own != tested
    assert one(manifests, "PrometheusRule")["spec"] == yaml.safe_load(own)
    data = one(manifests, "ConfigMap")["data"]
    assert json.loads(data["cdc-outbox.json"]) == json.loads((ROOT / "deploy/grafana/cdc-outbox.json").read_text())


def test_each_shard_is_a_job_of_its_own_and_the_pods_of_a_pair_are_one(tmp_path: Path) -> None:
    monitor = one(rendered(EVERYTHING), "ServiceMonitor")["spec"]
    (endpoint,) = monitor["endpoints"]
    snake = [
        {re.sub(r"(?<!^)([A-Z])", r"_\1", key).lower(): value for key, value in each.items()}
        for each in endpoint["relabelings"]
    ]
    pod = "__meta_kubernetes_pod_label_app"
    targets = [
        {"targets": ["a:8420"], "labels": {f"{pod}_kubernetes_io_instance": "fleet-orders", "job": "fleet-orders"}},
        *(
            {
                "targets": [f"b{index}:8420"],
                "labels": {
                    f"{pod}_kubernetes_io_instance": "fleet-billing-of-4",
                    f"{pod}s_kubernetes_io_pod_index": str(index),
                    "job": "fleet-billing-of-4",
                },
            }
            for index in range(2)
        ),
    ]
    scrape = {"job_name": "fleet", "relabel_configs": snake, "static_configs": targets}
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    done = promtool("check", "service-discovery", "--timeout=2s", str(tmp_path / "prometheus.yml"), "fleet")
    assert done.returncode == 0, done.stdout + done.stderr
    jobs = {each["labels"]["__address__"]: each["labels"]["job"] for each in json.loads(done.stdout)}
    assert jobs == {"a:8420": "fleet-orders", "b0:8420": "fleet-billing-of-4-0", "b1:8420": "fleet-billing-of-4-1"}


# --- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("relay", "reason"),
    [
        (
            {"shards": 2, "options": {"prune-after": "7d"}},
            "relays.0.options.prune-after.*nothing beside shards: run cdc-outbox prune",
        ),
        (
            {"shards": 2, "options": {"source": "message"}},
            'relays.0.options.source must be one of the following: "table"',
        ),
        ({"shards": 2, "options": {"source": "both"}}, 'relays.0.options.source must be one of the following: "table"'),
        ({"shards": 2, "replicas": 2}, "relays.0.replicas.*nothing beside shards: each shard is one pod"),
        ({"shards": 1}, "relays.0.shards: Must be greater than or equal to 2"),
        ({"shards": 65}, "relays.0.shards: Must be less than or equal to 64"),
        ({"options": {"shard": "0/2"}}, "Additional property shard is not allowed"),
        ({"options": {"dsn": "password=x"}}, "Additional property dsn is not allowed"),
        (
            {"options": {"on-poison": "ignore"}},
            'relays.0.options.on-poison must be one of the following: "stop", "skip", "dead-letter"',
        ),
        (
            {"options": {"max-in-flight-events": "many"}},
            "relays.0.options.max-in-flight-events: Invalid type. Expected: integer",
        ),
        ({"option": {}}, "Additional property option is not allowed"),
        (
            {"kafka": {"sasl.password": "x"}},
            "relays.0.kafka.sasl.password .* it is a secret: name its key in kafkaSecrets",
        ),
        ({"kafka": {"ssl.key.pem": "x"}}, "relays.0.kafka.ssl.key.pem .* it is a secret"),
        ({"env": {"CDC_OUTBOX_DSN": "x"}}, "relays.0.env.CDC_OUTBOX_DSN .* set it in options, kafka or kafkaSecrets"),
        ({"env": {"PGPASSWORD": "x"}}, "relays.0.env.PGPASSWORD .* it is a secret"),
        ({"name": "Orders"}, "relays.0.name: Does not match pattern"),
        ({"brokers": ""}, "relay orders has no brokers: set relays\\[\\].brokers or defaults.brokers"),
        ({"secret": {}}, "relay orders has no secret: set relays\\[\\].secret.name"),
    ],
)
def test_values_that_the_relay_would_refuse_are_refused_with_the_place_and_the_reason(
    relay: Manifest, reason: str
) -> None:
    assert re.search(reason, refused(fleet({"name": "orders", **relay})))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (
            fleet({"name": "a", "shards": 2}, defaults={"options": {"prune-after": "7d"}}),
            "relay a has shards, .* prune-after",
        ),
        (
            fleet({"name": "a", "shards": 2}, defaults={"options": {"source": "both"}}),
            "relay a has shards, .* than table",
        ),
        (fleet({"name": "a"}, {"name": "a"}), "two relays are named a"),
        (fleet({"name": "a" * 48, "shards": 64}), "has more than 52 characters"),
        ({**fleet({"name": "a"}), "image": {}}, "image.repository is empty"),
        (fleet(serviceMonitors={}), "Additional property serviceMonitors is not allowed"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(values: Manifest, reason: str) -> None:
    assert re.search(reason, refused(values))


# --- the chart as a package --------------------------------------------------------------------------------------------


def notes(values: Manifest, folder: Path) -> str:
    """What helm prints after an install. `helm template` leaves it out, so it becomes a manifest in a copy of the chart."""
    chart = folder / "chart"
    shutil.copytree(CHART, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "shown.yaml").write_text(
        '{{ define "notes" }}' + text + '{{ end }}\nkind: Notes\nnotes: {{ include "notes" . | toJson }}\n'
    )
    return str(one(rendered(values, "--namespace", "shop", chart=chart), "Notes")["notes"])


def test_the_notes_name_the_next_commands_for_objects_that_are_there(tmp_path: Path) -> None:
    text = notes(EVERYTHING, tmp_path)
    manifests = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in rendered(EVERYTHING)}
    followed = re.findall(r"kubectl --namespace shop rollout status (\S+)", text)
    assert followed == ["deployment/fleet-orders", "statefulset/fleet-billing-of-4", "deployment/fleet-audit"]
    assert set(followed) <= manifests
    assert "exec fleet-billing-of-4-0 -- cdc-outbox status --slot cdc_outbox_0_of_4\n" in text
    assert "exec deployment/fleet-orders -- cdc-outbox status\n" in text


def test_the_notes_of_no_relay_and_of_many_are_short(tmp_path: Path) -> None:
    many = fleet(*({"name": f"db-{number}"} for number in range(40)))
    (tmp_path / "a").mkdir()
    assert "No relay yet" in notes(fleet(), tmp_path / "a")
    text = notes(many, tmp_path)
    assert "37 more: kubectl --namespace shop get pods --selector app.kubernetes.io/part-of=fleet" in text
    assert len(text.splitlines()) < 20


def test_the_package_has_every_file(tmp_path: Path) -> None:
    done = helm("package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    tar = shutil.which("tar") or absent("tar is missing")
    listed = subprocess.run(
        [tar, "tzf", tmp_path / f"cdc-outbox-{__version__}.tgz"], check=True, capture_output=True, text=True
    )
    packed = {name.removeprefix("cdc-outbox/") for name in listed.stdout.split()}
    assert packed == {str(path.relative_to(CHART)) for path in CHART.rglob("*") if path.is_file()}
