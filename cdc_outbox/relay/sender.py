"""Send events: route, produce, hold a record that finds no room, and apply the policy to poison events.

In: the events of one transaction after another. Out: records handed to the publisher, counted on their transaction.
Never: an event dropped or overtaken. While a record is held or isolated, no other event is taken.

librdkafka fails a whole batch for one record that the broker rejects, so a failed delivery does not identify the record that
caused it. The records of every rejected transaction are sent again, one at a time, with nothing else in flight: then a failure
identifies the record.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent
from cdc_outbox.kafka.errors import about_cluster, caused_by_record, failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.records.mapping import RecordMapping, Source
from cdc_outbox.records.router import TOO_LARGE, InFlight, KafkaRecord
from cdc_outbox.relay.poison import PoisonPolicy, RejectedRecord, shrink_dead_letter

_ABOUT_THE_TOPIC: Final = (ConfigurationError, AccessRefused)
"""Errors of `produce` for a record's topic: it is unknown, or may not be written to."""


@dataclass(frozen=True, slots=True)
class HeldRecord:
    """A record that waits for room, for its topic, or for its own delivery report."""

    record: KafkaRecord
    event: RejectedRecord
    """Its event, for the case that it is rejected."""
    isolated: bool = False
    """Sent with nothing else in flight: its transaction is isolated, or it is a dead letter."""
    in_flight: bool = False
    """Isolated, and handed over: a failure is about this record."""


class RecordSender:
    """Sends the events of one session. Call `send` for each; after it returned False, call `retry` until it returns True."""

    def __init__(self, publisher: Publisher, policy: PoisonPolicy) -> None:
        self._publisher = publisher
        self._produce = publisher.produce
        self._policy = policy
        self._held: HeldRecord | None = None

    @property
    def holds(self) -> bool:
        """Whether a record is held."""
        return self._held is not None

    @property
    def isolated(self) -> bool:
        """Whether a record is in flight alone: a failure is about that record, and `retry` handles it."""
        return self._held is not None and self._held.in_flight

    def send(self, mapping: RecordMapping[Source], source: Source, transaction: InFlight) -> bool:
        """Send one event of `transaction`. False when it is held: send no other until `retry` returns True.

        Raises as the policy requires.
        """
        try:
            record = mapping.record(source, transaction)
        except PoisonEvent as error:
            return self._apply_policy(error, _rejected(mapping, source, transaction, None))
        if transaction.isolated:
            return self._hold(HeldRecord(record, _rejected(mapping, source, transaction, record), isolated=True))
        try:
            if self._produce(record, transaction):
                return True
        except PoisonEvent as error:
            return self._apply_policy(error, _rejected(mapping, source, transaction, record))
        except _ABOUT_THE_TOPIC as error:
            return self._wait(error, HeldRecord(record, _rejected(mapping, source, transaction, record)))
        self._held = HeldRecord(record, _rejected(mapping, source, transaction, record))
        return False

    def retry(self) -> bool:
        """Retry the held record. True when none is held, so that the next may be sent. Raises as the policy requires."""
        held = self._held
        if held is None:
            return True
        if held.isolated:
            return self._send_isolated(held)
        try:
            if not self._publisher.produce(held.record, held.event.transaction):
                return False
        except PoisonEvent as error:
            return self._apply_policy(error, held.event)
        except _ABOUT_THE_TOPIC as error:
            return self._wait(error, held)
        self._held = None
        return True

    def _hold(self, held: HeldRecord) -> bool:
        self._held = held
        return self.retry()

    def _send_isolated(self, held: HeldRecord) -> bool:
        """Send one record with nothing else in flight, and wait for its own report."""
        publisher, transaction = self._publisher, held.event.transaction
        if publisher.in_flight:
            publisher.flush()
            return False
        if not held.in_flight:
            if publisher.failures:  # of earlier records: the loop handles them first
                return False
            try:
                self._held = replace(held, in_flight=publisher.produce(held.record, transaction))
            except PoisonEvent as error:
                return self._apply_policy(error, held.event)
            except _ABOUT_THE_TOPIC as error:
                return self._wait(error, held)
            publisher.flush()
            return False
        return self._take_report(held)

    def _take_report(self, held: HeldRecord) -> bool:
        """Handle the delivery report of a record that was in flight alone."""
        publisher, transaction = self._publisher, held.event.transaction
        if not publisher.failures:
            self._held = None
            return True
        failure = publisher.failures.pop()
        publisher.failures.clear()
        publisher.renew()
        transaction.outstanding -= 1
        transaction.events -= 1
        found = failed_delivery(failure)
        if not caused_by_record([failure]):
            raise found
        if about_cluster(failure.error):
            publisher.refused(held.record, failure.error)
            return self._wait(found, replace(held, in_flight=False))
        if found.where.get("reason") == TOO_LARGE:
            found.where["limit"] = publisher.topic_limit(failure.topic)
        return self._apply_policy(found, held.event)

    def _wait(self, error: CdcOutboxError, held: HeldRecord) -> bool:
        """Hold a record until its topic accepts it, since the cluster is the cause and not the event. Raises the error with
        --on-poison stop, and for a dead letter.
        """
        if not isinstance(error, PoisonEvent) and (self._policy.stops or self._policy.is_dead_letter(held.record)):
            raise self._policy.described(error, held.event)
        self._held = held
        return False

    def _apply_policy(self, error: CdcOutboxError, rejected: RejectedRecord) -> bool:
        """Apply the policy to a rejected record. A dead letter is isolated too: it must be known whether Kafka accepts it."""
        self._held = None
        refused = rejected.record
        dead_letter = None
        if refused is not None and self._policy.is_dead_letter(refused) and error.where.get("reason") == TOO_LARGE:
            dead_letter = shrink_dead_letter(refused)
        dead_letter = dead_letter or self._policy.apply(error, rejected)
        if dead_letter is None:
            return True
        return self._hold(HeldRecord(dead_letter, rejected._replace(record=dead_letter), isolated=True))


def _rejected(
    mapping: RecordMapping[Source], source: Source, transaction: InFlight, record: KafkaRecord | None
) -> RejectedRecord:
    return RejectedRecord(mapping.name, mapping.event(source), record, transaction)
