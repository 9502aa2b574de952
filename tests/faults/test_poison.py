"""Poison events: one event that can never be delivered, its innocent neighbours, and the three policies."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest

from tests.plugins.kafka import KafkaCluster
from tests.plugins.metrics import metrics
from tests.plugins.oracle import Event, judge
from tests.plugins.outbox import Outbox, ended, ids, no_slot_left
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import Record
    from tests.plugins.oracle import Witness
    from tests.plugins.postgres import Database

LIMIT: Final = 2000
"""Bytes that the small topic takes; and what a small producer takes."""

QUICK: Final = ("-X", "topic.metadata.propagation.max.ms=2000")
"""An unknown topic is believed to be unknown after 2 s instead of 30."""

WHOLE_BATCH: Final = ("-X", "linger.ms=200")
"""What is in the table at the start goes to the broker in one batch."""


def _noise(size: int) -> str:
    """A JSON string that no compression makes much shrink_dead_letter."""
    return '"' + "".join(random.choices("0123456789abcdefghijklmnopqrstuvwxyz", k=size)) + '"'


class Poison(NamedTuple):
    """One kind of poison: the row, what the relay is told besides, and the reason that it gives."""

    row: dict[str, Any]
    reason: str
    arguments: tuple[str, ...] = ()
    says: tuple[str, ...] = ()
    """Words of the last line, with --on-poison stop."""


KINDS: Final = {
    "headers that are no object": Poison({"headers": "[1, 2]"}, "bad-headers"),
    "headers with a name that is no text": Poison({"headers": '{"a": 1e400, "\\ud800": 1}'}, "bad-headers"),
    "headers that are larger than a record": Poison(
        {"headers": '{"a": [' + "[]," * 400_000 + "0]}"}, "msg-size-too-large"
    ),
    "a topic that Kafka does not allow": Poison({"aggregatetype": "no topic"}, "bad-topic"),
    "no topic": Poison({"aggregatetype": None}, "bad-topic"),
    "no id": Poison({"id": None}, "no-id"),
    "a timestamp without an end": Poison({"at": "infinity"}, "bad-timestamp", ("--timestamp-column", "at")),
    "a timestamp that the broker refuses": Poison(
        {"aggregatetype": "punctual", "at": "2001-01-01"}, "invalid-timestamp", ("--timestamp-column", "at")
    ),
    "a negative partition": Poison({"part": -1}, "bad-partition", ("--partition-column", "part")),
    "a partition that the topic does not have": Poison(
        {"part": 6}, "unknown-partition", ("--partition-column", "part")
    ),
    "a partition that a topic made on demand does not have": Poison(
        {"aggregatetype": "new", "part": 6}, "unknown-partition", ("--partition-column", "part")
    ),
    "too large for the topic": Poison(
        {"aggregatetype": "small", "payload": _noise(3 * LIMIT)},
        "msg-size-too-large",
        says=(f'"limit": {LIMIT}', '"size": 600'),
    ),
    "too large for the producer": Poison(
        {"payload": _noise(3 * LIMIT)},
        "msg-size-too-large",
        ("-X", f"message.max.bytes={LIMIT}"),
        says=(f'"limit": {LIMIT}', '"size": 600'),
    ),
    "a null key for a compacted topic": Poison({"aggregatetype": "compacted", "aggregateid": None}, "invalid-record"),
}

EACH_WAY: Final = (
    "headers that are no object",
    "no id",
    "a timestamp that the broker refuses",
    "a partition that the topic does not have",
    "a partition that a topic made on demand does not have",
    "too large for the topic",
    "too large for the producer",
    "a null key for a compacted topic",
)
"""Found before it is produced, refused by librdkafka at once or later, refused by the broker: all but other words for these."""

AT_NIGHT: Final = ("a partition that the topic does not have",)
"""Takes 13 s, as long as the one of a topic made on demand."""

OWN_ID: Final = "00000000-0000-4000-8000-00000000dead"
"""The rejected record's, unless it has none."""


@pytest.fixture
def outbox(outbox: Outbox) -> Outbox:
    """A table with a slot, and topics that refuse."""
    outbox.create()
    outbox.database.execute("ALTER TABLE outbox ADD at timestamptz DEFAULT now(), ADD part int DEFAULT 0")
    outbox.create_slot()
    create = outbox.kafka.create_topic
    create(outbox.prefix + "order")
    create(outbox.prefix + "small", config={"max.message.bytes": str(LIMIT)})
    create(outbox.prefix + "punctual", config={"message.timestamp.before.max.ms": "3600000"})
    create(outbox.prefix + "compacted", partitions=1, config={"cleanup.policy": "compact"})
    return outbox


def _rejected_event(kind: Poison) -> dict[str, Any]:
    return {"id": OWN_ID, "aggregateid": "7", **kind.row}


def _neighbour(kind: Poison) -> dict[str, Any]:
    """An event like the rejected record, of the same topic where it has one, but good."""
    topic = kind.row.get("aggregatetype", "order")
    return {"aggregatetype": topic if topic in {"small", "punctual", "compacted"} else "order", "aggregateid": "7"}


def _without(committed: list[Event], *caused: str) -> list[Event]:
    return [event for event in committed if event.id not in caused]


@pytest.mark.parametrize(
    "kind",
    [pytest.param(KINDS[name], marks=pytest.mark.nightly if name in AT_NIGHT else ()) for name in EACH_WAY],
    ids=EACH_WAY,
)
def test_stop_delivers_all_before_the_rejected_record_and_names_the_cure_and_skip_leaves_out_that_record_alone(
    kind: Poison, outbox: Outbox, witness: Witness
) -> None:
    good = _neighbour(kind)
    before = [outbox.add(**good) for _ in range(5)]
    confirmed = outbox.current_lsn()
    same = outbox.add_all([good, _rejected_event(kind), good])
    after = [outbox.add(**good) for _ in range(5)]

    stopped = outbox.relay("--on-poison", "stop", *WHOLE_BATCH, *kind.arguments)
    last = ended(stopped, 65, "--on-poison skip", "--dead-letter-topic", *kind.says)
    assert last["reason"] == kind.reason
    assert last["table"] == "public.outbox"
    assert last.get("id") == (OWN_ID if kind.row.get("id", OWN_ID) else None)
    assert last.get("key") == kind.row.get("aggregateid", "7")
    assert last["type"] == "OrderPlaced"
    assert "total" not in stopped.stderr_text, "a payload was logged"
    arrived = set(ids(outbox.records()))
    assert {*before, same[0]} <= arrived, "what came before the rejected record is not delivered"
    assert OWN_ID not in arrived
    assert outbox.confirmed_past(confirmed)
    assert not outbox.confirmed_past(last["lsn"]), "the rejected record's transaction was confirmed"

    skipping = outbox.streaming("--on-poison", "skip", *WHOLE_BATCH, *kind.arguments, http=True)
    outbox.confirm()
    verdict = judge(_without(witness.committed(), OWN_ID), _keyed(outbox.records()))
    assert verdict.events >= len([*before, *same, *after]) - 2
    assert metrics(skipping)[f'events_skipped_total{{reason="{kind.reason}"}}'] == 1
    (line,) = skipping.log_lines("poison")
    assert (line["policy"], line["reason"], line.get("id")) == ("skip", kind.reason, last.get("id"))
    skipping.terminate()
    assert skipping.wait() == 0


def _keyed(records: list[Record]) -> list[Record]:
    """The witness sees no event without a key."""
    return [record for record in records if record.key is not None]


def test_rejected_records_of_every_kind_together_become_dead_letters_and_the_others_arrive(
    outbox: Outbox, witness: Witness
) -> None:
    """All but those that need an option of their own."""
    topic = outbox.kafka.create_topic(f"dead-{outbox.prefix}", partitions=2)
    kinds = {name: kind for name, kind in KINDS.items() if "-X" not in kind.arguments}
    caused = {}
    for name, kind in kinds.items():
        good = {**_neighbour(kind), "aggregateid": name}
        caused[outbox.add_all([good, {"aggregateid": name, **kind.row}, good])[1]] = name
    relay = outbox.streaming(
        *("--on-poison", "dead-letter", "--dead-letter-topic", topic),
        *("--timestamp-column", "at", "--partition-column", "part", *WHOLE_BATCH),
        http=True,
    )
    outbox.confirm()
    judge(_without(witness.committed(), *caused), _keyed(outbox.records()))

    letters = {
        str(letter.header("id"), "ascii") if letter.header("id") else "None": letter
        for letter in outbox.kafka.consume(topic, 0)
    }
    assert letters.keys() == caused.keys()
    for event_id, name in caused.items():
        letter, row = letters[event_id], kinds[name].row
        assert letter.header("outbox.error.reason") == kinds[name].reason.encode(), name
        assert letter.header("outbox.error.message"), name
        assert letter.header("outbox.source.table") == b"public.outbox", name
        assert b"/" in (letter.header("outbox.source.lsn") or b""), name
        assert letter.header("type") == b"OrderPlaced", name
        assert letter.key == (None if row.get("aggregateid", name) is None else name.encode()), name
        assert letter.value == row.get("payload", '{"total": 99}').encode(), name
        if name == "too large for the topic":
            assert letter.header("outbox.original.topic") == f"{outbox.prefix}small".encode()
    figures = metrics(relay)
    counted = {reason: figures[f'events_dead_lettered_total{{reason="{reason}"}}'] for reason in _reasons(kinds)}
    assert counted == _reasons(kinds)
    assert len(relay.log_lines("poison")) == len(kinds)
    relay.terminate()
    assert relay.wait() == 0


def _reasons(kinds: dict[str, Poison]) -> dict[str, int]:
    reasons = [kind.reason for kind in kinds.values()]
    return {reason: reasons.count(reason) for reason in reasons}


# -- innocent neighbours


def test_a_batch_refused_for_two_records_of_two_transactions_rejects_these_two_alone(
    outbox: Outbox, witness: Witness
) -> None:
    large = {"aggregatetype": "small", "payload": _noise(3 * LIMIT)}
    caused = []
    for number in range(120):
        key = f"key-{number % 6}"
        if number in {40, 80}:
            caused.append(outbox.add(**large, aggregateid=key))
        outbox.add(aggregatetype="small", aggregateid=key)
    relay = outbox.streaming("--on-poison", "skip", *WHOLE_BATCH, http=True)
    outbox.confirm()
    verdict = judge(_without(witness.committed(), *caused), outbox.records())
    assert verdict.events == 121
    assert sorted(line["id"] for line in relay.log_lines("poison")) == sorted(caused)
    assert metrics(relay)['events_skipped_total{reason="msg-size-too-large"}'] == 2


def test_two_rejected_records_in_one_transaction_are_skipped_and_the_rest_of_it_arrives(
    outbox: Outbox, witness: Witness
) -> None:
    large = {"aggregatetype": "small", "payload": _noise(3 * LIMIT)}
    good = {"aggregatetype": "small"}
    _, first, _, second, _ = outbox.add_all([good, large, good, {**large, "aggregateid": "2"}, good])
    outbox.drain("--on-poison", "skip", *WHOLE_BATCH)
    assert judge(_without(witness.committed(), first, second), outbox.records()).events == 3


def test_a_rejected_record_in_a_transaction_of_two_thousand_rows_is_found(outbox: Outbox, witness: Witness) -> None:
    rows = [{"aggregatetype": "small", "aggregateid": f"key {number % 7}"} for number in range(2000)]
    rows[1234] = {"aggregatetype": "small", "payload": _noise(3 * LIMIT)}
    rejected = outbox.add_all(rows)[1234]
    relay = outbox.streaming("--on-poison", "skip")
    outbox.confirm()
    verdict = judge(_without(witness.committed(), rejected), outbox.records())
    assert verdict.events == 2000
    (line,) = relay.log_lines("poison")
    assert line["id"] == rejected


# -- the first start


@pytest.fixture
def unstarted(database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """A table with rows, one of which its topic refuses, and no slot yet."""
    outbox = Outbox(database, kafka, relay)
    outbox.create()
    kafka.create_topic(outbox.prefix + "order", config={"max.message.bytes": str(LIMIT)})
    return outbox


def _fill(outbox: Outbox) -> tuple[list[str], str]:
    """Rows of a snapshot: more than one batch of it. All ids, and the rejected record's."""
    rows: list[dict[str, Any]] = [{"aggregateid": f"key-{number % 9}"} for number in range(2500)]
    rows[2100]["payload"] = _noise(3 * LIMIT)
    written = outbox.add_all(rows)
    return written, written[2100]


def test_a_rejected_record_among_the_rows_of_a_first_start_is_skipped_alone(unstarted: Outbox) -> None:
    written, rejected = _fill(unstarted)
    expected = [Event(id_, f"key-{number % 9}") for number, id_ in enumerate(written)]
    started = unstarted.drain("--on-poison", "skip", *WHOLE_BATCH)
    judge(_without(expected, rejected), unstarted.records())
    assert [line["id"] for line in started.log_lines("poison")] == [rejected]


def test_a_first_start_that_stops_at_a_rejected_record_leaves_no_slot_and_another_policy_continues_without_loss(
    unstarted: Outbox,
) -> None:
    written, rejected = _fill(unstarted)
    expected = [Event(id_, f"key-{number % 9}") for number, id_ in enumerate(written)]
    last = ended(unstarted.relay(*WHOLE_BATCH), 65, "--on-poison skip")
    assert (last["id"], last["limit"]) == (rejected, LIMIT)
    no_slot_left(unstarted)
    topic = unstarted.kafka.create_topic(f"dead-{unstarted.prefix}", partitions=1)
    unstarted.drain("--on-poison", "dead-letter", "--dead-letter-topic", topic, *WHOLE_BATCH)
    judge(_without(expected, rejected), unstarted.records())
    (letter,) = unstarted.kafka.consume(topic, 0)
    assert letter.header("id") == rejected.encode()
    assert len(letter.value or b"") > LIMIT


# -- dead letters that cannot be delivered as they are


def test_a_dead_letter_too_large_for_its_topic_has_the_size_of_its_payload_instead(
    outbox: Outbox,
) -> None:
    topic = outbox.kafka.create_topic(f"dead-{outbox.prefix}", config={"max.message.bytes": str(LIMIT)})
    payload = _noise(3 * LIMIT)
    rejected, after = outbox.add_all([{"aggregatetype": "small", "payload": payload}, {"aggregatetype": "small"}])
    outbox.drain("--on-poison", "dead-letter", "--dead-letter-topic", topic)
    assert ids(outbox.records())[-1:] == [after]
    (letter,) = outbox.kafka.consume(topic, 0)
    assert (letter.header("id"), letter.value, letter.key) == (rejected.encode(), None, b"1")
    assert letter.header("outbox.payload.bytes") == str(len(payload)).encode()
    assert letter.header("outbox.error.reason") == b"msg-size-too-large"


@pytest.fixture
def closed(database: Database, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox on a broker that makes no topic on demand."""
    outbox = Outbox(database, fragile_kafka, relay)
    outbox.create()
    outbox.create_slot()
    return outbox


def test_an_unknown_topic_for_dead_letters_stops_the_relay_and_nothing_is_lost(closed: Outbox) -> None:
    topic = f"dead-{closed.prefix}"
    closed.kafka.create_topic(closed.prefix + "order")
    before, rejected, after = closed.add(), closed.add(headers="[1]"), closed.add()
    policy = ("--on-poison", "dead-letter", "--dead-letter-topic", topic)
    last = ended(closed.relay(*policy, *QUICK), 78, topic, "kafka-topics.sh")
    assert last["id"] == rejected
    assert ids(closed.records()) == [before]
    assert not closed.confirmed_past(last["lsn"])
    closed.kafka.create_topic(topic)
    closed.drain(*policy)
    assert ids(closed.records()) == [before, after]
    assert ids(closed.kafka.consume(topic, 0)) == [rejected]


def test_an_unknown_topic_stops_the_relay_and_once_it_is_made_all_arrives(closed: Outbox, witness: Witness) -> None:
    closed.kafka.create_topic(closed.prefix + "order")
    before = closed.add()
    unknown = closed.add(aggregatetype="surprise", aggregateid="2")
    closed.add()
    last = ended(closed.relay(*QUICK), 78, closed.prefix + "surprise", "kafka-topics.sh", "--on-poison skip")
    assert last["id"] == unknown
    assert before in ids(closed.records())
    assert not closed.confirmed_past(last["lsn"])
    closed.kafka.create_topic(closed.prefix + "surprise")
    closed.drain()
    judge(witness.committed(), closed.records())


# -- a relay killed around a dead letter


@pytest.mark.parametrize("frozen", ["on its way", "delivered, but unknown to the relay"])
def test_a_relay_killed_around_a_dead_letter_sends_it_again(frozen: str, closed: Outbox, witness: Witness) -> None:
    from tests.servers.proxy import Direction

    topic = closed.kafka.create_topic(f"dead-{closed.prefix}", partitions=1)
    closed.kafka.create_topic(closed.prefix + "order")
    policy = ("--on-poison", "dead-letter", "--dead-letter-topic", topic)
    victim = closed.streaming(*policy)
    closed.add()  # so that the producer has found its broker before nothing comes through any more
    closed.confirm()
    assert closed.kafka.proxy is not None
    closed.kafka.proxy.freeze(Direction.TO_SERVER if frozen == "on its way" else Direction.TO_CLIENT)
    rejected = closed.add(headers="[1]")
    victim.wait_for_log("poison", id=rejected)
    if frozen != "on its way":
        closed.kafka.consume(topic, 1)
    assert not closed.confirmed_past(victim.log_lines("poison")[0]["lsn"])
    victim.kill()
    closed.kafka.proxy.cut()
    closed.kafka.proxy.thaw()
    closed.add()
    closed.drain(*policy)
    judge(_without(witness.committed(), rejected), closed.records())
    letters = closed.kafka.consume(topic, 1)
    assert set(ids(letters)) == {rejected}
    eventually(lambda: closed.slot() is not None, "the slot is there")
