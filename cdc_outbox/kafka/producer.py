"""Records to Kafka: produce with backpressure, serve delivery reports, collect failed deliveries.

In: `KafkaRecord`s, each with a delivery report. Out: calls of these reports, and `failures`.
Never: a wait inside `produce`, an exception out of a delivery report, a record given up that could still be delivered.
What a record has to wait for (room, its topic, the record before it) is waited for in `wait` and `serve`.

librdkafka has its own I/O threads; reports are called inside `serve`, on the caller's thread, so nothing here locks.
librdkafka: INTRODUCTION.md, "Idempotent Producer". Idempotence lives as long as the producer object.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping
from types import MethodType
from typing import Final

import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from cdc_outbox.counters import Counters
from cdc_outbox.errors import CdcOutboxError, Unreachable
from cdc_outbox.kafka.abandoned import Abandoned
from cdc_outbox.kafka.diagnosis import Diagnosis
from cdc_outbox.kafka.errors import DeliveryFailure, about_cluster, final, kafka_error, not_accepted
from cdc_outbox.kafka.first_records import FirstRecords
from cdc_outbox.kafka.library_log import LIBRARY_LOG
from cdc_outbox.kafka.metadata import METADATA_SLICE_SECONDS, Lookout, reach
from cdc_outbox.kafka.properties import changed_login, duration, number, with_login
from cdc_outbox.kafka.reachability import Reachability, weakly
from cdc_outbox.kafka.reports import Report, Reports
from cdc_outbox.kafka.topic_gate import REMEMBERED_TOPICS, TopicGate
from cdc_outbox.kafka.topics import TopicCatalog
from cdc_outbox.kafka.transaction import LedgerEntry, NativeReader, Transaction
from cdc_outbox.kafka.weight import USUAL_BYTES, USUAL_RECORD, HeaderNames, extra_bytes, unfit
from cdc_outbox.lsn import UNSET, Lsn, LsnRange
from cdc_outbox.records.router import InFlight, KafkaRecord

log = structlog.get_logger(__name__)

FLUSH_SECONDS: Final = 0.02
"""One flush of a record sent alone: about a round trip to the broker, and short enough not to delay a status update."""


class Publisher:
    """One producer. `properties` are librdkafka's; `reread` reads the user's again, for a password that has changed.

    Raises ConfigurationError when librdkafka refuses them.
    """

    def __init__(
        self, properties: dict[str, str], counters: Counters, *, reread: Callable[[], Mapping[str, str]] = dict
    ) -> None:
        self._brokers = properties["bootstrap.servers"]
        self.counters = counters
        self._reachability = Reachability(self._brokers, counters)
        self.on_error = self._reachability.on_error
        self._reread = reread
        self._lookout = Lookout(self._reachability)
        self._limit = 1024 * number(properties, "queue.buffering.max.kbytes")
        self._reports = Reports(counters, self._limit)
        self.failures = self._reports.failures
        self._fatal = False
        self._properties = properties
        self._topic = ""
        self._looked_up = ""
        """The last topic that was looked up: each topic is, before its first record."""
        self.first_records: dict[str, FirstRecords] = {}
        """Topics with partitions in which this producer has delivered no record yet."""
        self.new_transaction: Callable[[int, Lsn], LedgerEntry] = Transaction
        """Makes the object on which records are counted, from a commit time in Unix milliseconds and a commit LSN."""
        try:
            self._producer = self._open()
        except KafkaException as raised:
            raise self._error(raised) from raised
        self._batch_bytes = number(properties, "batch.size")
        self.linger_seconds = duration(properties, "linger.ms")
        """How long a record waits for others of its batch, unless a flush sends it."""
        self._gate = TopicGate(
            functools.partial(TopicCatalog, properties),
            counters,
            unknown_seconds=duration(properties, "topic.metadata.propagation.max.ms"),
        )
        self._open_topics: set[str] = set()
        """Topics that records may be produced to, with batches no larger than each topic accepts."""
        self._diagnosis = Diagnosis(self._brokers, self._gate.ask)
        self._names = HeaderNames()
        self._behind_another = False
        """Whether a held record waits for the delivery of the one of its key before it."""
        self._transaction: InFlight | None = None
        self._report: Report | None = None
        self._poll = self._producer.poll

    def _open(self) -> Producer:
        producer = Producer({**self._properties, "error_cb": weakly(self.on_error)}, logger=LIBRARY_LOG)
        self._produce = producer.produce
        return producer

    @property
    def in_flight(self) -> int:
        """Records handed over whose delivery report has not been served; librdkafka adds one for each batch of reports."""
        return len(self._producer)

    @property
    def broken(self) -> bool:
        """Whether this producer has a gap or a fatal error, so that it must be replaced."""
        return self._fatal or bool(self.failures)

    @property
    def in_flight_bytes(self) -> int:
        """Memory of the records in flight: keys, values, headers, and librdkafka's own for each."""
        return self._limit - self._reports.free

    @property
    def limit(self) -> int:
        """Bytes that may be in flight: --max-in-flight-bytes."""
        return self._limit

    @property
    def delivered_bytes(self) -> int:
        """Memory that the records confirmed by Kafka occupied."""
        return self._reports.delivered_bytes

    @property
    def produced_bytes(self) -> int:
        """Memory of the records confirmed or in flight: grows with each record that is produced."""
        return self.delivered_bytes + self.in_flight_bytes

    def native_reader(self, pgconn_ptr: int, isolated: Collection[LsnRange]) -> NativeReader | None:  # noqa: ARG002
        """Make a reader that moves plain rows from a libpq connection into this producer; None: the loop reads all rows.

        `isolated`: commit LSNs of transactions that the reader leaves to the loop.
        """
        return None

    def reach(self) -> None:
        """Get metadata from the cluster once. Raises Unreachable (retry), AccessRefused or ConfigurationError (final)."""
        reach(self._producer.list_topics, self.serve, self._reachability, self._error)

    def _admits(self, topic: str) -> bool:
        """Whether records of the topic may be produced now; at its first use it has to be looked up. Raises as `produce` does.

        A topic that accepts only smaller batches than this producer makes would refuse whole batches. Once nothing is in
        flight, the producer is replaced by one with smaller batches.
        """
        self._looked_up = topic
        if not self._gate.admits(topic):
            return False
        limit = self._gate.limits.get(topic)
        if limit is not None and limit < self._batch_bytes:
            if len(self._producer):
                return False
            self._batch_bytes = limit
            self._properties["batch.size"] = str(limit)
            self._replace()
        if topic not in self.first_records:
            if len(self.first_records) >= REMEMBERED_TOPICS:
                self.first_records.clear()
            self.first_records[topic] = FirstRecords(self._gate.partitions.get(topic, 0))
        return True

    def _may_follow(self, topic: str, key: bytes | None) -> bool:
        """Whether a record may be produced while earlier ones of its key are in flight."""
        first = self.first_records.get(topic)
        if first is None or first.over:
            self.first_records.pop(topic, None)
            if len(self._open_topics) >= REMEMBERED_TOPICS:
                self._open_topics.clear()
            self._open_topics.add(topic)
            return True
        self._behind_another = first.blocks(key)
        return not self._behind_another

    def renew(self) -> None:
        """Replace a producer after a fatal error. Called when it has nothing in flight and its failures are handled."""
        if self._fatal:
            self._replace()

    def _replace(self) -> None:
        self._reopen()
        self._fatal, self._topic = False, ""
        self.first_records.clear()
        self._open_topics.clear()

    def _reopen(self) -> None:
        self._producer = self._open()
        self._poll = self._producer.poll

    def _metadata(self, topic: str) -> int | KafkaError:
        """Request metadata, which also makes the topic known to librdkafka. Returns its number of partitions, or an error."""
        try:
            found = self._producer.list_topics(topic, timeout=METADATA_SLICE_SECONDS).topics[topic]
        except KafkaException as raised:
            return kafka_error(raised) or KafkaError(KafkaError._TRANSPORT)
        return found.error or len(found.partitions)

    def refused(self, record: KafkaRecord, error: KafkaError) -> None:
        """Handle a refusal that the cluster caused, not the record: the topic is looked up again before its next record."""
        self._gate.refused(record.topic, error, record.partition)
        self._open_topics.discard(record.topic)
        self._topic = ""

    def _new_report(self, transaction: InFlight, topic: str) -> Report:
        """Make the report for records of one transaction and one topic."""
        delivered = self._reports.by_topic.get(topic) or self._reports.new_topic(topic)
        report = MethodType(delivered, transaction)
        self._transaction, self._topic, self._report = transaction, topic, report
        return report

    def produce(self, record: KafkaRecord, transaction: InFlight) -> bool:
        """Hand one record over and count it on its transaction; False when there is no room: serve, and try again.

        Raises PoisonEvent, ConfigurationError or AccessRefused when librdkafka does not accept this record (too large, text it
        cannot encode, a topic that does not exist or may not be written to); Unreachable when the producer must be replaced.
        """
        topic, key, value, headers, timestamp, partition, small = record
        size = USUAL_RECORD if value is None else USUAL_RECORD + len(value)
        report, first, memory = self._report, None, self._reports
        try:
            if topic not in self._open_topics:
                if not (self._admits(topic) and self._may_follow(topic, key)):
                    return False
                first = self.first_records.get(topic)
            if size > memory.free or not (small or self._names.are_usual(record)):
                size, report = self._weigh(record, transaction)
                if size > memory.free < self._limit:
                    return False
            elif topic is not self._topic or transaction is not self._transaction or report is None:
                report = self._new_report(transaction, topic)
            if first is not None:
                report = first.watched(key, report)
            self._produce(topic, value, key, partition, report, report, timestamp, headers)
        except BufferError:
            return False
        except (KafkaException, ValueError, TypeError, OverflowError) as raised:
            return self._not_accepted(raised, record)
        if first is not None:
            first.sent(key)
        transaction.outstanding += 1
        transaction.events += 1
        memory.free -= size
        return True

    def _weigh(self, record: KafkaRecord, transaction: InFlight) -> tuple[int, Report]:
        """The exact size, and the report, of a record with header names that are not known yet, with more than the usual key
        and headers, or with too little room for it. Raises PoisonEvent for text that librdkafka cannot encode.
        """
        surplus = max(0, extra_bytes(record) - USUAL_BYTES)
        self._names.learn(record)
        report = self._new_report(transaction, record.topic)
        size = USUAL_RECORD + surplus + (0 if record.value is None else len(record.value))
        return size, self._reports.with_surplus(report, surplus) if surplus else report

    @property
    def waits(self) -> bool:
        """Whether a record waits for its topic."""
        return self._gate.waits

    def wait(self, seconds: float) -> None:
        """Wait at most `seconds` for the topic of a held record or for room in the queue, then `serve`."""
        if self._gate.pause(seconds):
            seconds = 0.0
        self.serve(seconds if len(self._producer) or self._gate.waits else 0.0)

    def serve(self, seconds: float = 0.0) -> None:
        """Call the reports that are due; wait for the first one at most `seconds`. For a held record, request the metadata of
        its topic, which may take METADATA_SLICE_SECONDS, or send the record before it.
        """
        if self._behind_another:
            self._behind_another, seconds = False, 0.0
            self.flush()
        if self._gate.waits and self._gate.look(self._metadata):
            seconds = 0.0
        try:
            self._poll(seconds)
        except (KafkaException, SystemError) as raised:  # a fatal error: see kafka/errors.py
            self._raise_fatal(raised)
        if self._reachability.login_refused:
            self._reachability.login_refused = False
            self._take_new_login()
        if self._reachability.lost:
            self._lookout.look(self._producer.list_topics, self.delivered_bytes)
        if self._gate.over and not len(self._producer) and not self.failures:
            self._gate.produced()

    @property
    def lost(self) -> bool:
        """Whether no broker can be reached, which is logged."""
        return self._reachability.lost

    def diagnose(self) -> Unreachable | None:
        """Find out why nothing is confirmed. None while a query of the cluster runs, which takes a second: call again."""
        if self._reachability.lost:
            return self._reachability.error
        topic = self._topic or self._looked_up
        return self._diagnosis.of(topic, lambda name: not isinstance(self._metadata(name), KafkaError))

    def flush(self, seconds: float = FLUSH_SECONDS) -> None:
        """Send the queued records at once, without waiting `linger.ms` for more. Serves reports until all are there or
        `seconds` are over: a broker's thread that wakes up later lets its records wait (rdkafka.h, rd_kafka_flush).
        """
        try:
            self._producer.flush(seconds)
        except (KafkaException, SystemError) as raised:
            self._raise_fatal(raised)

    def _raise_fatal(self, raised: BaseException) -> None:
        """Raise a fatal error as CdcOutboxError, except the one after a refused batch: its reports already have the cause."""
        error = self._error(raised)
        known = kafka_error(raised)
        if known is None or known.code() != KafkaError._GAPLESS_GUARANTEE:
            raise error from raised

    def topic_limit(self, topic: str) -> int | str:
        """The topic's max.message.bytes if it is known. For messages only, never for a decision."""
        return self._gate.limits.get(topic) or "the topic's max.message.bytes"

    def discard_queued(self) -> None:
        """Discard the records that are not sent yet: after a refused batch librdkafka neither sends nor reports them. Those on
        their way keep their reports.
        """
        self._producer.purge(in_flight=False)
        self.serve()
        self.failures[:] = [each for each in self.failures if each.error.code() != KafkaError._PURGE_QUEUE]

    def abandon(self) -> None:
        """Discard the records in flight, so that nothing waits for an unreachable broker. Never raises."""
        producer = self._producer
        for _ in range(
            2
        ):  # the first poll raises a fatal error; the next calls the reports, which refer to this object
            try:
                producer.purge()
                producer.poll(0)
            except (KafkaException, SystemError) as raised:
                log.debug("producer.abandoned", error=str(raised))
        self._report = None  # a reference cycle: librdkafka's threads end once its producer has no reference
        self._reports.close()
        self._gate.close()
        self._diagnosis.close()
        self._producer = Abandoned()  # type: ignore[assignment]  # the threads end now, not when this object is freed
        self._poll = self._producer.poll
        self.__dict__.pop("_produce", None)

    def _not_accepted(self, raised: Exception, record: KafkaRecord) -> bool:
        """Raise the error of librdkafka or its binding for a record; False if the topic is the cause: try again."""
        if not isinstance(raised, KafkaException):  # UnicodeError is a ValueError
            raise unfit(record, raised) from raised
        error = kafka_error(raised)
        if error is not None and error.code() == KafkaError._FATAL and (len(self._producer) or self.failures):
            self._fatal = True  # the reports have the cause
            return False
        if error is None or not about_cluster(error):
            raise self._refused(raised, record) from raised
        self.refused(record, error)
        return False

    def _refused(self, raised: KafkaException, record: KafkaRecord) -> CdcOutboxError:
        error = kafka_error(raised)
        if error is None or error.fatal() or error.code() == KafkaError._FATAL:
            self._fatal = True
            return Unreachable(f"Kafka: {raised}", code="kafka-error")
        refusal = not_accepted(DeliveryFailure(record.topic, record.key, len(record.value or b""), error, UNSET, UNSET))
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            refusal.where["limit"] = number(self._properties, "message.max.bytes")
        return refusal

    def _error(self, raised: BaseException) -> CdcOutboxError:
        error = kafka_error(raised)
        if error is None:
            return Unreachable(f"Kafka: {raised}", code="kafka-error")
        self._fatal = self._fatal or error.fatal() or error.code() == KafkaError._FATAL
        return final(error, self._topic) or Unreachable(f"Kafka: {error.str()}", code="kafka-error")

    def _take_new_login(self) -> None:
        """Read the password again, since it may have been changed, for librdkafka's next attempt.

        Never called from a callback: the binding aborts the process when a callback calls a method of the producer.
        """
        try:
            fresh = self._reread()
        except CdcOutboxError as error:
            log.warning("kafka.secret", error=error)
            return
        login = changed_login(self._properties, fresh)
        if login is not None:
            with_login(self._properties, login)
            self._producer.set_sasl_credentials(*login)
