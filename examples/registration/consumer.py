"""The loop of every consumer: each message takes effect once, whatever crashes, and in order for each key.

Environment: BROKERS, DATABASE_URL (the consumer's own database, with the inbox of `cdc-outbox sql consumer`).

The order of things is the whole trick:

    1. claim the message's id in the inbox     \
    2. do what is to be done                    } one transaction
    3. commit                                  /
    4. commit the message's offset in Kafka

Killed before 3: nothing has happened, and Kafka hands the message over again. Killed between 3 and 4: Kafka hands it over
again too, the claim is there, nothing happens twice. Kafka's own automatic commits would do 4 before 3 now and then, and
the message would be lost: they are switched off.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from cdc_outbox.app import once

TOPIC = "outbox.event.user"

AGAIN_SECONDS = 1.0
"""From a failure to the next attempt. Less than max.poll.interval.ms (5 min), so that the group does not give us up."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """A record of the outbox. `id` is the same however often it comes."""

    id: str
    type: str
    data: Mapping[str, Any]


Connection = psycopg.Connection[tuple[Any, ...]]
Handler = Callable[[Connection, Event], None]
"""Does what the event is for, on the connection that it is given; it neither commits nor rolls back."""


def consume(name: str, handlers: Mapping[str, Handler], *, again_on: tuple[type[Exception], ...] = ()) -> None:
    """Consume until SIGTERM. `name` is the consumer group, and the consumer's name in its inbox.

    `handlers`: by event type; other types are not for this consumer. `again_on`: errors after which the same message is
    tried again. Any other error ends the process; the message comes again when it was restarted.
    """
    logging.basicConfig(level=logging.INFO, format=f"{name}: %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consumer = Consumer(
        {
            "bootstrap.servers": os.environ["BROKERS"],
            "group.id": name,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,  # below, and nowhere else
            "session.timeout.ms": 6_000,  # how long the group waits for one of us that was killed
            "topic.metadata.refresh.interval.ms": 2_000,  # the first event makes the topic; do not miss it for minutes
        }
    )
    consumer.subscribe([TOPIC])
    try:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            logger.info("ready")
            while True:
                message = consumer.poll(1.0)
                if message is not None and _is_record(message):
                    _deal_with(message, consumer, connection, name, handlers, again_on)
    finally:
        consumer.close()


def _deal_with(
    message: Message,
    consumer: Consumer,
    connection: Connection,
    name: str,
    handlers: Mapping[str, Handler],
    again_on: tuple[type[Exception], ...],
) -> None:
    headers = dict(message.headers() or [])
    event = Event(_text(headers["id"]), _text(headers["type"]), json.loads(message.value() or b"{}"))
    try:
        if handler := handlers.get(event.type):
            with once(connection, consumer=name, message_id=event.id) as first:
                if first:
                    handler(connection, event)
            logger.info("%s %s %s", event.type, event.id, "done" if first else "was done before")
    except again_on as error:
        logger.warning("%s %s failed, again in %g s: %s", event.type, event.id, AGAIN_SECONDS, error)
        time.sleep(AGAIN_SECONDS)
        consumer.seek(_place(message))
    else:
        consumer.commit(message=message, asynchronous=False)  # only now, when claim and effect are committed


def _place(message: Message) -> TopicPartition:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None and partition is not None and offset is not None, "a record has a place"  # noqa: PT018
    return TopicPartition(topic, partition, offset)


def _text(header: str | bytes | None) -> str:
    return header if isinstance(header, str) else (header or b"").decode()


def _is_record(message: Message) -> bool:
    """Not for news about the connection: librdkafka reconnects by itself, unless the error is fatal."""
    error = message.error()
    if error is None:
        return True
    if error.fatal():
        raise KafkaException(error)
    logger.warning("%s", error.str())
    return False
