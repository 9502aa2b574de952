"""The consumer of docker-compose.yml: prints every record of the outbox's topics, one line each.

In: the brokers; how many records to print before it ends, as the second argument (without it: on and on).
Out: `topic key type value id`, tab-separated, on stdout.
"""

from __future__ import annotations

import itertools
import signal
import sys

from confluent_kafka import Consumer, KafkaException

TOPICS = "^outbox[.]event[.].*"
DISCOVERY_MILLISECONDS = 2_000
"""How often to look for topics that did not exist before: the first event of a kind makes its topic."""


def text(value: bytes | None) -> str:
    """Bytes as they are meant to be read; `-` for none."""
    return "-" if value is None else value.decode()


def main(brokers: str, records: int | None) -> None:
    """Print records until this many were printed, or until a signal."""
    consumer = Consumer(
        {
            "bootstrap.servers": brokers,
            "group.id": "shop-printer",
            "auto.offset.reset": "earliest",
            "topic.metadata.refresh.interval.ms": DISCOVERY_MILLISECONDS,
        }
    )
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        consumer.subscribe([TOPICS])
        for _ in itertools.count() if records is None else range(records):
            while (message := consumer.poll(1.0)) is None:
                pass
            if error := message.error():
                raise KafkaException(error)
            headers = dict(message.headers() or [])
            line = (message.topic(), text(message.key()), text(headers.get("type")), text(message.value()))
            sys.stdout.write("\t".join((*line, text(headers.get("id")))) + "\n")
            sys.stdout.flush()
    finally:
        consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
