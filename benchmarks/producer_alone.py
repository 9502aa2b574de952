"""The floor of a steady rate: a loop that only produces with confluent-kafka, without PostgreSQL, reader or ledger.

Out: CPU per event of all threads and of the main thread, at each rate. *alone*: each event leaves by itself, as it comes;
*together*: those of 2 ms come at the same moment, which no application does.
Never: anything that a relay would have to do besides.

    python -m benchmarks.producer_alone
"""

from __future__ import annotations

import time
from typing import Final

from confluent_kafka import Producer

from benchmarks.arrivals import Topics
from benchmarks.rig import servers

RATES: Final = (100, 1000, 2500)
SECONDS: Final = 6.0
WINDOW_SECONDS: Final = 0.002
PROPERTIES: Final = {"acks": "all", "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 2}
"""The relay's own."""


def main() -> None:
    """Measure each rate both ways."""
    with servers() as rig:
        topics = Topics(rig.kafka.brokers, "alone", 1)
        producer = Producer({"bootstrap.servers": rig.kafka.brokers, **PROPERTIES})
        for rate in RATES:
            for name, together in (("alone", 1), ("together", max(1, round(rate * WINDOW_SECONDS)))):
                everything, main_thread = _produce(producer, topics.names[0], rate, together)
                print(f"{rate:>5}/s {name:<9} {everything:4.0f} µs per event, {main_thread:4.0f} of the main thread")
        topics.delete()


def _produce(producer: Producer, topic: str, rate: int, together: int) -> tuple[float, float]:
    """Microseconds of CPU per event: all threads, the main thread."""
    events = int(rate * SECONDS) // together * together
    headers: list[tuple[str, str | bytes | None]] = [("id", b"01a207b6-8329-7897-99bd-000000000002")]
    headers.append(("type", b"OrderPlaced"))
    due = time.monotonic()
    began, began_here = time.process_time(), time.thread_time()
    for first in range(0, events, together):
        time.sleep(max(0.0, due - time.monotonic()))
        due += together / rate
        for number in range(first, first + together):
            producer.produce(topic, b"x" * 200, b"%d" % (number % 10_000), headers=headers, on_delivery=_delivered)
        if rate <= 1 / WINDOW_SECONDS:
            producer.flush(WINDOW_SECONDS)  # a lone event does not wait for others
        else:
            producer.poll(0)
    producer.flush()
    return (time.process_time() - began) / events * 1e6, (time.thread_time() - began_here) / events * 1e6


def _delivered(error: object, _message: object) -> None:
    assert error is None, error


if __name__ == "__main__":
    main()
