"""The fixture that runs a relay: what it starts, what it hears, and what it does to it. One row goes all the way."""

from __future__ import annotations

import json
import signal
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.plugins.metrics import metrics
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

OUTBOX = """
CREATE TABLE public.outbox (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), aggregatetype text NOT NULL,
    aggregateid text NOT NULL, type text NOT NULL, payload json)
"""


@pytest.fixture
def running(relay: Callable[..., Relay], database: Database, kafka: KafkaCluster) -> Relay:
    database.execute(OUTBOX)
    database.execute("CREATE PUBLICATION cdc_outbox FOR TABLE public.outbox WITH (publish = 'insert')")
    slot, topic = f"slot_{database.name}", f"{database.name}.{{aggregatetype}}"
    started = relay("--slot", slot, "--topic", topic, database=database, kafka=kafka, http=True)
    started.wait_for_log("streaming")
    return started


def test_a_row_becomes_a_record_and_sigterm_ends_with_zero(
    running: Relay, database: Database, kafka: KafkaCluster
) -> None:
    database.execute(
        "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) VALUES ('order', '1', 'Placed', '{}')"
    )
    (record,) = kafka.consume(f"^{database.name}", until=1)
    assert (record.topic, record.key, record.value) == (f"{database.name}.order", b"1", b"{}")
    assert running.peak_rss_bytes() >= running.rss_bytes() > 10_000_000
    with urllib.request.urlopen(f"{running.http_url}/livez", timeout=5) as answer:
        assert answer.status == 200
    eventually(lambda: "slot_active" in metrics(running), "the slot has been looked at")
    with urllib.request.urlopen(f"{running.http_url}/status", timeout=5) as answer:
        status = json.load(answer)
    assert (status["state"], status["slot_active"], status["wal_status"]) == ("streaming", True, "reserved")
    assert status["retained_wal_bytes"] >= status["lag_bytes"] >= 0
    assert metrics(running)['slot_wal_status{status="reserved"}'] == 1
    running.terminate()
    assert running.wait() == 0
    assert running.log_lines("stopped")
    assert all(json.loads(line) for line in running.stderr_text.splitlines())
    assert running.stdout_text == ""
    assert running.peak_rss_bytes() > 10_000_000


def test_a_killed_relay_is_reaped(running: Relay) -> None:
    assert running.kill() == -signal.SIGKILL
    assert not running.running


def test_a_stopped_relay_goes_on_when_continued(running: Relay) -> None:
    running.stop()
    running.terminate()
    with pytest.raises(AssertionError, match="has not ended within"):
        running.wait(timeout=0.5)
    running.cont()
    assert running.wait() == 0


def test_waiting_for_a_line_of_a_relay_that_has_ended_fails_at_once(relay: Callable[..., Relay]) -> None:
    ended = relay("--no-such-option")
    with pytest.raises(AssertionError, match="the relay ended with 2") as caught:
        ended.wait_for_log("streaming", timeout=60)
    assert "--no-such-option" in str(caught.value)


def test_a_developers_own_environment_does_not_reach_the_relay(
    relay: Callable[..., Relay], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_OUTBOX_LOG_LEVEL", "no such level")
    refused = relay("--brokers", "127.0.0.1:1", "--no-such-option")
    assert refused.wait() == 2
    assert "no such level" not in refused.stderr_text
