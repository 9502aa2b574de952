"""What a relay logs while its attempts fail: each obstacle, and again when it is back."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import CdcOutboxError, ConfigurationError, Unreachable
from cdc_outbox.relay.retry import MISSING_LOG_SECONDS, Retry
from cdc_outbox.relay.session import History
from tests.plugins.scripted import Clock

TABLE = ConfigurationError("table public.outbox does not exist", code="table-missing")
PUBLICATION = ConfigurationError("publication cdc_outbox does not exist", code="publication-missing")
SERVER = Unreachable("PostgreSQL cannot be reached", code="postgres-unreachable")


def logged(monkeypatch: pytest.MonkeyPatch, *attempts: CdcOutboxError, every: float) -> list[str]:
    """The lines of a first start whose attempts end with these errors, as the messages of their errors."""
    clock = Clock()
    monkeypatch.setattr("cdc_outbox.relay.retry.time", clock)
    retry = Retry(Settings(brokers="b", wait_for_table=3600.0), History())
    with capture_logs() as lines:
        for error in attempts:
            retry.begin()
            retry.log(error, producer_lost=False)
            clock.now += every
    assert {line["event"] for line in lines} == {"waiting"}
    return [line["error"].message for line in lines]


def test_what_is_missing_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    assert logged(monkeypatch, *[TABLE] * 12, every=MISSING_LOG_SECONDS / 4) == [TABLE.message] * 3


@pytest.mark.parametrize("between", [SERVER, PUBLICATION])
def test_an_obstacle_that_is_back_is_logged_again(monkeypatch: pytest.MonkeyPatch, between: CdcOutboxError) -> None:
    attempts = [TABLE, TABLE, between, TABLE, TABLE]
    assert logged(monkeypatch, *attempts, every=1.0) == [TABLE.message, between.message, TABLE.message]
