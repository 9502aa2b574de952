"""The loop without servers: prepared messages of PostgreSQL, and a producer that accepts every record at no cost.

In: a shape. Out: `Feed`, whose `run` takes all its messages through the real relay, mappings, ledger and publisher.
Never: a socket, a thread, or a wait: it measures the relay's own path of an event, the same work at each run.
"""

from __future__ import annotations

import itertools
from typing import Final

from confluent_kafka import Message

from cdc_outbox.counters import Counters
from cdc_outbox.kafka.reports import Report
from cdc_outbox.records.router import Headers
from tests.plugins import wire_builder as build
from tests.plugins.scripted import (
    RELATION,
    Clock,
    Rig,
    ScriptedKafka,
    ScriptedPublisher,
    ScriptedStream,
    begin,
    commit,
)

KEYS: Final = 10_000
"""Different keys, as in the other benchmarks."""

PAYLOAD: Final = b'{"n": 123456, "pad": "' + b"x" * 176 + b'"}'
"""200 bytes, as in the other benchmarks."""


class NullKafka(ScriptedKafka):
    """Takes the place of librdkafka's producer: every record is delivered at the next poll."""

    def __init__(self) -> None:
        super().__init__(Clock())
        self._reports: list[Report] = []
        self._message = Message(topic="outbox.event.order", value=PAYLOAD, key=b"1", offset=1)
        self.taken = 0
        """Number of records."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int,
        _callback: Report,
        on_delivery: Report,
        timestamp: int,
        headers: Headers,
    ) -> None:
        """Keep the report for the next poll."""
        self._reports.append(on_delivery)

    def poll(self, seconds: float) -> int:
        """Call the reports of all records taken since the last poll."""
        reports, self._reports = self._reports, []
        message = self._message
        for report in reports:
            report(None, message)
        self.taken += len(reports)
        return len(reports)

    def __len__(self) -> int:
        return len(self._reports)


class FedStream(ScriptedStream):
    """A stream whose messages are a list, read up to `limit` at a time."""

    def __init__(self, messages: list[bytes]) -> None:
        super().__init__(Clock(), ())
        self._messages = messages
        self._at = 0

    def wait(self, seconds: float) -> bool:
        """Return at once: messages are always available."""
        return True

    def receive(self, limit: int) -> list[bytes]:
        """The next messages, at most `limit`."""
        start, self._at = self._at, self._at + limit
        self.empty = self._at >= len(self._messages)
        return self._messages[start : self._at]


class Feed:
    """A recorded stream of one shape."""

    def __init__(self, rows: int, per_transaction: int, headers: bytes | None = None) -> None:
        self.rows = rows
        self._messages = [RELATION]
        self._end = 0
        for first in range(0, rows, per_transaction):
            lsn = 0x1000000 + first * 400
            self._messages.append(begin(lsn))
            self._messages += [row(number, headers) for number in range(first, min(rows, first + per_transaction))]
            self._messages.append(commit(lsn))
            self._end = lsn + 8

    def run(self) -> None:
        """Run a relay until all messages are acknowledged."""
        kafka = NullKafka()
        rig = Rig()
        rig.stream = FedStream(self._messages)
        rig.counters = Counters()
        rig.publisher = ScriptedPublisher(kafka, rig.counters)
        rig.relay(target=self._end).run()
        assert kafka.taken == self.rows, f"{kafka.taken} records of {self.rows} rows"


_IDS: Final = itertools.cycle(f"01a207b6-8329-7897-99bd-{number:012x}".encode() for number in range(1000))


def row(number: int, headers: bytes | None = None) -> bytes:
    """An Insert of the table that `sql install` makes."""
    cells = build.outbox_row(next(_IDS), key=str(number % KEYS).encode(), payload=PAYLOAD, headers=headers)
    return build.xlogdata(build.insert(build.OUTBOX_OID, cells))
