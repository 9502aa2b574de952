"""The status page in a real browser: what a person sees of a relay that is well, that is not, and that is gone."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, TypeAlias

import pytest
import structlog

from cdc_outbox import DOCUMENTATION
from cdc_outbox.commands.explain import read_sections
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters, SlotCounters, State, TopicCounters
from cdc_outbox.observe import Versions, http, logs
from cdc_outbox.observe.history import SAMPLE_SECONDS, History
from cdc_outbox.observe.metrics import build_registry
from cdc_outbox.observe.recent import RecentWarnings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.browser import Browser

MIB = 1 << 20
SETTINGS = Settings(brokers="kafka:9092", slot="shop_orders")
NOW = 1_700_000_000.0
HTML_IN_A_MESSAGE = "<img src=x onerror=document.title='obeyed'>"

Serve: TypeAlias = "Callable[..., contextlib.AbstractContextManager[str]]"


@pytest.fixture
def counters() -> Counters:
    """A relay in the middle of its work."""
    return Counters(
        state=State.STREAMING,
        postgres_connected=True,
        kafka_connected=True,
        kafka_since_timestamp=NOW - 60.0,
        database="shop at db:5432",
        topics={"orders": TopicCounters()},
        delivery_errors={("invoices", "MSG_SIZE_TOO_LARGE"): 2},
        in_flight_events=7,
        confirmed_lsn=90 * MIB,
        slot=SlotCounters(
            active=True,
            wal_status="reserved",
            current_lsn=100 * MIB,
            restart_lsn=40 * MIB,
            confirmed_flush_lsn=90 * MIB,
            safe_wal_bytes=600 * MIB,
            seen_timestamp=NOW,
            wal_bytes_per_second=MIB / 6,
        ),
    )


def lived(counters: Counters) -> History:
    """The history of a minute of it: twelve events a second, each delivered within 8 ms or so."""
    clock = [0.0]
    history = History(counters, monotonic=lambda: clock[0], wall=lambda: NOW + clock[0])
    for _ in range(30):
        clock[0] += SAMPLE_SECONDS
        counters.topics["orders"].delivered += 24
        counters.latency_buckets[3] += 24
        history.tick(clock[0])
    return history


@pytest.fixture
def serve(counters: Counters, monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Serves what the counters say, at an address or any."""
    monkeypatch.setattr(http, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(logs, "RECENT", RecentWarnings())
    registry = build_registry(counters, Versions("0.1.0", "3", "2", "18"))
    history = lived(counters)

    @contextlib.contextmanager
    def serving(address: str = "127.0.0.1:0") -> Iterator[str]:
        with http.serve(
            address, counters, SETTINGS, registry, history=history, monotonic=lambda: 0.0, wall=lambda: NOW + 61.0
        ) as at:
            assert at is not None
            yield at

    return serving


def text(browser: Browser, selector: str) -> str:
    return str(browser.run(f"document.querySelector({selector!r}).innerText"))


def test_the_page_of_a_healthy_relay_has_state_charts_facts_and_warnings(
    browser: Browser, counters: Counters, serve: Serve
) -> None:
    logs.RECENT.note({"timestamp": "2023-11-14T22:13:20Z", "level": "warning", "event": "kafka.unreachable",
                      "error": HTML_IN_A_MESSAGE, "cure": "start the broker", "suppressed": 3})  # fmt: skip
    with serve() as address:
        browser.open(f"http://{address}/")
        browser.until("document.querySelector('#state.good')", "the page shows the state")

        assert text(browser, "#state") == "streaming Rows become records as they are committed."
        assert "slot shop_orders" in text(browser, "header")
        values = browser.run("[...document.querySelectorAll('.value')].map((each) => each.innerText)")
        assert values == ["12 events/s", "0 ms", "60.0 MiB", "8 ms · 10 ms"]
        points = browser.run("[...document.querySelectorAll('path.one')].map((p) => p.getTotalLength() > 500)")
        assert points == [True] * 4
        facts = text(browser, "#facts")
        assert "720 events" in facts
        assert "600.0 MiB; 60 min at this rate, if it stood still" in facts
        assert "shop at db:5432" in facts
        assert "connected since" in facts
        assert "kafka:9092" in facts
        topics = browser.run("[...document.querySelectorAll('#topics tbody tr')].map((row) => row.innerText)")
        assert topics == ["orders\t12/s\t720\t0 bytes\t1.0 s ago\t0", "invoices\t0/s\t0\t0 bytes\tnone\t2"]
        axes = browser.run("[...document.querySelectorAll('.axis')].map((each) => each.children[1].innerText)")
        assert axes == ["axis: 0 to 12 events/s", "axis: 0 to 1.0 s", "axis: 0 to 60.0 MiB", "axis: 0 to 100 ms"]
        warning = text(browser, "#warnings li")
        assert warning.splitlines()[0] == "kafka.unreachable · warning · 61 s ago · 4 times · over"
        assert links(browser, "#warnings") == [f"{DOCUMENTATION}/troubleshooting/#kafkaunreachable"]
        assert HTML_IN_A_MESSAGE in warning
        assert warning.splitlines()[-1] == "Cure: start the broker"

        light = browser.run("getComputedStyle(document.body).backgroundColor")
        browser.prefer("dark")
        assert browser.run("getComputedStyle(document.body).backgroundColor") != light

        asked = browser.run("performance.getEntriesByType('resource').map((each) => each.name)")
        assert set(asked) == {f"http://{address}/page.json"}
    assert [problem for problem in browser.problems if "page.json" not in problem] == []


@pytest.mark.parametrize(
    ("change", "look", "words"),
    [
        ({"kafka_connected": False}, "warn", "Kafka does not answer"),
        ({"state": State.STANDBY}, "good", "Another relay streams"),
        (
            {"state": State.STARTING, "last_error": "PostgreSQL cannot be reached"},
            "warn",
            "PostgreSQL cannot be reached",
        ),
        ({"state": State.RECONNECTING}, "warn", "The connection to PostgreSQL was lost"),
        ({"last_turn_monotonic": -31.0}, "bad", "The loop has not turned for more than 30 s"),
    ],
)
def test_the_headline_of_a_relay_with_a_problem_is_the_problem(
    browser: Browser,
    counters: Counters,
    serve: Serve,
    change: dict[str, object],
    look: str,
    words: str,
) -> None:
    for name, value in change.items():
        setattr(counters, name, value)
    with serve() as address:
        browser.open(f"http://{address}/")
        browser.until(f"document.querySelector('#state.{look}')", f"the state is {look}")

        assert words in text(browser, "#state")


def test_a_relay_that_is_gone_is_not_shown_as_if_it_were_there_and_is_shown_again_when_it_is(
    browser: Browser, serve: Serve
) -> None:
    with serve() as address:
        browser.open(f"http://{address}/")
        browser.until("document.querySelector('#state.good')", "the page shows the state")
        assert browser.run("document.querySelector('#gone').hidden")

    browser.until("!document.querySelector('#gone').hidden", "the page says that nobody answers")
    assert "No answer since" in text(browser, "#gone")
    assert text(browser, "#state-name") == "no answer"
    assert browser.run("document.title").startswith("no answer")
    assert "now" not in browser.run("[...document.querySelectorAll('.axis')].map((each) => each.lastChild.innerText)")

    with serve(address):
        browser.until("document.querySelector('#gone').hidden", "the page is live again")
        assert text(browser, "#state-name") == "streaming"


def links(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.run(f"[...document.querySelectorAll('{selector} a')].map((each) => each.href)")
    return found


def test_a_reason_a_warning_and_the_last_error_link_to_the_section_of_their_code(
    browser: Browser, counters: Counters, serve: Serve
) -> None:
    counters.state = State.RECONNECTING
    counters.note_error("PostgreSQL refuses the login", "postgres-login-refused")
    logs.RECENT.note({"timestamp": "2023-11-14T22:13:20Z", "level": "warning", "event": "postgres.disconnected",
                      "code": "postgres-login-refused", "error": "PostgreSQL refuses the login"})  # fmt: skip
    with serve() as address:
        browser.open(f"http://{address}/")
        browser.until("document.querySelector('#warnings a')", "the page shows the warning")

        refused = f"{DOCUMENTATION}/troubleshooting/#postgres-login-refused"
        assert links(browser, "#reasons") == [f"{DOCUMENTATION}/troubleshooting/#postgres-disconnected"]
        assert (links(browser, "#facts"), links(browser, "#warnings")) == ([refused], [refused])
        assert (
            browser.run("fetch('/status').then((answer) => answer.json())")["last_error_code"]
            == "postgres-login-refused"
        )
    assert {"postgres-disconnected", "postgres-login-refused"} <= set(read_sections())


def test_a_script_that_is_not_the_page_s_own_is_not_run(browser: Browser, serve: Serve) -> None:
    with serve() as address:
        browser.open(f"http://{address}/")
        browser.until("document.querySelector('#state.good')", "the page shows the state")
        browser.run(
            "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.foreign = 1'}))"
        )
        assert browser.run("window.foreign === undefined")
        assert browser.run("fetch('http://127.0.0.2:1/').then(() => 'sent', () => 'refused')") == "refused"
    assert any("Content Security Policy" in problem for problem in browser.problems)


def test_what_is_logged_as_a_warning_is_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = RecentWarnings()
    monkeypatch.setattr(logs, "RECENT", kept)
    logs.configure("json", "info")
    structlog.get_logger().info("streaming", slot="shop_orders")
    structlog.get_logger().warning("waiting", error="no answer from postgresql://relay:s3cr3t@db/shop", cure="wait")

    [warning] = kept.newest_first()
    assert (warning.event, warning.cure, warning.times) == ("waiting", "wait", 1)
    assert warning.error == "no answer from postgresql://relay:***@db/shop"
