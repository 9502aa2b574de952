"""Whatever happens in whatever order: what is confirmed is delivered, and in the end all is delivered and confirmed.

The server's rule that these tests judge by: a transaction is skipped for ever when its commit LSN lies below a confirmed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaError
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc_outbox.errors import ConnectionLost, Undelivered
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.relay.session import BatchRejected
from tests.plugins import wire_builder as build
from tests.plugins.scripted import (
    RELATION,
    Rig,
    ScriptedKafka,
    ScriptedPublisher,
    ScriptedStream,
    Told,
    begin,
    commit,
    event_id,
    insert,
)


class Choices:
    """A finite supply of decisions; when it is used up, everything goes as smoothly as can be."""

    def __init__(self, drawn: Iterator[int]) -> None:
        self._drawn = drawn

    def below(self, count: int) -> int | None:
        """One of `count`; None when the supply is used up."""
        drawn = next(self._drawn, None)
        return None if drawn is None or count == 0 else drawn % count

    def some(self, count: int) -> int:
        """0 to `count`."""
        chosen = self.below(count + 1)
        return count if chosen is None else chosen

    def rarely(self, one_in: int) -> bool:
        return self.below(one_in) == one_in - 1


choices = st.lists(st.integers(0, 255), max_size=120).map(lambda drawn: Choices(iter(drawn)))


@dataclass
class Committed:
    """A transaction of the script."""

    commit_lsn: int
    end_lsn: int
    messages: list[bytes]
    events: list[str]
    topics: dict[str, str]


@dataclass
class World:
    """A database with its transactions and keepalives in order, a slot, and what Kafka got."""

    steps: list[Committed | int] = field(default_factory=list)
    """Transactions, and keepalives by their wal_end: some lie back, as after a reconnect."""
    confirmed: int = 0

    @property
    def transactions(self) -> list[Committed]:
        return [step for step in self.steps if isinstance(step, Committed)]

    @property
    def ends(self) -> set[int]:
        """All that may ever be confirmed."""
        return {0} | {step if isinstance(step, int) else step.end_lsn for step in self.steps}

    @property
    def events(self) -> list[str]:
        return [event for each in self.transactions for event in each.events]

    def messages(self) -> list[bytes | Exception]:
        """What a connection gets to see: the server skips what commits below the confirmed LSN."""
        sent: list[bytes | Exception] = [RELATION]
        for step in self.steps:
            if isinstance(step, int):
                sent.append(build.keepalive(step))
            elif step.commit_lsn >= self.confirmed:
                sent += step.messages
        return sent


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world, at, number = World(), 1000, 0
    for kind in draw(st.lists(st.sampled_from("tttks"), max_size=8)):
        at += draw(st.integers(1, 50))
        if kind == "s":
            world.steps.append(draw(st.integers(0, at - 51)))
        elif kind == "k":
            world.steps.append(at)
        else:
            commit_lsn, at = at, at + draw(st.integers(1, 50))
            rows = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.booleans()), max_size=5))
            messages, topics = [begin(commit_lsn)], {}
            for topic, key, asked in rows:
                number += 1
                topics[f"e{number}"] = f"outbox.event.{topic}/{key}"
                messages.append(insert(f"e{number}", topic=topic, key=key))
                if asked:
                    messages.append(build.keepalive(commit_lsn, reply_requested=True))
            messages.append(commit(commit_lsn, at))
            world.steps.append(Committed(commit_lsn, at, messages, [*topics], topics))
    return world


class Judge:
    """Watches every status update of one connection."""

    def __init__(self, world: World, stream: ScriptedStream, kafka: ScriptedKafka, spared: set[str]) -> None:
        self._world = world
        self._kafka = kafka
        self._spared = spared
        self._stream = stream
        self._before = Told(0, 0, False, 0.0)
        stream.on_status = self.judge

    def judge(self, told: Told) -> None:
        before, self._before = self._before, told
        assert told.flush in self._world.ends, "neither the end of a transaction nor a keepalive between two"
        assert told.flush >= before.flush
        assert told.write >= before.write
        assert told.write >= told.flush
        delivered = {event_id(record) for record in self._kafka.log} | self._spared
        for each in self._world.transactions:
            if not delivered.issuperset(each.events):
                assert told.flush <= each.commit_lsn, "the server would never send it again"
        self._world.confirmed = max(self._world.confirmed, told.flush)


def partition(record_topic: str, key: bytes | None) -> str:
    return f"{record_topic}/{(key or b'').decode()}"


def in_partition_order(kafka: ScriptedKafka, choices: Choices) -> Sequence[int]:
    """Some records, each the first of its partition: their order across partitions is anybody's."""
    waiting = list(range(len(kafka.queue)))
    chosen: list[int] = []
    for _ in range(choices.some(len(waiting))):
        record = kafka.queue[waiting[choices.below(len(waiting)) or 0]][0]
        mapping = partition(record.topic, record.key)
        first = next(at for at in waiting if partition(kafka.queue[at][0].topic, kafka.queue[at][0].key) == mapping)
        waiting.remove(first)
        chosen.append(first)
    return chosen


def orders(world: World) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in world.transactions:
        for event, mapping in each.topics.items():
            found.setdefault(mapping, []).append(event)
    return found


def arrivals(kafka: ScriptedKafka) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for record in kafka.log:
        found.setdefault(partition(record.topic, record.key), []).append(event_id(record))
    return found


@given(worlds(), choices, st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_any_interleaving_confirms_only_what_is_delivered_and_in_the_end_everything(
    world: World, choices: Choices, capacity: int
) -> None:
    rig = Rig(world.messages(), capacity=capacity)
    rig.stream.portion = lambda: choices.some(4)
    rig.kafka.choose = lambda _count: in_partition_order(rig.kafka, choices)
    Judge(world, rig.stream, rig.kafka, set())
    last = max(world.ends)
    rig.stop_when(lambda: rig.flushed == last)
    rig.run()
    assert rig.flushed == last
    assert [event_id(record) for record in rig.kafka.accepted] == world.events
    assert arrivals(rig.kafka) == orders(world)
    assert rig.counters.in_flight_events == rig.counters.in_flight_bytes == 0


@given(worlds(), choices, st.integers(1, 4), st.sampled_from([0.5, 5.0, 25.0]))
@settings(max_examples=150, deadline=None)
def test_a_stop_at_any_moment_ends_in_time_and_clean_only_if_all_that_was_read_is_confirmed(
    world: World, choices: Choices, capacity: int, timeout: float
) -> None:
    rig = Rig(world.messages(), capacity=capacity)
    Judge(world, rig.stream, rig.kafka, set())

    def deliver(_count: int) -> Sequence[int]:
        if choices.rarely(20):
            rig.stop.request()
        return in_partition_order(rig.kafka, choices)

    rig.stream.portion = lambda: choices.some(4)
    rig.kafka.choose = deliver
    rig.stop_when(lambda: True)
    try:
        rig.run(rig.relay(shutdown_timeout=timeout))
    except Undelivered:
        assert rig.flushed < max(world.ends)
    else:
        begun = [each for each in world.transactions if set(each.events) & {*map(event_id, rig.kafka.accepted)}]
        assert all(each.end_lsn <= rig.flushed for each in begun)
    assert rig.stop.requested_at is not None
    assert rig.clock.now - rig.stop.requested_at <= timeout
    assert rig.stream.ended == "closed"


class Outages:
    """A Kafka that refuses some events, and with each whatever of its topic is in the same batch; producers come and go."""

    def __init__(self, rig: Rig, choices: Choices, cursed: set[str], capacity: int) -> None:
        self._rig = rig
        self._choices = choices
        self._cursed = cursed
        self._capacity = capacity
        self.log = rig.kafka.log

    def new_producer(self) -> None:
        rig = self._rig
        rig.kafka = kafka = ScriptedKafka(rig.clock, capacity=self._capacity)
        kafka.log = self.log
        kafka.choose = lambda _count: in_partition_order(kafka, self._choices)
        kafka.refuse = lambda record: self._refused(kafka, record)
        rig.publisher = ScriptedPublisher(kafka, rig.counters)

    def _refused(self, kafka: ScriptedKafka, record: KafkaRecord) -> int | None:
        batch = {event_id(other) for other, _ in kafka.queue if other.topic == record.topic}
        return KafkaError.MSG_SIZE_TOO_LARGE if self._cursed & {event_id(record), *batch} else None


@given(worlds(), choices, st.integers(1, 4), st.data())
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_over_any_number_of_sessions(
    world: World, choices: Choices, capacity: int, data: st.DataObject
) -> None:
    """Connections that break anywhere, a Kafka that refuses batches: the slot and the log of Kafka are all that stays."""
    cursed = set(data.draw(st.lists(st.sampled_from(world.events), max_size=2))) if world.events else set()
    rig = Rig(policy="skip")
    outages = Outages(rig, choices, cursed, capacity)
    outages.new_producer()
    isolated_lsns: set[int] = set()
    for _ in range(60):
        script = world.messages()
        if choices.rarely(2):
            script.insert(choices.some(len(script)), ConnectionLost("cut"))
        rig.stream = ScriptedStream(rig.clock, script)
        rig.stream.portion = lambda: choices.some(4)
        Judge(world, rig.stream, rig.kafka, cursed)
        rig.stop_when(lambda: world.confirmed == max(world.ends))
        try:
            rig.run(rig.relay(isolated_lsns=isolated_lsns))
            break
        except BatchRejected as found:
            isolated_lsns |= found.lsns
        except ConnectionLost:
            pass
        if rig.publisher.broken:
            rig.publisher.abandon()
            outages.new_producer()
    assert rig.stop.requested, "it does not come to an end"
    assert world.confirmed == max(world.ends)
    assert set(world.events) == cursed | set(rig.ids)
    once = {mapping: [*dict.fromkeys(reversed(events))][::-1] for mapping, events in arrivals(rig.kafka).items()}
    wanted = {mapping: [event for event in events if event not in cursed] for mapping, events in orders(world).items()}
    assert once == {mapping: events for mapping, events in wanted.items() if events}
