"""An outbox under test: its table, its publication, its topics, and the relays that empty it."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any, Final

import pytest
from psycopg import sql

from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import LogLine, Relay
    from tests.plugins.kafka import KafkaCluster, Record
    from tests.plugins.postgres import Database

SLOT: Final = "cdc_outbox"

TABLE: Final = """
CREATE TABLE {table} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid DEFAULT gen_random_uuid(),
    aggregatetype text,
    aggregateid text,
    type text,
    payload {payload},
    headers json
)
"""
"""The columns of sql/outbox.sql without its checks: tests also write what an application should not."""


class Outbox:
    """One database's outbox. Topics begin with `prefix`, so that no other test has them."""

    def __init__(self, database: Database, kafka: KafkaCluster, start: Callable[..., Relay]) -> None:
        self.database = database
        self.kafka = kafka
        self.prefix = kafka.unique_topic_prefix()
        self._start = start

    # -- the database

    def create(self, *tables: str, payload: str = "json") -> None:
        """Make tables (`outbox`) and the publication for them."""
        names = tables or ("outbox",)
        for table in names:
            self.create_table(table, payload=payload)
        self.publish(*names)

    def create_table(self, table: str = "outbox", *, payload: str = "json") -> None:
        """Make a table, without a publication."""
        self.database.execute(TABLE.format(table=table, payload=payload))

    def publish(self, *tables: str) -> None:
        """Make the publication for tables that are there."""
        self.database.execute(
            f"CREATE PUBLICATION cdc_outbox FOR TABLE {', '.join(tables)}"
            " WITH (publish = 'insert', publish_via_partition_root = true)"
        )

    def create_slot(self) -> None:
        """Make the relay's slot, so that what follows comes by the stream and not by a first start."""
        self.database.execute(f"SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')")

    def add(self, table: str = "outbox", /, **columns: Any) -> str:
        """Commit one event: an order, unless said otherwise. Its id."""
        return self.add_all([columns], table)[0]

    def add_all(self, rows: list[dict[str, Any]], table: str = "outbox") -> list[str]:
        """Commit events in one transaction, in this order. Their ids."""
        with self.database.connect(autocommit=False) as connection:
            ids = [insert(connection, table, row) for row in rows]
            connection.commit()
        return ids

    def slot(self) -> dict[str, Any] | None:
        """The slot as pg_replication_slots has it."""
        found = self.database.execute(f"SELECT row_to_json(s) FROM pg_replication_slots s WHERE slot_name = '{SLOT}'")
        return found[0][0] if found else None

    def slots(self) -> list[str]:
        """Names of all slots of this database, temporary ones included."""
        query = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database() ORDER BY 1"
        return [name for (name,) in self.database.execute(query)]

    def confirmed_past(self, lsn: str) -> bool:
        """Whether the server has heard that everything up to `lsn` is delivered."""
        query = f"SELECT confirmed_flush_lsn >= '{lsn}' FROM pg_replication_slots WHERE slot_name = '{SLOT}'"
        return self.database.execute(query) == [(True,)]

    def current_lsn(self) -> str:
        """The end of what the server has written out: at least that of the caller's last commit, and a place that the flush
        LSN can reach (the insert position may stand behind a page's header, where no record ends).
        """
        return str(self.database.execute("SELECT pg_current_wal_flush_lsn()::text")[0][0])

    # -- the relay

    def relay(self, *arguments: str, **options: Any) -> Relay:
        """Start a relay, and wait for nothing. A --topic, dsn or brokers given here counts."""
        topic = () if "--topic" in arguments else ("--topic", self.prefix + "{aggregatetype}")
        options = {"database": self.database, "kafka": self.kafka, **options}
        return self._start(*topic, *arguments, **options)

    def streaming(self, *arguments: str, **options: Any) -> Relay:
        """Start a relay, and wait until it streams."""
        relay = self.relay(*arguments, **options)
        relay.wait_for_log("streaming")
        return relay

    def drain(self, *arguments: str, **options: Any) -> Relay:
        """Run a relay until it has caught up. It ends with 0."""
        relay = self.relay("--until", "caught-up", *arguments, **options)
        assert relay.wait() == 0, relay.stderr_text
        return relay

    def confirm(self) -> None:
        """Wait until the running relay has confirmed all that is committed by now, and one event more.

        Up to that event's end: a keepalive may lead past everything before it, and a stop would then leave it for later.
        """
        self.add()
        end = self.current_lsn()
        eventually(lambda: self.confirmed_past(end), f"the flush LSN reaches {end}")

    # -- Kafka

    def records(self, until: int | Callable[[list[Record]], bool] = 0, **options: Any) -> list[Record]:
        """Records in all topics of this outbox: after `drain()`, all that there will ever be."""
        return self.kafka.consume(f"^{self.prefix}", until, **options)

    def records_by_id(self) -> dict[str, Record]:
        """The same by their `id` header: each came once."""
        records = self.records()
        by_id = {event_id(record): record for record in records}
        assert len(by_id) == len(records), "an event came more than once"
        return by_id


def insert(connection: Any, table: str, row: dict[str, Any]) -> str:
    """Insert one event on an open connection; the caller commits. What `row` leaves out is an order's. Its id."""
    row = {
        "id": str(uuid.uuid4()),
        "aggregatetype": "order",
        "aggregateid": "1",
        "type": "OrderPlaced",
        "payload": '{"total": 99}',
        **row,
    }
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(
        sql.Identifier(*table.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    connection.execute(query, list(row.values()))
    return str(row["id"])


def event_id(record: Record) -> str:
    """The identity of the event that became this record."""
    found = record.header("id")
    assert found is not None
    return found.decode()


def ids(records: list[Record]) -> list[str]:
    """Identities, in the order of the records."""
    return [event_id(record) for record in records]


def ended(relay: Relay, code: int, *words: str, timeout: float = 30.0) -> LogLine:
    """The relay ends with `code`; its last line says why in these words, and names a cure. That line."""
    assert relay.wait(timeout) == code, relay.stderr_text
    last: LogLine = relay.logs[-1]
    assert (last["event"], last["exit_code"]) == ("stopped", code)
    assert last.get("cure"), f"no cure: {last}"
    said = json.dumps(last, ensure_ascii=False)
    assert not [word for word in words if word not in said], said
    return last


def no_slot_left(outbox: Outbox) -> None:
    """No slot, permanent or temporary. The server drops a temporary one a moment after its connection has ended."""
    eventually(lambda: not outbox.slots(), "no slot is left")


@pytest.fixture
def outbox(database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox without a table yet: `outbox.create()`."""
    return Outbox(database, kafka, relay)
