"""Whatever a database, a role or an encoding is set to: the bytes of a record are the same."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.plugins.outbox import TABLE, Outbox, insert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import PostgresServer

SETTINGS = {
    "datestyle": "German, DMY",
    "timezone": "Asia/Tokyo",
    "intervalstyle": "iso_8601",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "client_encoding": "LATIN1",
    "lc_monetary": "C",
    "xmloption": "document",
    "search_path": "nowhere",
    "default_transaction_read_only": "on",
    "default_transaction_isolation": "serializable",
    "statement_timeout": "2",
    "lock_timeout": "1",
    "idle_in_transaction_session_timeout": "1",
    "idle_session_timeout": "50",
    "row_security": "on",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
}
"""What an administrator may have set for a role, as unpleasantly as possible. Times in milliseconds."""

VALUES = {
    "at": ("timestamptz", "2026-11-23 08:51:33.256999+01", b"2026-11-23 07:51:33.256999+00"),
    "day": ("date", "2026-11-23", b"2026-11-23"),
    "span": ("interval", "1 year 2 days 03:04:05", b"1 year 2 days 03:04:05"),
    "tenth": ("float8", "0.1", b"0.1"),
    "third": ("float8", "0.333333333333333314829616256247", b"0.3333333333333333"),
    "digest": ("bytea", b"\x00\\\xff", b"\x00\\\xff"),
    "price": ("numeric", "1.10", b"1.10"),
    "nick": ("text", "é€", "é€".encode()),
}
"""Columns that go out as headers: type, what is written, what arrives."""


@pytest.mark.parametrize("of", ["role", "database"])
def test_settings_of_a_role_or_a_database_change_no_byte(outbox: Outbox, of: str) -> None:
    outbox.create(payload="bytea")
    columns = ", ".join(f"ADD {name} {column_type}" for name, (column_type, _, _) in VALUES.items())
    outbox.database.execute(f"ALTER TABLE outbox {columns}")
    outbox.database.execute("CREATE ROLE unpleasant LOGIN REPLICATION PASSWORD 'unpleasant'")
    outbox.database.execute("GRANT SELECT ON outbox TO unpleasant")
    row = {"payload": b"\x00\xff", **{name: written for name, (_, written, _) in VALUES.items()}}
    writer = outbox.database.connect()
    owner = "ROLE unpleasant" if of == "role" else f"DATABASE {outbox.database.name}"
    for name, value in SETTINGS.items():
        writer.execute(f"ALTER {owner} SET {name} = '{value}'".encode())
    headers = [word for name in VALUES for word in ("--header", name)]
    options = [*headers, "--timestamp-column", "at"]
    dsn = outbox.database.dsn_for("unpleasant", "unpleasant")
    insert(writer, "outbox", row)
    outbox.drain(*options, dsn=dsn)
    insert(writer, "outbox", row)
    outbox.drain(*options, dsn=dsn)
    by_snapshot, by_stream = outbox.records()
    for record in (by_snapshot, by_stream):
        assert record.value == b"\x00\xff"
        assert record.headers[2:] == [(name, arrives) for name, (_, _, arrives) in VALUES.items()]
        assert record.timestamp == 1_795_420_293_256


@pytest.fixture
def outbox_in(
    postgres_server: PostgresServer, kafka: KafkaCluster, relay: Callable[..., Relay]
) -> Iterator[Callable[[str], Outbox]]:
    """An outbox in a database of another encoding."""
    made: list[Outbox] = []

    def make(encoding: str) -> Outbox:
        options = f"TEMPLATE template0 ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"
        made.append(Outbox(postgres_server.create_database(options), kafka, relay))
        return made[-1]

    yield make
    for each in made:
        each.database.drop()


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_a_database_of_another_encoding_sends_utf8(outbox_in: Callable[[str], Outbox], encoding: str) -> None:
    text = "日本語" if encoding == "EUC_JP" else "Grüße, ça va?"
    outbox = outbox_in(encoding)
    writer = outbox.database.connect(client_encoding="utf8")
    writer.execute(TABLE.format(table=f'"{text}"', payload="text").encode())
    writer.execute(f'ALTER TABLE "{text}" ADD "{text}" text'.encode())
    writer.execute(f'CREATE PUBLICATION cdc_outbox FOR TABLE "{text}"'.encode())
    row = {"payload": text, "aggregateid": text, "type": text, "headers": f'{{"{text}": "{text}"}}', text: text}
    for _ in range(2):
        insert(writer, text, row)
        outbox.drain("--table", f'"{text}"', "--header", f'"{text}"')
    encoded = text.encode()
    for record in outbox.records():
        assert (record.key, record.value) == (encoded, encoded)
        assert record.headers[1:] == [("type", encoded), (text, encoded), (text, encoded)]


@pytest.mark.parametrize("first_start", [False, True])
def test_bytes_that_are_no_utf8_pass_where_a_database_has_no_encoding(
    outbox_in: Callable[[str], Outbox], first_start: bool
) -> None:
    """Any bytes pass in a key, a payload and a type; where text is needed the event is poison, with its LSN."""
    outbox = outbox_in("SQL_ASCII")
    outbox.create(payload="text")
    outbox.database.execute("ALTER TABLE outbox ALTER headers TYPE text")
    writer = outbox.database.connect(client_encoding="sql_ascii")
    if not first_start:
        outbox.create_slot()
    row = b"INSERT INTO outbox (aggregatetype, aggregateid, type, payload, headers) VALUES ("
    writer.execute(row + b"'order', E'k\\xff', E't\\xe4', E'p\\xfc', NULL)")
    writer.execute(row + b"E'\\xff', '1', 'T', 'p', NULL)")
    writer.execute(row + b"'order', '1', 'T', 'p', E'{\"a\":\"\\xff\"}')")
    writer.execute(row + b"'order', '2', 'T', 'last', NULL)")
    relay = outbox.relay("--until", "caught-up", "--on-poison", "skip")
    assert relay.wait() == 0, relay.stderr_text
    first, last = outbox.records()
    assert (first.key, first.value, first.header("type")) == (b"k\xff", b"p\xfc", b"t\xe4")
    assert last.value == b"last"
    assert "bad-topic" in relay.stderr_text
    assert "bad-headers" in relay.stderr_text
    if not first_start:
        lines = [json.loads(line) for line in relay.stderr_text.splitlines()]
        assert [bool(line["lsn"]) for line in lines if line["event"] == "poison"] == [True, True]
