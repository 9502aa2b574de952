"""The Kafka part of the native plane: whether it can run, and its producer in place of confluent_kafka's.

In: `--native`; librdkafka's properties. Out: the reason why it does not run; `NativePublisher`, a `Publisher` in all respects.
Never: a librdkafka of its own (cdc_outbox_native calls the one that confluent_kafka has loaded), or a guarantee of its own:
`Publisher` translates errors of both planes.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable, Collection
from functools import cache
from typing import Final, NamedTuple, TypeVar

import confluent_kafka.cimpl
from confluent_kafka import KafkaError, KafkaException

from cdc_outbox import pip_install
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.kafka.errors import INFERRED, DeliveryFailure, kafka_error
from cdc_outbox.kafka.library_log import LIBRARY_LOG
from cdc_outbox.kafka.metadata import METADATA_SLICE_SECONDS
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.reachability import weakly
from cdc_outbox.kafka.transaction import NativeReader
from cdc_outbox.kafka.weight import extra_bytes
from cdc_outbox.lsn import UNSET, Lsn, LsnRange
from cdc_outbox.postgres.conninfo import libpq_module
from cdc_outbox.records.router import InFlight, KafkaRecord

with contextlib.suppress(ImportError):  # it is an extra
    import cdc_outbox_native

_QUEUE_FULL: Final = KafkaError._QUEUE_FULL

_LEVELS: Final = (logging.CRITICAL,) * 3 + (logging.ERROR, logging.WARNING, logging.INFO, logging.INFO, logging.DEBUG)
"""Python's log levels for the severities 0 to 7 of syslog(3), which librdkafka uses."""


class Plane(NamedTuple):
    """The plane that moves plain rows from the stream to Kafka: native or python."""

    name: str
    reason: str | None
    """Why the plane is python."""


PYTHON: Final = Plane("python", "--native off")


T = TypeVar("T")


@cache
def why_not() -> str | None:
    """Load the native plane. Returns why it cannot run in this process; None when it can."""
    if "cdc_outbox_native" not in sys.modules:
        return "the package cdc-outbox-native is not installed"
    postgres = libpq_module()
    if postgres is None:
        return "psycopg runs its pure Python implementation"
    try:
        cdc_outbox_native.load(confluent_kafka.cimpl.__file__, postgres)
    except cdc_outbox_native.Unavailable as error:
        return str(error)
    return None


def choose(settings: Settings) -> Plane:
    """Choose the plane by --native. Raises ConfigurationError for --native on when the native plane cannot run."""
    if settings.native == "off":
        return PYTHON
    if settings.format != "debezium":
        return Plane("python", f"records of --format {settings.format} are made in Python")
    if settings.otel:
        return Plane("python", "the spans of --otel are made in Python")
    reason = why_not()
    if reason is None:
        return Plane("native", None)
    if settings.native == "on":
        raise ConfigurationError(
            f"the native plane cannot run: {reason}",
            code="native-unavailable",
            cure=f"{pip_install('native')}; or --native auto, which goes on without it",
        )
    return Plane("python", reason)


def version() -> str | None:
    """The version of the native plane; None when it cannot run here."""
    return cdc_outbox_native.__version__ if why_not() is None else None


class NativeProducer:
    """The part of confluent_kafka's Producer that `Publisher` uses, on librdkafka directly."""

    def __init__(self, properties: dict[str, str], publisher: NativePublisher) -> None:
        self._on_error = weakly(publisher.on_error)
        self._failures = publisher.failures
        self._first_records = publisher.first_records
        self._counters = publisher.counters
        events = int(properties["queue.buffering.max.messages"])
        size = int(properties["queue.buffering.max.kbytes"]) * 1024
        self.plane = _translated(lambda: cdc_outbox_native.Producer(properties, events, size))

    def __len__(self) -> int:
        return len(self.plane)

    def poll(self, seconds: float) -> None:
        """Serve the reports that are due. Raises KafkaException for a fatal error."""
        self.plane.poll(seconds)
        self._look()

    def flush(self, seconds: float) -> None:
        """Send what is queued without waiting for more, and serve reports. Raises KafkaException for a fatal error."""
        self.plane.flush(seconds)
        self._look()

    def purge(self, *, in_flight: bool = True) -> None:
        """Have everything reported as failed; not `in_flight`: what is not sent yet."""
        self.plane.purge(in_flight)

    def list_topics(self, topic: str | None = None, *, timeout: float) -> tuple[int, int]:
        """Request metadata. Returns a topic's error code and the number of its partitions. Raises KafkaException."""
        return _translated(lambda: self.plane.metadata(topic, timeout))

    def set_sasl_credentials(self, username: str, password: str) -> None:
        """Use these credentials for all further logins. Raises KafkaException."""
        _translated(lambda: self.plane.set_sasl_credentials(username, password))

    def _look(self) -> None:
        """Take over the listed reports, the counts and the notices. Usually there are no listed reports and no notices."""
        for topic, key, size, code, text, lsn, last_lsn, partition in self.plane.reports():
            if topic in self._first_records:
                self._first_records[topic].reported(key, None if code else partition)
            if code:
                error = INFERRED if code == INFERRED.code() else KafkaError(code, text)
                self._failures.append(DeliveryFailure(topic, key, size, error, Lsn(lsn), Lsn(last_lsn)))
        for topic, records, size in self.plane.delivered():
            counts = self._counters.topic(topic)
            counts.delivered += records
            counts.delivered_bytes += size
        for code, text, fatal, level in self.plane.notices():
            if level >= 0:
                LIBRARY_LOG.log(_LEVELS[min(level, 7)], "%s", text)
            elif fatal:
                raise KafkaException(KafkaError(code, text, fatal=True))
            else:
                self._on_error(KafkaError(code, text))


class NativePublisher(Publisher):
    """A producer of the native plane: rows that are plain reach it through a `reader`, all others by `produce`."""

    _producer: NativeProducer  # type: ignore[assignment]  # what Publisher uses of it is the same

    def _open(self) -> NativeProducer:  # type: ignore[override]  # likewise
        producer = NativeProducer(self._properties, self)
        self.new_transaction = producer.plane.transaction
        return producer

    def _reopen(self) -> None:
        _translated(lambda: self._producer.plane.open(self._properties))

    def _metadata(self, topic: str) -> int | KafkaError:
        try:
            code, partitions = self._producer.list_topics(topic, timeout=METADATA_SLICE_SECONDS)
        except KafkaException as raised:
            return kafka_error(raised) or KafkaError(KafkaError._TRANSPORT)
        return KafkaError(code) if code else partitions

    def refused(self, record: KafkaRecord, error: KafkaError) -> None:
        """Handle a refusal, as `Publisher.refused` does. The loop then takes the topic's rows until one is accepted."""
        super().refused(record, error)
        self._producer.plane.close_topic(record.topic)

    def abandon(self) -> None:
        """Discard the records in flight, as `Publisher.abandon` does. librdkafka's threads end here in any case."""
        plane = self._producer.plane
        super().abandon()
        plane.close()

    @property
    def in_flight_bytes(self) -> int:
        """Memory of the records in flight."""
        return self._producer.plane.size

    @property
    def delivered_bytes(self) -> int:
        """Memory that the records confirmed by Kafka occupied."""
        return self._producer.plane.delivered_bytes

    def produce(self, record: KafkaRecord, transaction: InFlight) -> bool:
        """Hand one record over, as `Publisher.produce` does."""
        topic, key, value, headers, timestamp, partition, _ = record
        first = None
        if topic not in self._open_topics:
            if not (self._admits(topic) and self._may_follow(topic, key)):
                return False
            first = self.first_records.get(topic)
        extra_bytes(record)  # raises PoisonEvent for text that librdkafka cannot take
        try:
            code = self._producer.plane.produce(
                topic, key, value, headers, timestamp, partition, transaction, opens=first is None
            )
        except (ValueError, TypeError, OverflowError) as raised:
            return self._not_accepted(raised, record)
        if code == 0 and first is not None:
            first.sent(key)
        if code in {0, _QUEUE_FULL}:
            return code == 0
        return self._not_accepted(KafkaException(KafkaError(code)), record)

    def native_reader(self, pgconn_ptr: int, isolated: Collection[LsnRange]) -> NativeReader:
        """Make a reader that moves plain rows from a libpq connection into this producer.

        Transactions up to the last isolated one are left to the loop; after it, the rejected records are handled.
        """
        until = max((lsns.last for lsns in isolated), default=UNSET)
        return cdc_outbox_native.Reader(self._producer.plane, pgconn_ptr, until)


def _translated(call: Callable[[], T]) -> T:
    try:
        return call()
    except cdc_outbox_native.KafkaFailure as failure:
        raise _exception(failure) from failure


def _exception(failure: cdc_outbox_native.KafkaFailure) -> KafkaException:
    code, text = failure.args
    return KafkaException(KafkaError(code, text))
