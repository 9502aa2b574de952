"""The SQL on a real server: what it makes, who may do what with it, and how it goes away again."""

from __future__ import annotations

import contextlib
import secrets
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from cdc_outbox.commands.emit import NewEvent, emit_event
from cdc_outbox.commands.install import (
    PAYLOAD_TYPES,
    ROLES,
    SQL_VERSION,
    InstallOptions,
    PayloadType,
    apply_install,
    apply_roles,
    apply_uninstall,
    render_install,
    render_uninstall,
)
from cdc_outbox.commands.installation import Installation, read_installation
from cdc_outbox.errors import AccessRefused, ConfigurationError, SlotBusy
from cdc_outbox.identifiers import TableName, quote_identifier, quote_literal
from cdc_outbox.postgres import slot as slots
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.stream import ReplicationStream
from cdc_outbox.shutdown import Stop
from tests.plugins.postgres import Database, PostgresServer

DEADLINE_SECONDS = 10.0

PAYLOADS = {"json": b'{"b": 1,  "a": 2}', "jsonb": b'{"a": 2}', "text": "grüße".encode(), "bytea": b"\x00\xff\\'"}

ODD = InstallOptions(
    table=TableName('My "app".v1; --', "Out'box"), publication="Pub\"li'cation", slot="odd_slot_1", payload_type="text"
)


@pytest.fixture
def slot_name() -> str:
    """Slots belong to the whole server, and tests must not meet."""
    return f"s_{secrets.token_hex(6)}"


@pytest.fixture
def installed(database: Database) -> Database:
    apply_install(database.dsn, InstallOptions(), unexpected)
    return database


@pytest.fixture
def with_roles(installed: Database) -> Database:
    apply_roles(installed.dsn, InstallOptions(), unexpected)
    return installed


def unexpected(warning: str) -> None:
    pytest.fail(f"PostgreSQL warns: {warning}")


def login(database: Database, role: str, member_of: str = "") -> str:
    """A DSN for `role`: made if need be, with a password."""
    password = secrets.token_hex(8)
    if not database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role]):
        database.execute(f"CREATE ROLE {quote_identifier(role)} LOGIN")
    database.execute(f"ALTER ROLE {quote_identifier(role)} PASSWORD {quote_literal(password)}")
    if member_of:
        database.execute(f"GRANT {member_of} TO {quote_identifier(role)}")
    return database.dsn_for(role, password)


def catalog(database: Database) -> list[tuple[Any, ...]]:
    """All that the scripts make, as the catalog has it; with xmin, also that no row was written again (GRANT always does)."""
    return [
        row
        for query in (
            "SELECT relname, relacl::text, obj_description(oid) FROM pg_class WHERE relname ~ '^outbox'",
            "SELECT xmin::text, attname, atttypid, attnotnull, attacl FROM pg_attribute WHERE attrelid = 'outbox'::regclass",
            "SELECT xmin::text, pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'outbox'::regclass",
            "SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = 'outbox'::regclass",
            "SELECT pg_get_functiondef(oid), proacl::text, proowner FROM pg_proc WHERE proname = 'outbox_emit'",
            "SELECT xmin::text, pg_publication FROM pg_publication",
            "SELECT xmin::text, pg_publication_rel FROM pg_publication_rel",
            "SELECT xmin::text, rolname, rolcanlogin, rolreplication FROM pg_authid WHERE rolname ~ '^cdc_outbox'",
            "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'",
            "SELECT datacl::text FROM pg_database WHERE datname = current_database()",
        )
        for row in database.execute(f"{query} ORDER BY 1, 2" if "," in query.split("FROM")[0] else query)
    ]


def rows(database: Database, table: str = "public.outbox") -> int:
    return int(database.execute(f"SELECT count(*) FROM {table}")[0][0])


def slot_exists(database: Database, name: str) -> bool:
    return bool(database.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [name]))


def make_slot(database: Database, name: str) -> None:
    database.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])


def stream_until(stream: ReplicationStream, wanted: bytes) -> None:
    """Read until a message holds `wanted`."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(wanted in message for message in stream.receive(1000)):
        assert time.monotonic() < deadline, f"{wanted!r} was not streamed in time"
        stream.wait(0.1)


@contextlib.contextmanager
def streaming(dsn: str, slot: str, *, create: bool = False) -> Iterator[ReplicationStream]:
    stop = Stop()
    with contextlib.closing(ReplicationSession(dsn, stop)) as session:
        if create:
            slots.create(session, slot, temporary=True)
        stream = ReplicationStream.start(session, stop, slot=slot, publication="cdc_outbox")
        yield stream
        stream.close()


# --- what is made ------------------------------------------------------------------------------------------------------


def test_install_makes_the_documented_columns(installed: Database) -> None:
    found = installed.execute(
        "SELECT column_name, data_type, is_nullable, is_identity FROM information_schema.columns"
        " WHERE table_name = 'outbox' ORDER BY column_name"
    )

    assert found == [
        ("aggregateid", "text", "YES", "NO"),
        ("aggregatetype", "text", "NO", "NO"),
        ("created_at", "timestamp with time zone", "NO", "NO"),
        ("headers", "jsonb", "YES", "NO"),
        ("id", "uuid", "NO", "NO"),
        ("payload", "json", "YES", "NO"),
        ("seq", "bigint", "NO", "YES"),
        ("type", "text", "YES", "NO"),
    ]
    assert installed.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'outbox'") == [
        ("CREATE UNIQUE INDEX outbox_pkey ON public.outbox USING btree (seq)",)
    ]


def test_ids_sort_by_time_where_the_server_can_make_such(installed: Database) -> None:
    first, second = (installed.execute("SELECT outbox_emit('order', '1', 'Placed', '{}')")[0][0] for _ in range(2))

    assert isinstance(first, uuid.UUID)
    assert first.version == second.version == (7 if installed.server.version >= 180000 else 4)
    assert first != second


def test_an_id_default_of_ones_own_stays(installed: Database) -> None:
    installed.execute("ALTER TABLE outbox ALTER id SET DEFAULT '00000000-0000-0000-0000-000000000001'")

    apply_install(installed.dsn, InstallOptions(), unexpected)

    assert installed.execute("SELECT outbox_emit('a', 'b', 'c', '{}')::text") == [
        ("00000000-0000-0000-0000-000000000001",)
    ]


def test_an_emitted_event_is_the_same_row_as_an_insert(installed: Database) -> None:
    event_id = installed.execute(
        """SELECT outbox_emit('order', '42', 'OrderPlaced', '{"b": 1,  "a": 2}', '{"tenant": "acme"}')"""
    )[0][0]

    assert installed.execute(
        "SELECT seq, id, aggregatetype, aggregateid, type, payload::text, headers, created_at <= clock_timestamp()"
        " FROM outbox"
    ) == [(1, event_id, "order", "42", "OrderPlaced", '{"b": 1,  "a": 2}', {"tenant": "acme"}, True)]


def test_emit_takes_named_arguments_and_nulls(installed: Database) -> None:
    installed.execute(
        "SELECT outbox_emit(payload => NULL, type => NULL, aggregateid => NULL, aggregatetype => 'order')"
    )

    assert installed.execute("SELECT aggregatetype, aggregateid, type, payload, headers FROM outbox") == [
        ("order", None, None, None, None)
    ]


def test_shards_before_row_filters_are_refused_with_the_version_that_has_them(database: Database) -> None:
    if database.server.version >= 150000:
        apply_install(database.dsn, InstallOptions(shards=2), unexpected)
        return
    with pytest.raises(ConfigurationError, match="publications have row filters since PostgreSQL 15") as refused:
        apply_install(database.dsn, InstallOptions(shards=2), unexpected)
    assert refused.value.cure == "use one relay, or a newer server"
    assert not read_installation(database.dsn, InstallOptions()).table


UUID_KEY = "01a207b6-8329-7897-99bd-428955e6b3ed"

KEYS = {
    "'42'": "42",
    "'42'::text": "42",
    "'42'::varchar(9)": "42",
    "'42'::char(9)": "42",
    "'42'::name": "42",
    "'42'::order_number": "42",
    "NULL": None,
    "NULL::text": None,
    "42": "42",
    "42::smallint": "42",
    "-9223372036854775808": "-9223372036854775808",
    "42::line_number": "42",
    f"'{UUID_KEY}'::uuid": UUID_KEY,
}
"""A key as SQL has it, and as the record has it."""

TABLE_AND_MESSAGE = pytest.mark.parametrize(
    "options", [InstallOptions(), InstallOptions(source="message")], ids=["table", "message"]
)


def sent(database: Database, slot: str) -> bytes:
    """What a relay would receive."""
    return b"".join(
        bytes(data)
        for (data,) in database.execute(
            "SELECT data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'cdc_outbox', 'messages', 'true')",
            [slot],
        )
    )


@TABLE_AND_MESSAGE
def test_a_key_is_a_text_an_integer_or_a_uuid(database: Database, options: InstallOptions, slot_name: str) -> None:
    apply_install(database.dsn, options, unexpected)
    make_slot(database, slot_name)
    database.execute("CREATE DOMAIN order_number AS text; CREATE DOMAIN line_number AS integer")
    for number, (key, text) in enumerate(KEYS.items()):
        database.execute(f"SELECT outbox_emit('order', {key}, 'Placed', '{{}}')")
        database.execute(
            f"SELECT outbox_emit(type => 'Named{number}', aggregateid => {key}, payload => '{{}}',"
            " aggregatetype => 'order')"
        )
        found = sent(database, slot_name)
        assert found.count(b"Placed") == found.count(b"Named%d" % number) == 1
        if options.source == "table":
            assert database.execute("DELETE FROM outbox RETURNING aggregateid") == [(text,)] * 2
        else:
            assert found.count(b'"aggregateid": ' + (b"null" if text is None else b'"%s"' % text.encode())) == 2
    for number, key_type in enumerate((None, "text", "bigint", "uuid")):
        types = "" if key_type is None else f"(text, {key_type}, text, json)"
        value = UUID_KEY if key_type == "uuid" else "42"
        database.execute(
            f"PREPARE emit_{number}{types} AS SELECT outbox_emit($1, $2, $3, $4);"
            f" EXECUTE emit_{number}('order', '{value}', 'Prepared', '{{}}')"
        )
    assert sent(database, slot_name).count(b"Prepared") == 4


@TABLE_AND_MESSAGE
@pytest.mark.parametrize("key_type", ["integer", "bigint", "uuid"])
def test_a_lost_id_is_refused_with_what_to_write(database: Database, options: InstallOptions, key_type: str) -> None:
    apply_install(database.dsn, options, unexpected)
    with pytest.raises(psycopg.errors.NotNullViolation) as refused:
        database.execute(f"SELECT outbox_emit('order', NULL::{key_type}, 'OrderPlaced', '{{}}')")
    found = refused.value.diag
    assert str(found.message_primary).startswith("aggregateid is NULL")
    assert found.column_name == "aggregateid"
    assert "outbox_emit" in str(found.context)
    cure = str(found.message_hint).rpartition("write ")[2]
    database.execute(f"SELECT outbox_emit('order', {cure}, 'OrderPlaced', '{{}}')")


@TABLE_AND_MESSAGE
def test_a_role_without_execute_emits_by_no_type_of_key(database: Database, options: InstallOptions) -> None:
    apply_install(database.dsn, options, unexpected)
    apply_roles(database.dsn, options, unexpected)
    stranger = database.connect(login(database, f"app_{secrets.token_hex(4)}"))
    writer = database.connect(login(database, f"app_{secrets.token_hex(4)}", member_of="cdc_outbox_writer"))
    for key in ("'1'", "1", f"'{UUID_KEY}'::uuid"):
        call = f"SELECT public.outbox_emit('order', {key}, 'Placed', '{{}}')".encode()
        writer.execute(call)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            stranger.execute(call)


@pytest.mark.parametrize(
    "arguments", ["'', 'b', 'c', '{}'", "NULL, 'b', 'c', '{}'", "'a', 'b', 'c', '{}', '[]'", "'a', 'b', 'c', '{}', '5'"]
)
def test_an_empty_aggregatetype_and_headers_that_are_no_object_are_refused(installed: Database, arguments: str) -> None:
    with pytest.raises(psycopg.errors.IntegrityError):
        installed.execute(f"SELECT outbox_emit({arguments})")


def test_what_is_rolled_back_was_never_emitted(installed: Database, slot_name: str) -> None:
    make_slot(installed, slot_name)
    connection = installed.connect(autocommit=False)
    connection.execute("SELECT outbox_emit('order', '1', 'RolledBack', '{}')")
    connection.rollback()
    connection.execute("SELECT outbox_emit('order', '1', 'Committed', '{}')")
    connection.commit()

    assert installed.execute("SELECT type FROM outbox") == [("Committed",)]
    changes = b"".join(
        bytes(data)
        for (data,) in installed.execute(
            "SELECT data FROM pg_logical_slot_peek_binary_changes(%s, NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'cdc_outbox')",
            [slot_name],
        )
    )
    assert b"Committed" in changes
    assert b"RolledBack" not in changes


def test_applied_twice_changes_nothing(with_roles: Database) -> None:
    before = catalog(with_roles)

    apply_install(with_roles.dsn, InstallOptions(), unexpected)
    apply_roles(with_roles.dsn, InstallOptions(), unexpected)

    assert catalog(with_roles) == before


def test_the_printed_text_runs_statement_by_statement_in_the_transaction_of_the_caller(database: Database) -> None:
    connection = database.connect(autocommit=False)

    connection.execute(render_install(InstallOptions()).encode())
    connection.rollback()
    assert read_installation(database.dsn, InstallOptions()).table is False

    connection.execute(render_install(InstallOptions()).encode())
    connection.commit()
    assert read_installation(database.dsn, InstallOptions()).complete


def test_several_may_install_at_the_same_time(database: Database) -> None:
    with ThreadPoolExecutor(4) as pool:
        for installation in [pool.submit(apply_install, database.dsn, InstallOptions(), unexpected) for _ in range(8)]:
            installation.result(timeout=DEADLINE_SECONDS)
        for grants in [pool.submit(apply_roles, database.dsn, InstallOptions(), unexpected) for _ in range(8)]:
            grants.result(timeout=DEADLINE_SECONDS)

    assert read_installation(database.dsn, InstallOptions()).roles == frozenset(ROLES)


@pytest.mark.parametrize("payload_type", PAYLOAD_TYPES)
def test_each_payload_type_is_stored_as_it_was_given(database: Database, payload_type: PayloadType) -> None:
    options = InstallOptions(payload_type=payload_type)
    apply_install(database.dsn, options, unexpected)
    apply_install(database.dsn, options, unexpected)

    emit_event(database.dsn, options.table, NewEvent("order", "1", "Placed", PAYLOADS[payload_type]))

    stored = "payload" if payload_type == "bytea" else "convert_to(payload::text, 'UTF8')"
    assert database.execute(f"SELECT pg_typeof(payload)::text, {stored} FROM outbox") == [
        (payload_type, PAYLOADS[payload_type])
    ]


def test_names_of_every_kind_install_emit_and_go_away_again(database: Database) -> None:
    for _ in range(2):
        apply_install(database.dsn, ODD, unexpected)
        apply_roles(database.dsn, ODD, unexpected)
    make_slot(database, ODD.slot)
    emit_event(database.dsn, ODD.table, NewEvent("order", "1", "Placed", b"text"))

    assert database.execute(f"SELECT payload FROM {ODD.table.quoted}") == [("text",)]
    assert read_installation(database.dsn, ODD).complete
    assert database.execute("SELECT to_regclass('public.outbox')") == [(None,)]

    apply_uninstall(database.dsn, ODD, unexpected, drop_table=True, drop_roles=True)
    assert read_installation(database.dsn, ODD) == NOTHING
    assert not slot_exists(database, ODD.slot)


def test_two_tables_of_a_schema_have_a_function_each(installed: Database) -> None:
    orders = InstallOptions(table=TableName("public", "orders"))

    apply_install(installed.dsn, orders, unexpected)
    emit_event(installed.dsn, orders.table, NewEvent("order", "1", "Placed", b"{}"))

    assert (rows(installed), rows(installed, "public.orders")) == (0, 1)
    assert installed.execute("SELECT tablename FROM pg_publication_tables ORDER BY 1") == [("orders",), ("outbox",)]


@pytest.mark.parametrize("keyword", ["order", "user", "table"])
def test_a_table_may_be_called_like_a_keyword(database: Database, keyword: str) -> None:
    options = InstallOptions(table=TableName(keyword, keyword), publication=keyword)

    apply_install(database.dsn, options, unexpected)

    assert read_installation(database.dsn, options).complete


# --- what was there before ---------------------------------------------------------------------------------------------

DEBEZIUM = """CREATE TABLE outbox (id uuid NOT NULL, aggregatetype varchar(255) NOT NULL, aggregateid varchar(255) NOT NULL,
    type varchar(255) NOT NULL, payload jsonb{more})"""


def test_a_table_that_lacks_columns_is_named_with_them_and_left_alone(database: Database) -> None:
    database.execute("CREATE TABLE outbox (id uuid, aggregatetype text, payload json)")

    with pytest.raises(ConfigurationError, match="lacks: aggregateid, type, headers") as refusal:
        apply_install(database.dsn, InstallOptions(), unexpected)

    assert "headers as jsonb" in refusal.value.cure
    assert read_installation(database.dsn, InstallOptions()) == Installation(
        table=True,
        version=None,
        payload_type="json",
        function=False,
        keys=False,
        publication=False,
        published=False,
        delete_after_insert=False,
        options_as_installed=None,
        roles=frozenset(),
    )


def test_a_table_of_debezium_is_taken_over_as_it_is(database: Database) -> None:
    database.execute(DEBEZIUM.format(more=", headers jsonb"))
    options = InstallOptions(payload_type="jsonb")

    apply_install(database.dsn, options, unexpected)
    emit_event(database.dsn, options.table, NewEvent("order", "1", "Placed", b"{}"))

    assert read_installation(database.dsn, options).complete
    assert rows(database) == 1


@pytest.mark.parametrize("id_type", ["uuid", "text", "varchar(36)"])
def test_an_id_without_a_default_gets_one_so_that_no_event_is_without_an_id(database: Database, id_type: str) -> None:
    """NULL would be a poison event, and NOT NULL a failure of the change that announces itself."""
    database.execute(
        f"CREATE TABLE outbox (id {id_type}, aggregatetype text, aggregateid text, type text, payload json, headers json)"
    )

    apply_install(database.dsn, InstallOptions(), unexpected)
    database.execute("SELECT outbox_emit('order', '1', 'Placed', '{}')")

    assert [len(str(event_id)) for (event_id,) in database.execute("SELECT id FROM outbox")] == [36]


def test_another_payload_type_than_the_table_has_is_refused(installed: Database) -> None:
    with pytest.raises(ConfigurationError, match="payload of type json, not bytea"):
        apply_install(installed.dsn, InstallOptions(payload_type="bytea"), unexpected)

    assert signatures(installed) == EMIT


EMIT = [
    f"aggregatetype text, aggregateid {key}, type text, payload json, headers jsonb, id uuid"
    for key in ("bigint", "text", "uuid")
]


def signatures(database: Database) -> list[str]:
    """Parameters of each emit function that there is."""
    query = "SELECT pg_get_function_identity_arguments(oid) FROM pg_proc WHERE proname = 'outbox_emit' ORDER BY 1"
    return [arguments for (arguments,) in database.execute(query)]


def test_after_a_change_of_the_payload_type_the_functions_have_it_and_the_grants_stay(
    with_roles: Database,
) -> None:
    writer = login(with_roles, f"service_{secrets.token_hex(4)}", "cdc_outbox_writer")
    with_roles.execute("ALTER TABLE outbox ALTER payload TYPE jsonb")

    apply_install(with_roles.dsn, InstallOptions(payload_type="jsonb"), unexpected)

    assert signatures(with_roles) == [each.replace("payload json", "payload jsonb") for each in EMIT]
    emit_event(writer, InstallOptions().table, NewEvent("order", "1", "Placed", b"{}"))


VERSION_1 = """
    DROP ROUTINE outbox_emit(text, text, text, json, jsonb, uuid), outbox_emit(text, bigint, text, json, jsonb, uuid),
        outbox_emit(text, uuid, text, json, jsonb, uuid);
    CREATE FUNCTION outbox_emit(
        aggregatetype text, aggregateid text, type text, payload json, headers jsonb DEFAULT NULL
    ) RETURNS uuid LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS 'INSERT INTO public.outbox (aggregatetype, aggregateid, type, payload, headers)
        VALUES (aggregatetype, aggregateid, type, payload, headers) RETURNING id';
    REVOKE ALL ON FUNCTION outbox_emit FROM PUBLIC;
    GRANT EXECUTE ON FUNCTION outbox_emit TO cdc_outbox_writer WITH GRANT OPTION;
    COMMENT ON TABLE outbox IS 'Ours. cdc-outbox:1';
"""
"""What version 1 was: a function that makes the id."""


def test_a_function_that_takes_no_id_yet_hands_over_to_the_new_one(with_roles: Database) -> None:
    writer = login(with_roles, f"service_{secrets.token_hex(4)}", "cdc_outbox_writer")
    with_roles.execute(VERSION_1)
    emit_event(writer, InstallOptions().table, NewEvent("order", "1", "Placed", b"{}"))
    assert not read_installation(with_roles.dsn, InstallOptions()).complete

    apply_install(with_roles.dsn, InstallOptions(), unexpected)

    assert signatures(with_roles) == EMIT
    emit_event(writer, InstallOptions().table, NewEvent("order", "2", "Placed", b"{}"))
    assert rows(with_roles) == 2
    assert with_roles.execute(
        "SELECT privilege_type, is_grantable FROM pg_proc, aclexplode(proacl) WHERE proname = 'outbox_emit'"
        " AND grantee = 'cdc_outbox_writer'::regrole"
    ) == [("EXECUTE", True)]
    assert read_installation(with_roles.dsn, InstallOptions()).complete


def test_an_id_that_the_caller_made_is_the_events(installed: Database) -> None:
    made = "01a207b6-8329-7897-99bd-428955e6b3ed"

    returned = installed.execute("SELECT outbox_emit('order', '1', 'Placed', '{}', id => %s)", [made])

    assert returned == installed.execute("SELECT id FROM outbox") == [(uuid.UUID(made),)]


def test_a_newer_installation_is_never_taken_back(installed: Database) -> None:
    installed.execute("COMMENT ON TABLE outbox IS 'ours. cdc-outbox:999'")

    with pytest.raises(ConfigurationError, match="newer cdc-outbox: it is version 999") as refusal:
        apply_install(installed.dsn, InstallOptions(), unexpected)

    assert refusal.value.cure == "use the script of the newer cdc-outbox"
    assert read_installation(installed.dsn, InstallOptions()).version == 999


def test_an_older_mark_is_raised_and_a_comment_of_ones_own_stays(installed: Database) -> None:
    installed.execute("COMMENT ON TABLE outbox IS 'Team Orders''. cdc-outbox:0'")

    apply_install(installed.dsn, InstallOptions(), unexpected)

    assert installed.execute("SELECT obj_description('outbox'::regclass)") == [
        (f"Team Orders'. cdc-outbox:{SQL_VERSION}",)
    ]


def test_a_comment_without_a_mark_gets_one(database: Database) -> None:
    database.execute(DEBEZIUM.format(more=", headers jsonb"))
    database.execute("COMMENT ON TABLE outbox IS 'Events'")

    apply_install(database.dsn, InstallOptions(payload_type="jsonb"), unexpected)

    assert database.execute("SELECT obj_description('outbox'::regclass)") == [(f"Events cdc-outbox:{SQL_VERSION}",)]


def test_a_publication_without_the_table_gets_it_and_wrong_options_are_corrected(database: Database) -> None:
    database.execute("CREATE PUBLICATION cdc_outbox")

    apply_install(database.dsn, InstallOptions(), unexpected)

    assert database.execute("SELECT tablename FROM pg_publication_tables") == [("outbox",)]
    assert database.execute("SELECT pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication") == [
        (True, False, False, False, True)
    ]


@pytest.mark.parametrize("tables", ["TABLE customers", "ALL TABLES"])
def test_options_of_a_publication_that_others_use_stay_and_are_reported(database: Database, tables: str) -> None:
    database.execute("CREATE TABLE customers (id int PRIMARY KEY)")
    database.execute(f"CREATE PUBLICATION cdc_outbox FOR {tables}")
    warnings: list[str] = []

    apply_install(database.dsn, InstallOptions(), warnings.append)

    found = read_installation(database.dsn, InstallOptions())
    assert (found.published, found.options_as_installed, found.complete) == (True, False, False)
    assert [warning for warning in warnings if "other tables too" in warning] == warnings
    assert len(warnings) == 1


def test_of_a_partitioned_outbox_the_root_is_published(database: Database) -> None:
    database.execute(
        "CREATE TABLE outbox (seq bigint GENERATED BY DEFAULT AS IDENTITY, id uuid DEFAULT gen_random_uuid(),"
        " aggregatetype text, aggregateid text, type text, payload json, headers jsonb,"
        " created_at timestamptz NOT NULL DEFAULT now()) PARTITION BY RANGE (created_at);"
        "CREATE TABLE outbox_rest PARTITION OF outbox DEFAULT; CREATE PUBLICATION cdc_outbox FOR TABLE outbox"
    )

    for _ in range(2):
        apply_install(database.dsn, InstallOptions(), unexpected)
    emit_event(database.dsn, InstallOptions().table, NewEvent("order", "1", "Placed", b"{}"))

    assert database.execute("SELECT tablename FROM pg_publication_tables") == [("outbox",)]
    assert read_installation(database.dsn, InstallOptions()).complete


# --- who may do what ---------------------------------------------------------------------------------------------------


def test_the_writer_can_emit(with_roles: Database) -> None:
    dsn = login(with_roles, f"app_{secrets.token_hex(4)}", member_of="cdc_outbox_writer")

    emit_event(dsn, InstallOptions().table, NewEvent("order", "1", "Placed", b"{}", '{"k": "v"}'))

    assert rows(with_roles) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT FROM outbox",
        "SELECT id FROM outbox",
        "INSERT INTO outbox (aggregatetype) VALUES ('order')",
        "UPDATE outbox SET type = 'x'",
        "DELETE FROM outbox",
        "TRUNCATE outbox",
        "ALTER TABLE outbox ADD x int",
        "DROP TABLE outbox",
        "DROP PUBLICATION cdc_outbox",
        "DROP FUNCTION outbox_emit(text, text, text, json, jsonb, uuid)",
        "SELECT nextval('outbox_seq_seq')",
        "CREATE TABLE outbox (id int)",
        "SELECT pg_create_logical_replication_slot('x', 'pgoutput')",
    ],
)
def test_the_writer_can_do_nothing_else(with_roles: Database, statement: str) -> None:
    dsn = login(with_roles, f"app_{secrets.token_hex(4)}", member_of="cdc_outbox_writer")
    connection = with_roles.connect(dsn)
    if statement.startswith("CREATE TABLE"):
        # up to 14 everybody may create in public; that the name is taken protects it there
        expected: tuple[type[psycopg.Error], ...] = (
            psycopg.errors.InsufficientPrivilege,
            psycopg.errors.DuplicateTable,
        )
    else:
        expected = (psycopg.errors.InsufficientPrivilege,)

    with pytest.raises(expected):
        connection.execute(statement.encode())


def test_the_function_ignores_the_search_path_of_its_caller(with_roles: Database) -> None:
    dsn = login(with_roles, f"app_{secrets.token_hex(4)}", member_of="cdc_outbox_writer")
    connection = with_roles.connect(dsn)
    connection.execute(
        "CREATE TEMP TABLE outbox (id uuid, aggregatetype text, aggregateid text, type text, payload json, headers jsonb)"
    )
    connection.execute("SET search_path = pg_temp, public")

    connection.execute("SELECT public.outbox_emit('order', '1', 'Placed', '{}')")

    assert rows(with_roles) == 1
    assert with_roles.execute("SELECT prosecdef, proconfig FROM pg_proc WHERE proname = 'outbox_emit' ORDER BY 1") == [
        *[(False, ["search_path=pg_catalog, pg_temp"])] * 2,
        (True, ["search_path=pg_catalog, pg_temp"]),
    ]


def test_a_role_without_the_grant_may_not_emit_and_gets_the_cure(with_roles: Database) -> None:
    role = 'some "app"'
    dsn = login(with_roles, role)
    event = NewEvent("order", "1", "Placed", b"{}")

    with pytest.raises(AccessRefused) as refusal:
        emit_event(dsn, InstallOptions().table, event)
    assert 'GRANT cdc_outbox_writer TO "some ""app"""' in refusal.value.cure

    grants = refusal.value.cure.split("; or ")[1]
    with_roles.execute(grants)
    emit_event(dsn, InstallOptions().table, event)
    assert rows(with_roles) == 1


def test_the_relay_streams_from_a_slot_of_its_own_making(with_roles: Database, slot_name: str) -> None:
    dsn = login(with_roles, "cdc_outbox_relay")

    with streaming(dsn, slot_name, create=True) as stream:
        with_roles.execute("SELECT outbox_emit('order', '1', 'StreamedToTheRelay', '{}')")
        stream_until(stream, b"StreamedToTheRelay")


def test_the_relay_streams_without_any_privilege_on_the_table(with_roles: Database, slot_name: str) -> None:
    with_roles.execute("REVOKE ALL ON TABLE outbox FROM cdc_outbox_relay")
    dsn = login(with_roles, "cdc_outbox_relay")

    with streaming(dsn, slot_name, create=True) as stream:
        with_roles.execute("SELECT outbox_emit('order', '1', 'StreamedToTheRelay', '{}')")
        stream_until(stream, b"StreamedToTheRelay")


def test_the_relay_reads_the_outbox_and_no_other_table(with_roles: Database) -> None:
    with_roles.execute("CREATE TABLE customers (id int)")
    connection = with_roles.connect(login(with_roles, "cdc_outbox_relay"))

    assert connection.execute("SELECT count(*) FROM outbox").fetchone() == (0,)
    for statement in (
        "SELECT FROM customers",
        "INSERT INTO outbox (aggregatetype) VALUES ('order')",
        "DELETE FROM outbox",
        "SELECT outbox_emit('order', '1', 'Placed', '{}')",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_the_pruner_deletes_and_does_not_write(with_roles: Database) -> None:
    with_roles.execute("SELECT outbox_emit('order', '1', 'Placed', '{}')")
    connection = with_roles.connect(login(with_roles, f"p_{secrets.token_hex(4)}", member_of="cdc_outbox_pruner"))

    assert connection.execute("DELETE FROM outbox WHERE seq <= 1 RETURNING seq").fetchall() == [(1,)]
    for statement in (
        "UPDATE outbox SET type = 'x'",
        "SELECT outbox_emit('order', '1', 'Placed', '{}')",
        "TRUNCATE outbox",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())


def test_where_there_is_rds_replication_it_takes_the_place_of_the_attribute(installed: Database) -> None:
    installed.execute("CREATE ROLE rds_replication")

    apply_roles(installed.dsn, InstallOptions(), unexpected)

    assert installed.execute(
        "SELECT rolreplication, pg_has_role(oid, 'rds_replication', 'MEMBER') FROM pg_roles"
        " WHERE rolname = 'cdc_outbox_relay'"
    ) == [(False, True)]


def test_an_owner_without_create_on_the_database_gets_the_cure(database: Database) -> None:
    role = f"owner_{secrets.token_hex(4)}"
    dsn = login(database, role)
    database.execute(f"CREATE SCHEMA app AUTHORIZATION {role}")
    options = InstallOptions(table=TableName("app", "outbox"))

    with pytest.raises(AccessRefused, match="database") as refusal:
        apply_install(dsn, options, unexpected)
    assert "GRANT CREATE ON DATABASE" in refusal.value.cure
    assert not read_installation(database.dsn, options).table

    database.execute(f"GRANT CREATE ON DATABASE {database.name} TO {role}")
    apply_install(dsn, options, unexpected)
    database.execute(f"REVOKE CREATE ON DATABASE {database.name} FROM {role}")
    apply_install(dsn, options, unexpected)
    assert read_installation(dsn, options).complete


def test_roles_need_an_administrator_and_objects_that_are_there(database: Database) -> None:
    dsn = login(database, f"nobody_{secrets.token_hex(4)}")

    with pytest.raises(AccessRefused) as refusal:
        apply_roles(dsn, InstallOptions(), unexpected)
    assert "superuser" in refusal.value.cure
    with pytest.raises(ConfigurationError, match="outbox") as absence:
        apply_roles(database.dsn, InstallOptions(), unexpected)
    assert absence.value.cure == "first cdc-outbox sql install --apply"
    assert database.execute("SELECT count(*) FROM pg_roles WHERE rolname ~ '^cdc_outbox'") == [(0,)]


def test_without_wal_level_logical_the_servers_warning_is_passed_on(
    own_postgres: Callable[..., PostgresServer],
) -> None:
    database = own_postgres(settings={"wal_level": "replica"}).create_database()
    warnings: list[str] = []

    apply_install(database.dsn, InstallOptions(), warnings.append)

    if database.server.version < 190000:
        assert len(warnings) == 1
        assert "wal_level" in warnings[0]
    database.drop()


# --- status ------------------------------------------------------------------------------------------------------------

NOTHING = Installation(
    table=False,
    version=None,
    payload_type=None,
    function=False,
    keys=False,
    publication=False,
    published=False,
    delete_after_insert=False,
    options_as_installed=None,
    roles=frozenset(),
)


def test_status_reports_before_and_after(database: Database) -> None:
    options = InstallOptions()
    assert read_installation(database.dsn, options) == NOTHING
    assert not NOTHING.complete

    apply_install(database.dsn, options, unexpected)
    apply_roles(database.dsn, options, unexpected)

    found = read_installation(database.dsn, options)
    assert found == Installation(
        table=True,
        version=SQL_VERSION,
        payload_type="json",
        function=True,
        keys=True,
        publication=True,
        published=True,
        delete_after_insert=False,
        options_as_installed=True,
        roles=frozenset(ROLES),
    )
    assert found.complete


@pytest.mark.parametrize(
    "damage",
    [
        "DROP FUNCTION outbox_emit(text, text, text, json, jsonb, uuid)",
        "DROP FUNCTION outbox_emit(text, uuid, text, json, jsonb, uuid)",
        "DROP PUBLICATION cdc_outbox",
        "ALTER PUBLICATION cdc_outbox DROP TABLE outbox",
        "ALTER PUBLICATION cdc_outbox SET (publish = 'insert, update')",
        "COMMENT ON TABLE outbox IS NULL",
    ],
)
def test_status_reports_missing_objects_and_install_repairs_them(installed: Database, damage: str) -> None:
    installed.execute(damage)
    assert not read_installation(installed.dsn, InstallOptions()).complete

    apply_install(installed.dsn, InstallOptions(), unexpected)

    assert read_installation(installed.dsn, InstallOptions()).complete


def test_status_needs_no_privilege_at_all(with_roles: Database) -> None:
    dsn = login(with_roles, f"nobody_{secrets.token_hex(4)}")

    assert read_installation(dsn, InstallOptions()).complete


# --- uninstall ---------------------------------------------------------------------------------------------------------


def test_uninstall_takes_slot_publication_and_function_and_leaves_the_rows(
    with_roles: Database, slot_name: str
) -> None:
    make_slot(with_roles, slot_name)
    with_roles.execute("SELECT outbox_emit('order', '1', 'Placed', '{}')")

    for _ in range(2):
        apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), unexpected)

    found = read_installation(with_roles.dsn, InstallOptions())
    assert not slot_exists(with_roles, slot_name)
    assert (found.table, found.publication, found.function, found.roles) == (True, False, False, frozenset(ROLES))
    assert rows(with_roles) == 1


def test_uninstall_drops_table_and_roles_on_request(with_roles: Database, slot_name: str) -> None:
    make_slot(with_roles, slot_name)
    with_roles.execute("GRANT INSERT, SELECT (id) ON outbox TO cdc_outbox_writer")

    for _ in range(2):
        apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), unexpected, drop_table=True, drop_roles=True)

    assert read_installation(with_roles.dsn, InstallOptions()) == NOTHING
    assert not slot_exists(with_roles, slot_name)


def test_roles_can_go_while_the_table_stays(with_roles: Database, slot_name: str) -> None:
    with_roles.execute("GRANT INSERT, SELECT (id) ON outbox TO cdc_outbox_writer")

    apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), unexpected, drop_roles=True)

    found = read_installation(with_roles.dsn, InstallOptions())
    assert (found.table, found.roles) == (True, frozenset())


def test_a_role_with_privileges_elsewhere_stays_and_is_reported(with_roles: Database, slot_name: str) -> None:
    with_roles.execute("CREATE TABLE customers (id int); GRANT SELECT ON customers TO cdc_outbox_relay")
    warnings: list[str] = []

    apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), warnings.append, drop_roles=True)

    assert len(warnings) == 1
    assert "role cdc_outbox_relay stays" in warnings[0]
    assert "table public.customers" in warnings[0]
    assert read_installation(with_roles.dsn, InstallOptions()).roles == {"cdc_outbox_relay"}


def test_uninstall_is_refused_while_a_relay_streams_and_nothing_is_done(with_roles: Database, slot_name: str) -> None:
    make_slot(with_roles, slot_name)
    before = catalog(with_roles)

    with streaming(with_roles.dsn, slot_name), pytest.raises(SlotBusy, match=f"slot {slot_name} is active") as refusal:
        apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), unexpected, drop_table=True, drop_roles=True)

    assert refusal.value.cure == "stop the relay, then run this again"
    assert slot_exists(with_roles, slot_name)
    assert catalog(with_roles) == before


def test_the_slot_is_gone_even_if_what_follows_it_fails(with_roles: Database, slot_name: str) -> None:
    make_slot(with_roles, slot_name)
    with_roles.execute("CREATE VIEW v AS SELECT outbox_emit('a', 'b', 'c', '{}')")

    with pytest.raises(ConfigurationError, match="depend"):
        apply_uninstall(with_roles.dsn, InstallOptions(slot=slot_name), unexpected)

    assert not slot_exists(with_roles, slot_name)
    assert read_installation(with_roles.dsn, InstallOptions()).complete


def test_a_slot_of_another_database_or_plugin_is_not_touched(installed: Database, slot_name: str) -> None:
    options = InstallOptions(slot=slot_name)
    other = installed.server.create_database()
    make_slot(other, slot_name)

    with pytest.raises(ConfigurationError, match=f"belongs to database {other.name}"):
        apply_uninstall(installed.dsn, options, unexpected)
    assert slot_exists(installed, slot_name)
    other.drop()

    installed.execute("SELECT pg_create_physical_replication_slot(%s)", [slot_name])
    with pytest.raises(ConfigurationError, match="its plugin is none"):
        apply_uninstall(installed.dsn, options, unexpected)
    installed.execute("SELECT pg_drop_replication_slot(%s)", [slot_name])
    assert read_installation(installed.dsn, options).complete


def test_where_another_table_is_relayed_too_publication_and_slot_stay(installed: Database, slot_name: str) -> None:
    orders = InstallOptions(table=TableName("public", "orders"), slot=slot_name)
    apply_install(installed.dsn, orders, unexpected)
    make_slot(installed, slot_name)
    warnings: list[str] = []

    apply_uninstall(installed.dsn, orders, warnings.append, drop_table=True)

    assert len(warnings) == 1
    assert "other tables too" in warnings[0]
    assert slot_exists(installed, slot_name)
    assert read_installation(installed.dsn, InstallOptions()).complete
    assert not read_installation(installed.dsn, orders).table


def test_uninstall_of_nothing_does_nothing(database: Database, slot_name: str) -> None:
    options = InstallOptions(table=TableName("no schema", "no table"), slot=slot_name)

    apply_uninstall(database.dsn, options, unexpected, drop_table=True, drop_roles=True)

    assert read_installation(database.dsn, options) == NOTHING


def test_the_printed_uninstall_runs_in_the_transaction_of_the_caller(installed: Database, slot_name: str) -> None:
    make_slot(installed, slot_name)
    connection = installed.connect(autocommit=False)
    connection.execute("SELECT outbox_emit('order', '1', 'Placed', '{}')")

    connection.execute(render_uninstall(InstallOptions(slot=slot_name), drop_table=True).encode())
    connection.commit()

    assert read_installation(installed.dsn, InstallOptions()) == NOTHING
    assert not slot_exists(installed, slot_name)
