"""Read the messages of a replication stream as events: the only reader of pgoutput, for `run` and for `tail`.

In: CopyData messages of one connection, in order. Out: calls of a `StreamSink`: transactions, events, keepalives.
Never: a message of an unknown kind mistaken for a known one, an event outside a transaction, state of an earlier connection.

An event is a message and the `RecordMapping` that reads it. The mapping is made at the first row of a relation, and again after
the server has described that relation again. A malformed stream raises ProtocolError with the LSN of the transaction.
PostgreSQL manual: 54.4 Streaming Replication Protocol, 54.5.3 Logical Replication Protocol Message Flow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from cdc_outbox.counters import Counters
from cdc_outbox.errors import ConfigurationError, ProtocolError
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn, format_lsn
from cdc_outbox.postgres import builtin_types, pgoutput, wire
from cdc_outbox.postgres.pgoutput import PGOUTPUT_AT, ROW_OID, Column, LogicalMessage, Relation
from cdc_outbox.postgres.wire import PrimaryKeepalive
from cdc_outbox.records.mapping import Mappings, RecordMapping, RowMapping
from cdc_outbox.records.router import InFlight

_XLOGDATA: Final = wire.XLOGDATA
_INSERT: Final = pgoutput.INSERT
_BEGIN: Final = pgoutput.BEGIN
_COMMIT: Final = pgoutput.COMMIT
_read_begin: Final = pgoutput.begin_reader(PGOUTPUT_AT)
_read_commit: Final = pgoutput.commit_reader(PGOUTPUT_AT)

EventSender = Callable[[RecordMapping[bytes], bytes, InFlight], bool]
"""(mapping, its source, transaction) -> whether the next message may be read."""


class StreamSink(Protocol):
    """The receiver of a stream's contents."""

    @property
    def send(self) -> EventSender:
        """Takes an event; returns False when reading must pause."""

    def begin(self, lsn: Lsn, commit_time: int) -> InFlight:
        """Open the transaction that commits at `lsn`; `commit_time` in Unix milliseconds."""

    def commit(self, end_lsn: Lsn) -> bool:
        """Close the open transaction; return False when reading must pause."""

    def keepalive(self, keepalive: PrimaryKeepalive) -> None:
        """Take a primary keepalive."""

    def outbox_table(self, relation: Relation) -> TableName | None:
        """Return the outbox table of the rows of `relation`; None if they are ignored. Called for each ignored row."""


class StreamReader:
    """Reads one connection."""

    def __init__(
        self,
        mappings: Mappings,
        counters: Counters,
        sink: StreamSink,
        on_mapping: Callable[[RowMapping], None] = lambda _mapping: None,
    ) -> None:
        """`on_mapping`: called with the mapping of a relation's rows each time it is made."""
        self._mappings = mappings
        self._sink = sink
        self._on_mapping = on_mapping
        self._counters = counters
        self._relations: dict[bytes, Relation] = {}
        self._types: dict[int, pgoutput.Type] = {}
        """User-defined types by their OIDs."""
        self._rows: dict[bytes, RowMapping] = {}
        self._messages = mappings.messages(counters)
        self._transaction: InFlight | None = None

    def resume(self, transaction: InFlight) -> None:
        """Continue inside a transaction whose Begin, and perhaps first rows, the native plane has taken."""
        self._transaction = transaction

    def read(self, messages: Iterator[bytes]) -> bool:
        """Read to the end of `messages`, or until the sink returns False. Then return False; the next call reads the rest.

        Raises ProtocolError, ConfigurationError for a table without a column that the settings name, and errors of the sink.
        """
        try:
            return self._read(messages)
        except (ProtocolError, ConfigurationError) as error:
            if self._transaction is not None:
                error.where.setdefault("lsn", format_lsn(self._transaction.lsn))
            raise

    def _read(self, messages: Iterator[bytes]) -> bool:  # noqa: C901 - the path of an event: no calls
        transaction = self._transaction
        rows, send, begin = self._rows, self._sink.send, self._sink.begin
        for message in messages:
            try:
                kind = message[PGOUTPUT_AT] if message[0] == _XLOGDATA else None
            except IndexError:
                raise ProtocolError(f"an XLogData message of {len(message)} bytes has nothing in it") from None
            if kind == _INSERT:
                if transaction is None:
                    raise ProtocolError("an event outside a transaction")
                mapping = rows.get(message[ROW_OID]) or self._find_mapping(message)
                if mapping is not None:
                    mapping.received += 1
                    if not send(mapping, message, transaction):
                        return False
            elif kind == _BEGIN:
                lsn, commit_time, _ = _read_begin(message)
                transaction = self._transaction = begin(lsn, wire.unix_milliseconds(commit_time))
            elif kind == _COMMIT:
                if not self._commit(message):
                    return False
                transaction = None
            elif not (self._keepalive(message) if kind is None else self._other(message)):
                return False
        return True

    def _keepalive(self, message: bytes) -> bool:
        if message[0] != wire.KEEPALIVE:
            raise ProtocolError(f"a CopyData message of an unknown type {message[:1]!r}")
        self._sink.keepalive(wire.parse_keepalive(message))
        return True

    def count_received(self) -> None:
        """Add the events read since the last call to the counters, by table."""
        received = self._counters.received
        for mapping in (*self._rows.values(), *([] if self._messages is None else [self._messages])):
            if mapping.received:
                received[mapping.name] = received.get(mapping.name, 0) + mapping.received
                mapping.received = 0

    def _commit(self, message: bytes) -> bool:
        lsn, end_lsn, _ = _read_commit(message)
        transaction = self._transaction
        if transaction is not None and transaction.lsn != lsn:
            raise ProtocolError(
                f"a Commit at {format_lsn(lsn)} ends a transaction announced for {format_lsn(transaction.lsn)}"
            )
        more = self._sink.commit(end_lsn)
        self._transaction = None
        return more

    def _other(self, message: bytes) -> bool:
        """Handle a relation, a type or a logical message; all others have no meaning for an outbox."""
        decoded = pgoutput.decode(message, PGOUTPUT_AT)
        if isinstance(decoded, Relation):
            oid = decoded.oid.to_bytes(4, "big")
            self._relations[oid] = decoded._replace(columns=tuple(map(self._resolve, decoded.columns)))
            self.count_received()
            self._rows.pop(oid, None)
        elif isinstance(decoded, pgoutput.Type):
            self._types[decoded.oid] = decoded
        elif isinstance(decoded, LogicalMessage) and self._messages is not None and self._messages.takes(decoded):
            if self._transaction is None:
                raise ProtocolError("an event outside a transaction")
            self._messages.received += 1
            return self._sink.send(self._messages, decoded.content, self._transaction)
        return True

    def _resolve(self, column: Column) -> Column:
        """Give a column of a domain its base type, which the server describes under the domain's OID."""
        base = self._types.get(column.type_oid)
        if base is None:
            return column
        if base.schema:
            return column._replace(type_name=f"{base.schema}.{base.name}")
        return column._replace(type_oid=builtin_types.oid_of(base.name) or column.type_oid, type_name=base.name)

    def _find_mapping(self, message: bytes) -> RowMapping | None:
        """Make the mapping for a relation's first row; None when its rows are ignored."""
        oid = message[ROW_OID]
        relation = self._relations.get(oid)
        if relation is None:
            raise ProtocolError(f"an Insert of relation {int.from_bytes(oid, 'big')}, which was never described")
        table = self._sink.outbox_table(relation)
        if table is None:
            return None
        mapping = self._rows[oid] = self._mappings.rows(relation._replace(schema=table.schema, name=table.name))
        self._on_mapping(mapping)
        return mapping
