"""Where events leave: route, produce, hold what finds the queue full, and deal with what can never be delivered.

In: the events of one transaction after the other. Out: records handed to the publisher, counted on their transaction.
Never: an event dropped or overtaken. While one is held, or tried alone, nothing else is taken.

librdkafka fails a whole batch for one record that the broker rejects, so a failed delivery does not say which record caused it.
The records of every rejected transaction are sent again, one at a time, with nothing else in flight: then a failure is about
that record.
"""

from __future__ import annotations

from typing import Final

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, ProtocolError
from cdc_outbox.kafka.errors import TOO_LARGE, caused_by_record, failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.records.mapping import RecordMapping, Source
from cdc_outbox.records.router import InFlight, KafkaRecord
from cdc_outbox.relay.poison import PoisonPolicy, RejectedRecord, shrink_dead_letter

_CULPRIT: Final = (PoisonEvent, ConfigurationError, AccessRefused)
"""What `produce` raises about this very record: too large, of an unknown topic or partition, or of a topic that is not ours."""


class RecordSender:
    """The way out of one session: `send` events; while `send` or `retry` returns False, call `retry`."""

    def __init__(self, publisher: Publisher, policy: PoisonPolicy) -> None:
        self._publisher = publisher
        self._produce = publisher.produce
        self._policy = policy
        self._held: RejectedRecord | None = None
        """The record that waits for its place."""
        self._held_isolated = False
        """Whether it goes alone: its transaction is isolated, or it is a dead letter."""
        self._isolated = False

    @property
    def holds(self) -> bool:
        """Whether a record waits for its place."""
        return self._held is not None

    @property
    def isolated(self) -> bool:
        """Whether a record is on its way alone: a failure now is about that record, and is dealt with by `retry`."""
        return self._isolated

    def send(self, mapping: RecordMapping[Source], source: Source, transaction: InFlight | None) -> bool:
        """Send one event of `transaction`; False when it is held: nothing more until `retry` returns True.

        Raises by the policy, and ProtocolError for an event outside a transaction.
        """
        if transaction is None:
            raise ProtocolError("an event outside a transaction")
        try:
            record = mapping.record(source, transaction)
        except PoisonEvent as error:
            return self._apply_policy(error, _rejected(mapping, source, transaction, None))
        if transaction.isolated:
            return self._hold(_rejected(mapping, source, transaction, record))
        try:
            if self._produce(record, transaction):
                return True
        except _CULPRIT as error:
            return self._apply_policy(error, _rejected(mapping, source, transaction, record))
        self._held, self._held_isolated = _rejected(mapping, source, transaction, record), False
        return False

    def retry(self) -> bool:
        """Try again with what is held. True when it is on its way, and the next may come. Raises by the policy."""
        held = self._held
        if held is None or held.record is None:
            return True
        if self._held_isolated:
            return self._send_isolated(held.record, held)
        try:
            if not self._publisher.produce(held.record, held.transaction):
                return False
        except _CULPRIT as error:
            return self._apply_policy(error, held)
        self._held = None
        return True

    def _hold(self, rejected: RejectedRecord) -> bool:
        self._held, self._held_isolated, self._isolated = rejected, True, False
        return self.retry()

    def _send_isolated(self, record: KafkaRecord, rejected: RejectedRecord) -> bool:
        """Send one record with nothing else in flight, and wait for its own report."""
        publisher, transaction = self._publisher, rejected.transaction
        if publisher.in_flight:
            publisher.flush()
            return False
        if not self._isolated:
            if publisher.failures:  # of records before this one: whoever served their reports deals with them first
                return False
            try:
                self._isolated = publisher.produce(record, transaction)
            except _CULPRIT as error:
                return self._apply_policy(error, rejected)
            publisher.flush()
            return False
        self._held, self._isolated = None, False
        if not publisher.failures:
            return True
        failure = publisher.failures.pop()
        publisher.failures.clear()
        transaction.outstanding -= 1
        transaction.events -= 1
        found = failed_delivery(failure)
        if not caused_by_record([failure]):
            raise found
        if found.where.get("reason") == TOO_LARGE:
            found.where["limit"] = publisher.topic_limit(failure.topic)
        return self._apply_policy(found, rejected)

    def _apply_policy(self, error: CdcOutboxError, rejected: RejectedRecord) -> bool:
        """Apply the policy to a culprit. A dead letter goes alone too: whether Kafka takes it must be known."""
        self._held, self._isolated = None, False
        refused = rejected.record
        letter = None
        if refused is not None and self._policy.is_dead_letter(refused) and error.where.get("reason") == TOO_LARGE:
            letter = shrink_dead_letter(refused)
        letter = letter or self._policy.apply(error, rejected)
        if letter is None:
            return True
        return self._hold(rejected._replace(record=letter))


def _rejected(
    mapping: RecordMapping[Source], source: Source, transaction: InFlight, record: KafkaRecord | None
) -> RejectedRecord:
    return RejectedRecord(mapping.name, mapping.event(source), record, transaction)
