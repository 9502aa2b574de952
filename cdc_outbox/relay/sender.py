"""Where events leave: route, produce, hold what finds the queue full, and deal with what can never be delivered.

In: the events of one transaction after the other. Out: records handed to the publisher, counted on their transaction.
Never: an event dropped or overtaken. While one is held, or tried alone, nothing else is taken.

librdkafka fails a whole batch for one record that the broker refuses, so a failed delivery names suspects and no culprit. The
records of suspected transactions are sent again, each alone, with nothing else in flight: then a failure is about that record.
"""

from __future__ import annotations

from typing import Final

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, ProtocolError
from cdc_outbox.kafka.errors import TOO_LARGE, blamed, failed_delivery
from cdc_outbox.kafka.producer import Carrier, Publisher
from cdc_outbox.lsn import UNSET
from cdc_outbox.records.mapping import Lane, Source
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.relay.poison import PoisonPolicy, Suspect, smaller

_CULPRIT: Final = (PoisonEvent, ConfigurationError, AccessRefused)
"""What `produce` raises about this very record: too large, of an unknown topic or partition, or of a topic that is not ours."""


class Outlet:
    """One generation's way out. `begin` a carrier, then `send` its events; while `send` or `retry` say False, `retry`."""

    def __init__(self, publisher: Publisher, policy: PoisonPolicy) -> None:
        self._publisher = publisher
        self._produce = publisher.produce
        self._policy = policy
        self._carrier: Carrier | None = None
        self._commit_time = 0
        self._alone = False
        self._held: KafkaRecord | None = None
        self._suspect: Suspect | None = None
        """What the held record is about."""
        self._held_apart = False
        """Whether it goes alone: it is suspected, or a dead letter."""
        self._on_trial = False

    @property
    def holds(self) -> bool:
        """Whether a record waits for its place."""
        return self._held is not None

    @property
    def on_trial(self) -> bool:
        """Whether a record is on its way alone: a failure now is about that record, and is dealt with by `retry`."""
        return self._on_trial

    def begin(self, carrier: Carrier, commit_time: int, *, alone: bool = False) -> None:
        """The next events are of this transaction. `commit_time` in Unix milliseconds; `alone`: it is suspected."""
        self._carrier = carrier
        self._commit_time = commit_time
        self._alone = alone

    def end(self) -> None:
        """The transaction is over: an event outside one is a protocol error."""
        self._carrier = None

    def send(self, lane: Lane[Source], source: Source) -> bool:
        """Send one event on its way; False when it is held: nothing more until `retry` says True. Raises by the policy."""
        carrier = self._carrier
        if carrier is None:
            raise ProtocolError("an event outside a transaction")
        try:
            record = lane.record(source, self._commit_time)
        except PoisonEvent as error:
            return self._condemn(error, self._suspected(lane, source, None))
        if self._alone:
            return self._hold(record, self._suspected(lane, source, record))
        try:
            if self._produce(record, carrier):
                return True
        except _CULPRIT as error:
            return self._condemn(error, self._suspected(lane, source, record))
        self._held, self._suspect, self._held_apart = record, self._suspected(lane, source, record), False
        return False

    def retry(self) -> bool:
        """Try again with what is held. True when it is on its way, and the next may come. Raises by the policy."""
        record, suspect = self._held, self._suspect
        if record is None or suspect is None:
            return True
        if self._held_apart:
            return self._trial(record, suspect)
        assert self._carrier is not None
        try:
            if not self._publisher.produce(record, self._carrier):
                return False
        except _CULPRIT as error:
            return self._condemn(error, suspect)
        self._held = self._suspect = None
        return True

    def _suspected(self, lane: Lane[Source], source: Source, record: KafkaRecord | None) -> Suspect:
        lsn = self._carrier.lsn if self._carrier is not None else UNSET
        return Suspect(lane.name, lane.event(source), record, lsn, self._commit_time)

    def _hold(self, record: KafkaRecord, suspect: Suspect) -> bool:
        self._held, self._suspect, self._held_apart, self._on_trial = record, suspect, True, False
        return self.retry()

    def _trial(self, record: KafkaRecord, suspect: Suspect) -> bool:
        """Send one record with nothing else in flight, and wait for its own report."""
        publisher, carrier = self._publisher, self._carrier
        assert carrier is not None
        if publisher.in_flight:
            publisher.hurry()
            return False
        if not self._on_trial:
            if publisher.failures:  # of records before this one: whoever served their reports deals with them first
                return False
            try:
                self._on_trial = publisher.produce(record, carrier)
            except _CULPRIT as error:
                return self._condemn(error, suspect)
            publisher.hurry()
            return False
        self._held, self._suspect, self._on_trial = None, None, False
        if not publisher.failures:
            return True
        failure = publisher.failures.pop()
        publisher.failures.clear()
        carrier.outstanding -= 1
        carrier.events -= 1
        found = failed_delivery(failure)
        if not blamed([failure]):
            raise found
        if found.where.get("reason") == TOO_LARGE:
            found.where["limit"] = publisher.topic_limit(failure.topic)
        return self._condemn(found, suspect)

    def _condemn(self, error: CdcOutboxError, suspect: Suspect) -> bool:
        """Apply the policy to a culprit. A dead letter goes alone too: whether Kafka takes it must be known."""
        self._held, self._suspect, self._on_trial = None, None, False
        refused = suspect.record
        letter = None
        if refused is not None and self._policy.is_letter(refused) and error.where.get("reason") == TOO_LARGE:
            letter = smaller(refused)
        letter = letter or self._policy.apply(error, suspect)
        if letter is None:
            return True
        return self._hold(letter, suspect._replace(record=letter))
