"""One real event, from the outbox table to Kafka's delivery report, with its time.

In: `Settings`, a cluster that has answered, tables that are as they must be. Out: lines `probe.…`.
Never: the relay's slot touched; an event of somebody else's sent; a row written whose record might stop a relay that runs.

The row is committed in the outbox table, since nothing else is streamed, so a relay that runs sends it, too. Therefore it has
a topic of its own, as far as the template has a column: `cdc-outbox-probe` stands in for each. Before it is written, that topic
is there and ours to write to, or the brokers make it. The event says what it is: type `cdc-outbox.probe`, header
`outbox.probe`.

It is read by a temporary slot of our own, by way of the same publication, and sent by a producer of our own: both end with us.
The row is deleted afterwards, where we may: deletes are not published. If a relay streams, we wait until it, too, has confirmed
that position. Both copies have the same id. A relay that starts later sends its own then.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Final

from cdc_outbox.check.cluster import Cluster
from cdc_outbox.check.probe_event import EVENT_TYPE, ProbeEvent
from cdc_outbox.check.report import Report
from cdc_outbox.commands.slots import create_patiently
from cdc_outbox.config.settings import Settings
from cdc_outbox.counters import Counters
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.identifiers import TableName
from cdc_outbox.kafka.errors import failed_delivery
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.lsn import UNSET, format_lsn
from cdc_outbox.postgres import connect, pgoutput, server, slot, table_rows, wire
from cdc_outbox.postgres.errors import translated
from cdc_outbox.postgres.pgoutput import PGOUTPUT_AT, ROW_OID, LogicalMessage, Relation
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.records.mapping import Mappings, RecordMapping, RowMapping
from cdc_outbox.records.router import KafkaRecord
from cdc_outbox.records.templates import TopicTemplate
from cdc_outbox.relay.ledger import Transaction
from cdc_outbox.shutdown import Stop, Stopped

PROBE_SECONDS: Final = 30.0
"""For all of it. A slot waits for open transactions, a topic that is being made for its leaders; a path that works takes less
than one second."""

LOOK_SECONDS: Final = 0.05
"""Between two looks at the relay's slot."""

MESSAGES_PER_READ: Final = 1000
SLOT_PREFIX: Final = "cdc_outbox_probe_"
"""Whoever finds it in pg_replication_slots knows whose it is."""

CHECKS: Final = ("probe.delivery", "probe.relay")

_ELSEWHERE: Final = (
    "config.poison",
    "config.postgres-tls",
    "kafka.size",
    "kafka.topic",
    "kafka.write",
    "kafka.replication",
)
"""Failures that do not forbid a probe: they are about other events, or about safety."""


def check_probe(
    cluster: Cluster | None,
    settings: Settings,
    properties: dict[str, str],
    shapes: Sequence[table_rows.TableShape],
    stop: Stop,
    report: Report,
    *,
    shared_topic: bool,
) -> None:
    """Send it, if nothing stands in the way. `shared_topic`: also into a topic that others read. Raises Stopped."""
    why = _obstacle(cluster, report)
    if cluster is None or why:
        report.fail(CHECKS[0], f"not sent: {why}", "cure what failed above, and try again")
        report.not_checked("the probe was not sent", CHECKS[1])
        return
    probe = Probe(cluster, settings, properties, shapes, stop)
    over = threading.Event()
    try:
        with _deadline(stop, over, PROBE_SECONDS):
            probe.event.find_key(stop)
            if probe.is_harmless(report, shared_topic=shared_topic):
                with translated():
                    probe.run(report)
    except Stopped:
        if not over.is_set():
            raise
        late = CHECKS[1] if probe.delivered else CHECKS[0]
        report.fail(late, f"{probe.waits_for}: not within {PROBE_SECONDS:g} s", probe.cure)
    except CdcOutboxError as error:
        own = "the probe fills the columns that make a record: give others of the table a default"
        report.fail_with(CHECKS[0], error, *([] if error.cure else [own]))
    if not any(finding.check == CHECKS[1] for finding in report.findings):
        report.not_checked("the probe was not delivered", CHECKS[1])


def _obstacle(cluster: Cluster | None, report: Report) -> str:
    failed = [one.check for one in report.findings if one.status == "fail" and one.check not in _ELSEWHERE]
    if failed:
        return f"{', '.join(dict.fromkeys(failed))} failed"
    return "Kafka was not reached" if cluster is None else ""


@contextlib.contextmanager
def _deadline(stop: Stop, over: threading.Event, seconds: float) -> Iterator[None]:
    """Request the stop after so long; `over` tells that it was this."""

    def expire() -> None:
        over.set()
        stop.request()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Probe:
    """One event on its way."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        properties: dict[str, str],
        shapes: Sequence[table_rows.TableShape],
        stop: Stop,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._properties = properties
        self.event = ProbeEvent(settings, shapes[0] if shapes else None)
        self._stop = stop
        self._row_mappings = Mappings(settings)
        self._messages = self._row_mappings.messages(Counters())
        self.delivered = False
        self.waits_for = "there is no slot for the probe yet"
        """What has not come yet, in words."""
        self.cure = (
            "see database.transactions above: a slot begins when every open transaction that has written is over"
        )

    def is_harmless(self, report: Report, *, shared_topic: bool) -> bool:
        """Whether a relay that runs can deliver this event, and nobody reads it who does not expect it. Raises our errors."""
        topic, cluster = self.event.topic, self._cluster
        if not TopicTemplate(self._settings.topic).columns and not shared_topic:
            report.fail(
                CHECKS[0],
                f"not sent: --topic {topic} names no column, so it would go to those who read your events",
                f"--probe-shared-topic, if they ignore an event of the type {EVENT_TYPE}",
            )
            return False
        found = cluster.catalog.describe(topic)
        makes = cluster.defaults is not None and cluster.defaults.makes_topics
        if (found is None and makes) or (found is not None and found.may_write is not False):
            return True
        report.fail(
            CHECKS[0],
            f"not sent: its topic {topic} is not there or not ours to write to, and a relay that runs would stop at it",
            cluster.create(topic) if found is None else cluster.permit(topic),
        )
        return False

    def run(self, report: Report) -> None:
        """Write it, read it, send it. Raises our errors, and Stopped."""
        dsn = self._settings.dsn.reveal()
        session = ReplicationSession(dsn, self._stop)
        publisher = Publisher(dict(self._properties), Counters())
        try:
            publisher.reach()
            name = f"{SLOT_PREFIX}{secrets.token_hex(6)}"
            create_patiently(session, dsn, name, lambda _words: None, temporary=True)
            stream = ReplicationStream.start(
                session,
                self._stop,
                slot=name,
                publication=self._settings.publication,
                tables=bool(self._settings.tables),
                messages=self._settings.reads_messages,
            )
            with connect.open_connection(dsn) as connection:  # a stop must not keep us from deleting the row
                self._send(connection, stream, publisher, report)
        finally:
            publisher.abandon()
            session.close()

    def _send(
        self, connection: connect.Connection, stream: ReplicationStream, publisher: Publisher, report: Report
    ) -> None:
        self.event.write(connection)
        committed = time.monotonic()
        lsn = format_lsn(server.current_lsn(connection))
        try:
            self.waits_for = "the event was committed and did not come out of the publication"
            self.cure = (
                "see publication.table and slot.state above; a large transaction that is being decoded comes first"
            )
            record = self._read(stream)
            read = time.monotonic()
            self.waits_for = f"Kafka has not confirmed the record in topic {record.topic}"
            self.cure = "see kafka.replication above: with too few replicas in sync a topic takes nothing"
            self._deliver(publisher, record)
            done = time.monotonic()
        finally:
            gone = self.event.delete(connection)
        self.delivered = True
        report.ok(
            CHECKS[0],
            f"delivered to {record.topic} {_ms(done - committed)} after its commit ({_ms(read - committed)} until it was "
            f"read, {_ms(done - read)} in Kafka), id {self.event.id}{'' if gone else '; its row stays in the table'}",
        )
        self._await_relay(connection, lsn, committed, report)

    # -- PostgreSQL

    def _read(self, stream: ReplicationStream) -> KafkaRecord:
        """Wait for our event among whatever else is committed, and make its record."""
        mappings: dict[bytes, RowMapping] = {}
        transaction = Transaction(0)
        while not self._stop.requested:
            stream.wait(LOOK_SECONDS)
            for message in stream.receive(MESSAGES_PER_READ):
                if message[0] != wire.XLOGDATA:
                    self._answer(stream, message)
                    continue
                kind = message[PGOUTPUT_AT]
                if kind == pgoutput.BEGIN:
                    begin = pgoutput.decode(message, PGOUTPUT_AT)
                    assert isinstance(begin, pgoutput.Begin)
                    transaction = Transaction(wire.unix_milliseconds(begin.commit_time), begin.final_lsn)
                elif kind == pgoutput.RELATION:
                    self._describe(message, mappings)
                elif (found := self._ours(message, kind, mappings)) is not None:
                    mapping, source = found
                    return mapping.record(source, transaction)
        raise Stopped

    def _describe(self, message: bytes, mappings: dict[bytes, RowMapping]) -> None:
        relation = pgoutput.decode(message, PGOUTPUT_AT)
        assert isinstance(relation, Relation)
        if self._row_mappings.is_outbox(TableName(relation.schema, relation.name)):
            mappings[relation.oid.to_bytes(4, "big")] = self._row_mappings.rows(relation)

    def _ours(
        self, message: bytes, kind: int, mappings: dict[bytes, RowMapping]
    ) -> tuple[RecordMapping[bytes], bytes] | None:
        """Our event, and the mapping that it came by."""
        if kind == pgoutput.INSERT and (mapping := mappings.get(message[ROW_OID])) is not None:
            return (mapping, message) if mapping.event(message).id == self.event.id.encode() else None
        if kind == pgoutput.MESSAGE and self._messages is not None:
            logical = pgoutput.decode(message, PGOUTPUT_AT)
            assert isinstance(logical, LogicalMessage)
            if self._messages.takes(logical):
                content = logical.content
                return (self._messages, content) if self._messages.event(content).id == self.event.id.encode() else None
        return None

    @staticmethod
    def _answer(stream: ReplicationStream, message: bytes) -> None:
        """Say that we live, and confirm nothing."""
        keepalive = wire.parse_keepalive(message)
        if keepalive.reply_requested:
            stream.send_status(write=keepalive.wal_end, flush=UNSET)

    def _await_relay(self, connection: connect.Connection, lsn: str, committed: float, report: Report) -> None:
        """A relay that streams has the event as well: wait for its confirmation."""
        info = slot.inspect(connection, self._settings.slot)
        if info is None or not info.active:
            report.not_checked(f"no relay streams from slot {self._settings.slot}", CHECKS[1])
            return
        self.waits_for = (
            f"the relay that streams from slot {info.name} (pid {info.active_pid}) has not confirmed the event"
        )
        self.cure = "see what holds it up: its log, /readyz?verbose, cdc-outbox slot status"
        query = "SELECT confirmed_flush_lsn >= %s::pg_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = %s"
        while connection.execute(query, (lsn, info.name)).fetchone() != (True,):
            if self._stop.wait(LOOK_SECONDS):
                raise Stopped
        report.ok(
            CHECKS[1], f"the relay that streams confirmed it {_ms(time.monotonic() - committed)} after its commit"
        )

    # -- Kafka

    def _deliver(self, publisher: Publisher, record: KafkaRecord) -> None:
        parcel = Transaction(0)
        taken = publisher.produce(record, parcel)
        assert taken, "the queue of a new producer has room"
        publisher.flush()
        while parcel.outstanding and not publisher.failures:
            publisher.serve(LOOK_SECONDS)
            if self._stop.requested:
                raise Stopped
        if publisher.failures:
            raise failed_delivery(publisher.failures[0])


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"
