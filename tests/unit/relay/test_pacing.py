"""When the loop reads, and what is sent together: nothing waits at rest, a window collects at a steady rate."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from cdc_outbox.errors import Undelivered
from cdc_outbox.relay.pacing import BACKLOG_MESSAGES, BACKLOG_SECONDS, Pacing
from tests.plugins import wire_builder as build
from tests.plugins.scripted import RELATION, Rig, begin, commit, insert, nothing, transaction


def deliver_at_flush(rig: Rig, flushed: Callable[[], None]) -> None:
    """Let Kafka take records at a flush only, and call `flushed` before."""
    rig.kafka.choose = nothing

    def flush(_seconds: float) -> int:
        flushed()
        rig.kafka.choose = range
        rig.kafka.poll(0.0)
        rig.kafka.choose = nothing
        return 0

    rig.kafka.flush = flush  # type: ignore[method-assign]


class Arrivals:
    """Commits one single-row transaction every `every` seconds of the rig's clock; counts the turns that produce records."""

    def __init__(self, rig: Rig, *, every: float, events: int) -> None:
        self._rig = rig
        self._every = every
        self._events = events
        self._due = rig.clock.now
        self._number = count()
        self._lsn = 100
        self.delays: list[float] = []
        """Seconds from each commit to its record."""
        self._waiting: list[float] = []
        self.produced = 0
        """Moments at which records were produced."""
        self.wakes = 0
        """Waits that ended, in turns with and without a message."""
        rig.stream.script.append(RELATION)
        wait = rig.stream.wait

        def arrive() -> None:
            while self._due <= rig.clock.now and self._events:
                self._events -= 1
                self._lsn += 100
                rig.stream.script.extend(transaction(self._lsn, f"e{next(self._number)}"))
                self._waiting.append(self._due)
                self._due += self._every

        def wait_for_arrival(seconds: float) -> bool:
            self.wakes += 1
            if not rig.stream.script and self._events:
                rig.clock.now = min(rig.clock.now + seconds, max(rig.clock.now, self._due))
                arrive()
                return bool(rig.stream.script)
            return wait(seconds)

        def receive(limit: int, then: object = rig.stream.receive) -> list[bytes]:
            arrive()
            return then(limit)  # type: ignore[operator, no-any-return]

        def produced(*arguments: object, then: Callable[..., object] = rig.kafka.produce) -> object:
            self.produced += bool(self._waiting)
            self.delays += [rig.clock.now - at for at in self._waiting]
            self._waiting.clear()
            return then(*arguments)

        def sleep(seconds: float, then: Callable[[float], bool] = rig.stop.wait) -> bool:
            self.wakes += 1
            return then(seconds)

        rig.stream.wait = wait_for_arrival  # type: ignore[method-assign]
        rig.stream.receive = receive  # type: ignore[method-assign]
        rig.publisher._produce = produced  # type: ignore[assignment]
        rig.stop.wait = sleep  # type: ignore[method-assign]
        rig.stop_when(lambda: not self._events and not rig.publisher.in_flight)


def run(*, every: float, events: int, max_delay: float) -> Arrivals:
    rig = Rig()
    arrivals = Arrivals(rig, every=every, events=events)
    rig.run(rig.relay(max_delay=max_delay))
    assert rig.ids == [f"e{number}" for number in range(events)]
    return arrivals


def test_an_event_that_comes_alone_leaves_at_once() -> None:
    arrivals = run(every=0.01, events=20, max_delay=0.002)
    assert arrivals.produced == 20
    assert max(arrivals.delays) < 0.0001


@pytest.mark.parametrize(("every", "together"), [(0.0009, 2), (0.0003, 6)])
def test_what_comes_within_the_delay_goes_together(every: float, together: float) -> None:
    arrivals = run(every=every, events=300, max_delay=0.002)
    assert arrivals.produced <= 300 / together + 2
    assert max(arrivals.delays) <= 0.0021
    assert arrivals.wakes <= arrivals.produced + 20, "more than one wake-up for what is sent together"


def test_without_a_delay_each_event_leaves_at_once_at_any_rate() -> None:
    arrivals = run(every=0.001, events=100, max_delay=0.0)
    assert arrivals.produced == 100
    assert max(arrivals.delays) < 0.0001


def test_a_small_transaction_in_three_packets_is_sent_once() -> None:
    rig = Rig([RELATION, begin(100), insert("e1"), commit(100)])
    flushes: list[int] = []

    def one_packet() -> int:
        rig.clock.now += 1.0  # a quiet stream
        return 1

    rig.stream.portion = one_packet
    deliver_at_flush(rig, lambda: flushes.append(len(rig.kafka.queue)))
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert flushes == [1]


def flushes_until_delivered(rig: Rig, *, flushes: int) -> list[float]:
    """Let Kafka take a record at the flush of this number. Returns a list of the moments of the flushes, which grows."""
    rig.kafka.choose = nothing
    flushed_at: list[float] = []

    def flush(seconds: float) -> int:
        flushed_at.append(rig.clock.now)
        rig.clock.now += seconds
        rig.kafka.choose = range if len(flushed_at) >= flushes else nothing
        return 0

    rig.kafka.flush = flush  # type: ignore[method-assign]
    return flushed_at


def test_a_flush_that_ends_before_librdkafka_has_woken_up_is_repeated_within_the_linger() -> None:
    """A flush has no effect on a broker thread that wakes up after its end (rdkafka.h, rd_kafka_flush)."""
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.linger_seconds = 4.0
    flushed_at = flushes_until_delivered(rig, flushes=3)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert len(flushed_at) == 3
    assert flushed_at[-1] - flushed_at[0] < 0.1


def test_after_the_linger_no_flush_is_repeated() -> None:
    """A Kafka that confirms nothing costs no flush in every turn."""
    rig = Rig([RELATION, *transaction(100, "e1")])
    rig.publisher.linger_seconds = 0.05
    flushed_at = flushes_until_delivered(rig, flushes=1000)
    rig.stop_when(lambda: rig.clock.now > flushed_at[0] + 1.0)
    with pytest.raises(Undelivered):
        rig.run(rig.relay(shutdown_timeout=0.1))
    assert rig.stop.requested_at is not None
    in_turns = [at for at in flushed_at if at < rig.stop.requested_at]  # the stop's own come after it
    assert in_turns
    assert in_turns[-1] - in_turns[0] <= 0.05


@pytest.mark.parametrize("before", [0.0, 0.001])
def test_an_event_right_behind_another_message_does_not_wait_for_the_linger(before: float) -> None:
    """The two were read within `max_delay` of each other, as at a steady rate; but nothing follows."""
    rig = Rig([RELATION, build.keepalive(90)])
    rig.publisher.linger_seconds = 4.0
    portions = iter((1, 1))
    rig.stream.portion = lambda: next(portions, 3)
    flushed_at = flushes_until_delivered(rig, flushes=1)
    rig.stream.script.extend(transaction(100, "e1"))
    wait = rig.stream.wait

    def passes(seconds: float) -> bool:
        rig.clock.now += min(seconds, before)
        return wait(seconds)

    rig.stream.wait = passes  # type: ignore[method-assign]
    began = rig.clock.now
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert flushed_at[0] - began < 0.1


def backlog(
    pacing: Pacing, begin: float, reads: int, *, rate: float = 250_000.0, portion: int = 3000
) -> tuple[float, list[float]]:
    """Read what a walsender sends at `rate` messages a second. Returns the time after it, and the pauses."""
    now, read_at, waiting, pauses = begin, begin, 0.0, []
    pacing.read(now, 1, empty=True)
    while len(pauses) < reads:
        now += 0.001  # the work of a turn
        waiting += rate * (now - read_at)
        read_at = now
        messages = min(portion, int(waiting))
        waiting -= messages
        empty = messages < portion
        pacing.read(now, messages, empty=empty)
        if empty:
            pauses.append(pacing.pause(now))
            now += pauses[-1]
    return now, pauses


def test_a_backlog_is_read_after_pauses_that_grow() -> None:
    """A walsender is faster while its reader sleeps."""
    _, pauses = backlog(Pacing(0.002), 10.0, 8)
    assert [round(pause, 3) for pause in pauses] == [0.002, 0.003, 0.006, 0.012, 0.024, 0.024, 0.024, 0.024]


def test_messages_that_a_read_left_are_no_end_of_a_backlog() -> None:
    _, pauses = backlog(Pacing(0.002), 10.0, 9, portion=500)
    assert pauses[-1] == pytest.approx(BACKLOG_SECONDS[1])


def test_a_backlog_ends_with_the_first_pause_that_brings_less() -> None:
    pacing = Pacing(0.002)
    now, _ = backlog(pacing, 10.0, 9)
    pacing.read(now, BACKLOG_MESSAGES - 1, empty=True)
    assert pacing.pause(now) <= 0.0021


@pytest.mark.parametrize("rate", [10_000.0, 50_000.0, 90_000.0])
def test_a_steady_rate_stays_out_of_a_backlog_after_a_burst(rate: float) -> None:
    pacing = Pacing(0.002)
    now, burst = backlog(pacing, 10.0, 9)
    _, pauses = backlog(pacing, now, 50, rate=rate)
    assert burst[-1] == pytest.approx(BACKLOG_SECONDS[1])
    assert max(pauses[2:]) <= 0.0021


def test_a_steady_rate_is_read_after_a_sleep_until_a_sleep_brings_nothing() -> None:
    pacing = Pacing(0.002)
    pacing.read(10.0, 3, empty=True)
    assert pacing.pause(10.0) == 0.0
    pacing.read(10.001, 3, empty=True)
    assert pacing.pause(10.0015) == pytest.approx(0.0015)
    pacing.read(10.004, 6, empty=True)
    assert pacing.pause(10.004) == pytest.approx(0.002)
    pacing.read(10.006, 0, empty=True)
    assert pacing.pause(10.006) == 0.0


def test_messages_that_a_read_left_are_read_without_a_wait() -> None:
    """They may be in libpq's buffer, and the socket not readable: with large rows, a read ends at its limit of bytes."""
    rig = Rig([RELATION, *transaction(100, "e1"), *transaction(200, "e2"), *transaction(300, "e3")])
    rig.stream.portion = lambda: 4
    receive = rig.stream.receive

    def receive_up_to_the_limit_of_bytes(limit: int) -> list[bytes]:
        messages = receive(limit)
        rig.stream.empty = not rig.stream.script
        return messages

    def wait(seconds: float) -> bool:
        assert not rig.stream.script or not rig.kafka.accepted, "a wait for messages that are there"
        rig.clock.now += seconds
        return bool(rig.stream.script)

    rig.stream.receive = receive_up_to_the_limit_of_bytes  # type: ignore[method-assign]
    rig.stream.wait = wait  # type: ignore[method-assign]
    rig.stop_when(lambda: rig.flushed == 308)
    rig.run()
    assert rig.ids == ["e1", "e2", "e3"]


def test_a_stop_ends_a_wait_for_others() -> None:
    """A delay of an hour ends with the next status update, or with the stop."""
    rig = Rig()
    arrivals = Arrivals(rig, every=0.5, events=4)
    rig.run(rig.relay(max_delay=3600.0))
    assert rig.ids == ["e0", "e1", "e2", "e3"]
    assert max(arrivals.delays) <= 1.0


def test_the_keepalive_behind_a_lone_event_is_read_without_a_wait() -> None:
    """A walsender that has caught up sends one after each commit: it has arrived by the end of the flush."""
    rig = Rig([RELATION, *transaction(100, "e1")])
    flushed_at: list[float] = []

    def arrive() -> None:
        flushed_at.append(rig.clock.now)
        rig.stream.script.append(build.keepalive(200))

    deliver_at_flush(rig, arrive)
    receive, read_at = rig.stream.receive, []

    def receive_at(limit: int) -> list[bytes]:
        messages = receive(limit)
        if messages and flushed_at:
            read_at.append(rig.clock.now)
        return messages

    rig.stream.receive = receive_at  # type: ignore[method-assign]
    rig.stop_when(lambda: rig.flushed == 200)
    rig.run()
    assert rig.ids == ["e1"]
    assert read_at == flushed_at


def test_a_full_queue_is_no_quiet_stream() -> None:
    """More events are there, and wait for room: what is queued leaves with `linger.ms`."""
    rig = Rig([RELATION, *transaction(100, *(f"e{number}" for number in range(20)))], capacity=10)
    rig.publisher.linger_seconds = 4.0
    accepted: list[int] = []
    deliver_at_flush(rig, lambda: accepted.append(len(rig.kafka.accepted)))
    delivered_at = rig.clock.now + 1.0
    rig.kafka.choose = lambda queued: range(queued if rig.clock.now >= delivered_at else 0)
    rig.stop_when(lambda: rig.flushed == 108)
    rig.run()
    assert set(accepted) <= {20}
