"""A topic of events whose number and key a test knows."""

from __future__ import annotations

import json
import random
import uuid
from typing import TYPE_CHECKING, Final

from confluent_kafka import Producer

if TYPE_CHECKING:
    from tests.plugins.kafka import KafkaCluster

EFFECTS: Final = "CREATE TABLE effects (n bigint GENERATED ALWAYS AS IDENTITY, id text, key text, number int)"


class Topic:
    """A topic, and the events written to it."""

    def __init__(self, kafka: KafkaCluster, name: str) -> None:
        self.kafka = kafka
        self.name = name
        self.sent: list[tuple[str, str, int]] = []
        self.producer = Producer({"bootstrap.servers": kafka.brokers, "enable.idempotence": True})

    def send(self, count: int, *, keys: int = 7, repeat: float = 0.0) -> None:
        """`count` events; some of them twice in a row, as after a reconnect of the relay."""
        start = len(self.sent)
        for number in range(start, start + count):
            event = (str(uuid.uuid4()), f"k{number % keys}", number)
            self.sent.append(event)
            for _ in range(2 if random.random() < repeat else 1):
                self.producer.produce(
                    self.name, json.dumps(number), event[1], headers={"id": event[0], "type": "Counted"}
                )
        assert self.producer.flush(30) == 0
