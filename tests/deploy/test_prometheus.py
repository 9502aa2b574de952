"""Alert rules, by Prometheus' own tool: they parse, and each has fired and been quiet in a unit test; the runbook has each."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cdc_outbox import DOCUMENTATION
from tests.docs.pages import anchor, headings, section
from tests.plugins.absence import absent

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "prometheus"
RUNBOOK: Final = "docs/runbook.md"
BASE: Final = '{{ with query "cdc_outbox_runbook" }}{{ . | first | label "base" }}{{ end }}'

ALL: Final[list[dict[str, Any]]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
RULES: Final = [rule for rule in ALL if "alert" in rule]
TESTS: Final[list[dict[str, Any]]] = yaml.safe_load((FOLDER / "rules.test.yml").read_text())["tests"]
NAMES: Final = [rule["alert"] for rule in RULES]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool") or absent("promtool is missing (apt-get install prometheus)")
    return subprocess.run([program, *arguments], check=False, capture_output=True, text=True, cwd=FOLDER)


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    done = promtool("check", "rules", "rules.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ALL)} rules found" in done.stdout


def test_the_unit_tests_of_the_rules_pass() -> None:
    done = promtool("test", "rules", "rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_in_one_unit_test_and_is_quiet_in_another() -> None:
    checks = [check for test in TESTS for check in test["alert_rule_test"]]
    assert {check["alertname"] for check in checks if check.get("exp_alerts")} == set(NAMES)
    assert {check["alertname"] for check in checks if not check.get("exp_alerts")} == set(NAMES)


def test_the_runbook_has_a_heading_for_each_alert_and_each_alert_leads_to_it() -> None:
    assert [title for title in headings(RUNBOOK, 2) if title.startswith("CdcOutbox")] == NAMES
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"{BASE}#{anchor(rule['alert'])}"


def test_one_line_is_the_base_of_every_link_to_the_runbook() -> None:
    text = (FOLDER / "rules.yml").read_text()
    [base] = [rule["labels"]["base"] for rule in ALL if rule.get("record") == "cdc_outbox_runbook"]

    assert base == f"{DOCUMENTATION}/runbook/"
    assert text.count(base) == 1


@pytest.mark.parametrize("rule", RULES, ids=NAMES)
def test_the_runbook_has_the_severity_and_the_steps(rule: dict[str, Any]) -> None:
    said = section(RUNBOOK, rule["alert"])
    assert said.strip().startswith(f"*{rule['labels']['severity'].capitalize()}.*")
    assert "**Do**" in said


def test_prometheus_accepts_its_configuration() -> None:
    done = promtool("check", "config", "--syntax-only", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_that_an_alert_asks_for_is_one_that_the_reference_lists() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/reference/metrics.md").read_text(), re.MULTILINE))
    asked = {name for rule in RULES for name in re.findall(r"\bcdc_outbox_(\w+)", rule["expr"])}
    assert asked - listed == set()
    assert len(asked) >= 12
