"""The dashboard: sound as a file, and each of its queries answered by a real Prometheus that scrapes a real relay."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
import yaml

from cdc_outbox.demo.ports import free_port
from tests.plugins.absence import absent
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.plugins.outbox import Outbox

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
DASHBOARD: Final[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "cdc-outbox.json").read_text())
PANELS: Final[list[dict[str, Any]]] = DASHBOARD["panels"]

EMPTY_WHEN_ALL_IS_WELL: Final = ("cdc_outbox_delivery_errors_total", "cdc_outbox_slot_safe_wal_bytes")
"""Nothing was refused, and the server has no max_slot_wal_keep_size."""


def queries() -> list[str]:
    """What the dashboard asks, for all jobs and with a minute for the interval."""
    asked = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
    asked += [annotation["expr"] for annotation in DASHBOARD["annotations"]["list"]]
    return [query.replace("$__rate_interval", "1m").replace("$job", ".*") for query in asked]


class Prometheus:
    """A running server."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path: str, **parameters: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as answer:
            return json.load(answer)["data"]

    def ask(self, query: str) -> list[Any]:
        found: list[Any] = self.get("query", query=query)["result"]
        return found

    def answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.get("targets"))
        return False


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with our configuration and rules, but for the address and the interval."""
    program = shutil.which("prometheus") or absent("prometheus is missing (apt-get install prometheus)")
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    configuration["rule_files"] = [str(DEPLOY / "prometheus" / "rules.yml")]
    configuration["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    options = ["--config.file=prometheus.yml", "--storage.tsdb.path=data", f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "log").open("w") as log, subprocess.Popen([program, *options], cwd=folder, stderr=log) as process:
        try:
            server = Prometheus(port)
            eventually(server.answers, "Prometheus answers")
            yield server
        finally:
            process.kill()


@pytest.mark.nightly
def test_every_query_and_every_rule_is_answered_by_a_prometheus_that_scrapes_a_relay(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.create("outbox", "other")
    relay = outbox.streaming(
        "--on-poison",
        "dead-letter",
        "--dead-letter-topic",
        outbox.prefix + "dead",
        "--table",
        "public.outbox",
        http=True,
    )
    outbox.add_all([{} for _ in range(50)])
    outbox.add(id=None)
    outbox.add("other")
    with prometheus(tmp_path, f"127.0.0.1:{relay.http_port}") as server:
        eventually(lambda: server.ask("sum(cdc_outbox_events_published_total) >= 50"), "the events are seen")
        eventually(lambda: server.ask("cdc_outbox_events_dead_lettered_total == 1"), "the dead letter is seen")
        eventually(lambda: server.ask("cdc_outbox_slot_active == 1"), "the slot is seen")
        eventually(lambda: server.ask("count_over_time(up[1m]) > 2"), "rates can be told")

        empty = [query for query in queries() if not server.ask(query)]
        assert [query for query in empty if not re.search("|".join(EMPTY_WHEN_ALL_IS_WELL), query)] == [
            query for query in queries() if "changes(process_start_time_seconds" in query
        ]

        def rules() -> list[Any]:
            return [rule for group in server.get("rules")["groups"] for rule in group["rules"]]

        eventually(lambda: all(rule["health"] != "unknown" for rule in rules()), "the rules are evaluated")
        assert {rule["name"]: rule.get("lastError") for rule in rules() if rule["health"] != "ok"} == {}
        assert [rule["name"] for rule in rules() if rule.get("state") == "firing"] == ["CdcOutboxDeadLetters"]


def test_panels_have_places_of_their_own_and_read_the_source_that_is_chosen() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, f"{panel['title']} lies over another"
        assert max(x for x, _ in cells) < 24
        taken |= cells
    sources = {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", [])}
    assert sources == {"${datasource}"}


def test_every_query_asks_for_the_job_that_is_chosen() -> None:
    for panel in PANELS:
        for target in panel.get("targets", []):
            assert 'job=~"$job"' in target["expr"], target["expr"]


@pytest.mark.parametrize("name", ["datasource.yml", "dashboards.yml"])
def test_what_provisions_grafana_can_be_read(name: str) -> None:
    assert yaml.safe_load((DEPLOY / "grafana" / name).read_text())["apiVersion"] == 1
