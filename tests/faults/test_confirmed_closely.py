"""The confirmed position follows delivery within 0.2 s under load, so that a SIGKILL in full flow repeats little."""

from __future__ import annotations

import statistics
import threading
import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final, Self

from confluent_kafka import Consumer, TopicPartition

from tests.faults.acts import ends_well
from tests.plugins.outbox import SLOT
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.oracle import Witness, Writers
    from tests.plugins.outbox import Outbox

FOLLOWS_SECONDS: Final = 0.2

IN_FLIGHT_SECONDS: Final = 0.3
"""From the commit to the delivery, on a machine that is busy."""

SAMPLE_SECONDS: Final = 0.01


class Watched:
    """Looks, in two threads, at what a consumer has and at what the server takes for confirmed; and when each came."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=look) for look in (self._consume, self._sample)]
        self.arrived: dict[str, float] = {}
        """By id, when a consumer had it."""
        self._moments: list[float] = []
        self._confirmed: list[int] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def has_confirmed(self, end_lsn: int) -> bool:
        """Whether it was seen that this was confirmed."""
        return bool(self._confirmed) and self._confirmed[-1] >= end_lsn

    def confirmed_at(self, end_lsn: int) -> float:
        """When it was seen first that this was confirmed."""
        return self._moments[bisect_left(self._confirmed, end_lsn)]

    def _consume(self) -> None:
        topic = f"{self._outbox.prefix}order"
        settings = {"bootstrap.servers": self._outbox.kafka.brokers, "group.id": topic, "fetch.wait.max.ms": 5}
        consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in partitions])
        while not self._enough.is_set():
            for message in consumer.consume(500, timeout=0.02):
                for name, value in message.headers() or []:
                    if name == "id":
                        self.arrived.setdefault(value.decode(), time.monotonic())
        consumer.close()

    def _sample(self) -> None:
        query = "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = %s"
        with self._outbox.database.connect() as connection:
            while not self._enough.wait(SAMPLE_SECONDS):
                (lsn,) = connection.execute(query, [SLOT]).fetchone() or (0,)
                self._moments.append(time.monotonic())
                self._confirmed.append(int(lsn))


def test_what_is_delivered_is_confirmed_within_two_tenths_of_a_second(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.create_slot()
    outbox.kafka.create_topic(f"{outbox.prefix}order")
    relay = outbox.streaming()
    with Watched(outbox) as watched:
        with writers(rate=100) as load:
            eventually(lambda: load.committed > 1000, "writers write")
        transactions = witness.transactions()
        last = transactions[-1]
        eventually(lambda: last.events[-1].id in watched.arrived, "the last event is consumed")
        eventually(lambda: watched.has_confirmed(last.end_lsn), "the last transaction is confirmed")
    behind = [
        watched.confirmed_at(each.end_lsn) - max(watched.arrived[event.id] for event in each.events)
        for each in transactions
    ]
    assert len(behind) > 200
    assert statistics.median(behind) < FOLLOWS_SECONDS / 2
    assert statistics.quantiles(behind, n=20)[-1] < FOLLOWS_SECONDS + 0.1, "19 of 20, on a machine that is busy"
    assert ends_well(outbox, relay, witness, load).duplicates == 0


def test_sigkill_in_full_flow_repeats_no_more_than_what_was_written_in_a_fraction_of_a_second(
    outbox: Outbox, witness: Witness, writers: Callable[..., Writers]
) -> None:
    outbox.create()
    outbox.create_slot()
    kills = 5
    repeated = 0.0
    with writers(threads=3, rate=150) as load:
        for _ in range(kills):
            relay = outbox.streaming()
            outbox.confirm()  # what was written while it started is delivered: it keeps pace from here on
            began, written = time.monotonic(), load.committed
            eventually(lambda before=written: load.committed > before + 400, "writers write")  # type: ignore[misc]
            relay.kill()
            repeated += (load.committed - written) / (time.monotonic() - began) * (FOLLOWS_SECONDS + IN_FLIGHT_SECONDS)
        relay = outbox.streaming()
    verdict = ends_well(outbox, relay, witness, load)
    assert verdict.duplicates < repeated, f"{verdict.duplicates} of {verdict.events} came twice"
    assert verdict.events > kills * 400
