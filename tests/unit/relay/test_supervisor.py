"""What ends a generation, without a server: the outcome for the process."""

from __future__ import annotations

import itertools

import pytest

from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConfigurationError, StreamGap, Undelivered, Unreachable
from cdc_outbox.lsn import Lsn
from cdc_outbox.relay import supervisor
from cdc_outbox.relay.session import BatchRejected
from cdc_outbox.relay.supervisor import NOT_IN_A_TABLE, Supervisor
from tests.plugins.scripted import Clock, ScriptedStop


def test_records_refused_while_stopping_are_no_clean_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search for the rejected record is for the next start: 75, not 0."""
    stop = ScriptedStop(Clock())

    def refused(_self: Supervisor) -> None:
        stop.request()
        raise BatchRejected(frozenset({Lsn(100)}), "Broker: Message size too large")

    monkeypatch.setattr(Supervisor, "_run_session", refused)
    with pytest.raises(Undelivered, match="Message size too large"):
        Supervisor(Settings(brokers="b"), Counters(), stop).run()


def test_while_a_relay_connects_no_loop_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To make a slot waits for every transaction that is open; an earlier attempt must not count as a loop that has stuck."""
    counters = Counters(last_turn_monotonic=1.0)
    monkeypatch.setattr(Supervisor, "_run_session", lambda _self: None)
    Supervisor(Settings(brokers="b"), counters, ScriptedStop(Clock())).run()

    assert counters.last_turn_monotonic is None
    assert counters.waits_since_monotonic is not None


def test_each_attempt_and_each_second_of_a_pause_between_two_is_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is down is no reason to restart the relay."""
    clock, counters, seen = Clock(), Counters(), []
    stop = ScriptedStop(clock)
    monkeypatch.setattr(supervisor, "time", clock)

    def refused(_self: Supervisor) -> None:
        seen.append(counters.waits_since_monotonic)
        clock.now += 100.0
        if len(seen) == 3:
            stop.request()
        raise Unreachable("no server")

    monkeypatch.setattr(Supervisor, "_run_session", refused)
    Supervisor(Settings(brokers="b"), counters, stop).run()
    assert seen[0] == 1_000_000.0
    assert all(later - earlier > 100.0 for earlier, later in itertools.pairwise(seen))


@pytest.mark.parametrize("source", ["table", "message", "both"])
def test_the_error_of_a_gap_has_that_messages_are_in_no_table_where_messages_are_read(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    def lost(_self: Supervisor) -> None:
        raise StreamGap("slot s is lost", cure="cdc-outbox slot recover")

    monkeypatch.setattr(Supervisor, "_run_session", lost)
    with pytest.raises(StreamGap) as ended:
        Supervisor(Settings(brokers="b", source=source), Counters(), ScriptedStop(Clock())).run()
    assert (NOT_IN_A_TABLE in ended.value.cure) == (source != "table")


def test_other_errors_do_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_self: Supervisor) -> None:
        raise ConfigurationError("wal_level is replica", cure="not this: cdc-outbox slot recover")

    monkeypatch.setattr(Supervisor, "_run_session", wrong)
    with pytest.raises(ConfigurationError) as ended:
        Supervisor(Settings(brokers="b", source="both"), Counters(), ScriptedStop(Clock())).run()
    assert ended.value.cure == "not this: cdc-outbox slot recover"
