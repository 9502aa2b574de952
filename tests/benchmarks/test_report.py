"""What a run prints, draws and publishes: every figure is the run's own."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.__main__ import PUBLISHED as FULL_RUN
from benchmarks.chart import draw
from benchmarks.drained import Drained
from benchmarks.publish import BEGIN, DOCS, END
from benchmarks.report import Results, conditions, summarize_drains, table
from benchmarks.steady import summary

PUBLISHED = json.loads((DOCS / "benchmarks.json").read_text())


def drained(contender: str, rate: float, *, per_transaction: int = 10) -> Drained:
    return Drained(contender, per_transaction, 1, 1000, rate, 5.0, 6.0, 3.0, 60.0, 0.3, 0, 0.1)


def test_a_rate_is_held_against_the_fastest_raw_reader_of_the_same_shape_and_the_lazy_one_is_shown() -> None:
    rows = summarize_drains(
        [
            drained("cdc-outbox", 150.0),
            drained("cdc-outbox", 150.0, per_transaction=1),
            drained("pg_recvlogical", 180.0),
            drained("bare loop", 200.0),
            drained("lazy loop", 400.0),
            drained("pg_recvlogical", 120.0, per_transaction=1),
            drained("cdc-outbox", 190.0),
            drained("cdc-outbox", 160.0),
        ]
    )
    assert [(row["per_transaction"], row["contender"], row["rows_per_second"], row["ratio"]) for row in rows] == [
        (10, "raw slot", 200.0, 0.5),
        (10, "raw slot, lazy", 400.0, 1.0),
        (10, "cdc-outbox", 160.0, 0.4),  # the median of three
        (1, "raw slot", 120.0, 1.0),
        (1, "cdc-outbox", 150.0, 1.25),
    ]


def test_of_a_hundred_latencies_the_p99_is_exceeded_by_one() -> None:
    found = summary("cdc-outbox", 1, 1000, [float(number) for number in range(1, 101)], 0.005)
    assert (found.p50, found.p99, found.max, found.cpu_microseconds_per_event) == (50.0, 99.0, 100.0, 50.0)
    assert summary("cdc-outbox", 1, 0, [3.0], None).p99 == 3.0


def test_what_is_left_out_is_reported() -> None:
    results = Results({"rows": 1, "repeat": 1, "payload_bytes": 200}, "18.6", left_out={"Debezium": "no Java here"})
    results.drains.append(drained("cdc-outbox", 150.0))
    assert "Left out: Debezium, since no Java here" in table(results.document())


def test_the_chart_is_an_image_that_reads_on_light_and_on_dark_and_shows_every_contender() -> None:
    text = draw(PUBLISHED)
    root = ET.fromstring(text)
    words = {element.text for element in root.iter("{http://www.w3.org/2000/svg}text")}
    assert "prefers-color-scheme: dark" in text
    assert {str(row["contender"]) for row in PUBLISHED["summary"]["drain"]} <= words


def test_page_and_chart_show_the_same_run() -> None:
    page = (DOCS / "benchmarks.md").read_text().partition(BEGIN)[2].partition(END)[0]
    taken = conditions(PUBLISHED)
    for text in (page, draw(PUBLISHED)):
        assert taken.day in text
        assert f"{taken.options['rows']:,} rows" in text
        assert all(str(taken.versions[name]) in text for name in ("PostgreSQL", "Apache Kafka", "Debezium"))


def test_the_page_shows_what_a_run_with_publish_measures() -> None:
    assert FULL_RUN.items() <= PUBLISHED["options"].items()


def test_a_run_of_one_scenario_has_a_chart_too() -> None:
    results = Results({"rows": 1, "repeat": 1, "payload_bytes": 200}, "18.6")
    results.drains.append(drained("cdc-outbox", 150.0))
    assert "INSERT to consumer" not in draw(results.document())


@pytest.mark.parametrize("name", ["benchmarks.svg", "benchmarks.md"])
def test_what_the_documents_show_is_made_of_the_published_figures(name: str) -> None:
    text = Path(DOCS / name).read_text()
    if name.endswith("svg"):
        assert text == draw(PUBLISHED)
    else:
        assert table(PUBLISHED) in text.partition(BEGIN)[2].partition(END)[0]
