"""`outbox_relay`: the relay as it runs in production, until it has caught up, and the records that it sent.

In: a database with the outbox. Out: `ReceivedEvent`s, as a handler of `consume` gets them.
Never: a slot that outlives the test, a record of another test.

Kafka is librdkafka's mock cluster, as in the demo.
"""

from __future__ import annotations

import contextlib
import importlib.util
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

from cdc_outbox.app.errors import OutboxUsageError
from cdc_outbox.app.received import ReceivedEvent, received

if importlib.util.find_spec("cdc_outbox.cli") is None:
    raise OutboxUsageError(
        "outbox_relay runs the relay, which cdc-outbox-app does not contain: for the tests, install 'cdc-outbox[testing]'"
        " in place of cdc-outbox-app"
    )

from confluent_kafka import Consumer, KafkaException, TopicPartition

from cdc_outbox.commands.install import DEFAULT_NAME
from cdc_outbox.commands.slots import create_slot, drop_slot
from cdc_outbox.demo.broker import EmbeddedBroker
from cdc_outbox.demo.relay import clean_environment, log_lines
from cdc_outbox.shutdown import Stop

RELAY_SECONDS: Final = 120.0
"""From the start of the relay to its end; without a backlog it takes a second."""

READ_SECONDS: Final = 30.0
"""To read the records that the relay has sent."""

ANSWER_SECONDS: Final = 10.0
"""Time-out of a request to the broker."""

POLL_SECONDS: Final = 0.05


class OutboxRelay:
    """The relay of one test, on a slot of its own. Call it."""

    def __init__(self, dsn: str, brokers: str, slot: str) -> None:
        self.brokers = brokers
        """Bootstrap address of the mock Kafka, for a consumer of yours."""
        self._dsn = dsn
        self._slot = slot
        self._records = _Records(brokers)

    def __call__(self, *options: str) -> list[ReceivedEvent]:
        """Run the relay until it has caught up. Returns the records since the last call, in commit order.

        `options`: of `cdc-outbox run`. Raises AssertionError with the end of its log if it fails.
        """
        arguments = ["run", "--until", "caught-up", "--slot", self._slot, "--brokers", self.brokers]
        done = subprocess.run(
            [sys.executable, "-m", "cdc_outbox", *arguments, "--http", "off", "--log-format", "json", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            env={**clean_environment(), "CDC_OUTBOX_DSN": self._dsn},
            timeout=RELAY_SECONDS,
        )
        if done.returncode:
            raise AssertionError(f"the relay ended with exit code {done.returncode}:\n{log_lines(done.stderr)}")
        return self._records.new()

    def close(self) -> None:
        """Close the consumer."""
        self._records.close()


class _Records:
    """The records of a broker from the present end of each partition on."""

    def __init__(self, brokers: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": brokers, "group.id": "outbox_relay", "enable.auto.commit": False, "log_level": 0}
        )
        self._read_to = self._ends()

    def new(self) -> list[ReceivedEvent]:
        """Those that were added since the last call, by time of their commit; those of a partition in their order."""
        ends = self._ends()
        left = {place: end for place, end in ends.items() if end > self._read_to.get(place, 0)}
        self._consumer.assign([TopicPartition(*place, self._read_to.get(place, 0)) for place in left])
        found: list[ReceivedEvent] = []
        deadline = time.monotonic() + READ_SECONDS
        while left:
            if time.monotonic() > deadline:
                raise AssertionError(f"the records of {sorted(left)} were not read within {READ_SECONDS:g} s")
            for message in self._consumer.consume(1000, POLL_SECONDS):
                if message.error() is not None:
                    raise KafkaException(message.error())
                event = received(message)
                found.append(event)
                if event.offset + 1 >= left.get((event.topic, event.partition), 0):
                    left.pop((event.topic, event.partition), None)
        self._consumer.unassign()
        self._read_to = ends
        return sorted(found, key=lambda event: event.timestamp)

    def close(self) -> None:
        """Close the consumer."""
        self._consumer.close()

    def _ends(self) -> dict[tuple[str, int], int]:
        topics = self._consumer.list_topics(timeout=ANSWER_SECONDS).topics.values()
        places = [(topic.topic, partition) for topic in topics for partition in topic.partitions]
        return {
            place: self._consumer.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_SECONDS)[1]
            for place in places
        }


@contextlib.contextmanager
def brokers() -> Iterator[str]:
    """Start a mock of Kafka; its bootstrap address."""
    with EmbeddedBroker() as broker:
        yield broker.brokers


@contextlib.contextmanager
def relay(dsn: str, address: str) -> Iterator[OutboxRelay]:
    """Create a slot at the present position; drop it at the end."""
    slot = f"outbox_test_{secrets.token_hex(6)}"
    create_slot(dsn, slot, DEFAULT_NAME, Stop(), _ignore)
    try:
        with contextlib.closing(OutboxRelay(dsn, address, slot)) as made:
            yield made
    finally:
        drop_slot(dsn, slot)


def _ignore(_: str) -> None:
    """A reason of a wait."""
