"""A real PostgreSQL: one server for the session, one fresh database for each test, and servers of a test's own.

`CDC_OUTBOX_TEST_DSN` (a superuser's) names a server that runs already; without it one is started from the binaries that
`cdc_outbox.demo.binaries` finds (`CDC_OUTBOX_POSTGRES_BIN` chooses them).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from functools import cache
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdc_outbox.demo.binaries import find_binaries, server_version
from cdc_outbox.demo.postgres import EmbeddedPostgres
from cdc_outbox.errors import ConfigurationError
from tests.plugins.absence import absent
from tests.servers.place import data_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

ENVIRONMENT: Final = "CDC_OUTBOX_TEST_DSN"
RELEASE_SECONDS: Final = 10.0
"""How long a terminated walsender may take to let go of its slot."""

STRATEGY_SINCE: Final = 150000
"""server_version_num from which a database can be made by copying files: where nothing is flushed, 40 ms instead of 190."""

Row = tuple[Any, ...]


class Database:
    """A fresh database. Its connections, slots and (on a server of ours) the roles made meanwhile go with it."""

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server = server
        self.name = name
        self._open = contextlib.ExitStack()

    @property
    def dsn(self) -> str:
        """Conninfo of the superuser. Asked for each time: a server that was moved has another one."""
        return self.server.dsn_for(dbname=self.name)

    def dsn_for(self, user: str, password: str) -> str:
        """Conninfo of another role. The server asks for passwords."""
        return self.server.dsn_for(dbname=self.name, user=user, password=password)

    def connect(self, dsn: str | None = None, **options: Any) -> psycopg.Connection[Row]:
        """An autocommit connection (unless `autocommit=False`), closed after the test at the latest."""
        connection = psycopg.connect(dsn or self.dsn, **{"autocommit": True, **options})
        return self._open.enter_context(contextlib.closing(connection))

    def execute(self, query: str, params: Sequence[Any] | dict[str, Any] | None = None) -> list[Row]:
        """One statement, committed, on a connection of its own. The rows, or an empty list. Several statements: no params."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), params)  # bytes: a test's own text, no literal
            return cursor.fetchall() if cursor.description else []

    def drop(self) -> None:
        """Terminate everybody, drop the slots, drop the database."""
        self._open.close()
        with self.server.administration() as admin:
            _drop_slots(admin, self.name)
            admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(self.name)))


class PostgresServer:
    """A server, ours (`embedded`) or somebody else's. `steady`: nobody stops it, or waits until its last client goes."""

    def __init__(self, dsn: str, embedded: EmbeddedPostgres | None = None, *, steady: bool = False) -> None:
        self._dsn = dsn
        self.embedded = embedded
        self._steady = steady
        self._kept: psycopg.Connection[Row] | None = None

    @property
    def dsn(self) -> str:
        """Conninfo of the superuser."""
        return self.embedded.dsn if self.embedded else self._dsn

    def dsn_for(self, **parts: str) -> str:
        """The same with other parts: dbname, user, password, …"""
        return make_conninfo(self.dsn, **parts)

    def connect(self) -> psycopg.Connection[Row]:
        """An autocommit connection of the superuser; close it."""
        return psycopg.connect(self.dsn, autocommit=True)

    @contextlib.contextmanager
    def administration(self) -> Iterator[psycopg.Connection[Row]]:
        """The same, for what is done around each test: to a steady server one connection that stays open."""
        if not self._steady:
            with self.connect() as admin:
                yield admin
            return
        if self._kept is None or self._kept.closed:
            self._kept = self.connect()
        yield self._kept

    def close(self) -> None:
        """Close what was kept open."""
        if self._kept is not None:
            self._kept.close()

    @property
    def version(self) -> int:
        """`server_version_num`: 180006."""
        with self.connect() as admin:
            return admin.info.server_version

    def create_database(self, options: str = "") -> Database:
        """`options` is what may follow CREATE DATABASE name: `TEMPLATE template0 ENCODING 'LATIN1'`."""
        name = f"t_{uuid.uuid4().hex[:12]}"
        with self.administration() as admin:
            if admin.info.server_version >= STRATEGY_SINCE:
                options = f"{options or 'TEMPLATE template0'} STRATEGY FILE_COPY"
            admin.execute(f"CREATE DATABASE {name} {options}".encode())
        return Database(self, name)


def _drop_slots(admin: psycopg.Connection[Row], database: str) -> None:
    deadline = time.monotonic() + RELEASE_SECONDS
    of_database = "FROM pg_replication_slots WHERE database = %s"
    while True:
        admin.execute(f"SELECT pg_terminate_backend(active_pid) {of_database} AND active", [database])
        with contextlib.suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
            admin.execute(f"SELECT pg_drop_replication_slot(slot_name) {of_database} AND NOT temporary", [database])
        if admin.execute(f"SELECT 1 {of_database}", [database]).fetchone() is None:
            return
        if time.monotonic() > deadline:
            pytest.fail(f"a replication slot of database {database} is not let go")
        time.sleep(0.05)


def _roles(admin: psycopg.Connection[Row]) -> set[str]:
    return {name for (name,) in admin.execute("SELECT rolname FROM pg_roles").fetchall()}


@contextlib.contextmanager
def _roles_restored(server: PostgresServer) -> Iterator[None]:
    """Roles belong to the whole server: those that a test made are dropped, unless the server is shared with others."""
    if server.embedded is None:
        yield
        return
    with server.administration() as admin:
        before = _roles(admin)
    yield
    with server.administration() as admin:
        for role in _roles(admin) - before:
            admin.execute(sql.SQL("DROP OWNED BY {0}").format(sql.Identifier(role)))
            admin.execute(sql.SQL("DROP ROLE {0}").format(sql.Identifier(role)))


def _embedded(**options: Any) -> EmbeddedPostgres:
    try:
        return EmbeddedPostgres(parent=data_folder(), **options)
    except ConfigurationError as error:
        reason = f"{error} ({error.cure}, or a superuser's DSN in {ENVIRONMENT})"
    return absent(reason)


@pytest.fixture(scope="session")
def postgres_binaries() -> Path:
    """The folder with `initdb`, `postgres` and the client programs (`pg_recvlogical`)."""
    try:
        return find_binaries()
    except ConfigurationError as error:
        reason = f"{error} ({error.cure})"
    return absent(reason)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The session's server. Tests that stop it, kill it or change its settings take `own_postgres`."""
    if dsn := os.environ.get(ENVIRONMENT):
        with contextlib.closing(PostgresServer(dsn, steady=True)) as server:
            yield server
        return
    with _embedded() as embedded, contextlib.closing(PostgresServer(embedded.dsn, embedded, steady=True)) as server:
        yield server


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """A fresh database on the session's server."""
    with _roles_restored(postgres_server):
        fresh = postgres_server.create_database()
        yield fresh
        fresh.drop()


@pytest.fixture
def own_postgres() -> Iterator[Callable[..., PostgresServer]]:
    """Starts servers of the test's own: `own_postgres(settings={"wal_level": "replica"})`. Half a second each."""
    with contextlib.ExitStack() as servers:

        def start(**options: Any) -> PostgresServer:
            embedded = servers.enter_context(_embedded(**options))
            return PostgresServer(embedded.dsn, embedded)

        yield start


@cache
def _major() -> int:
    """The major version of the session's server."""
    if dsn := os.environ.get(ENVIRONMENT):
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            return connection.info.server_version // 10000
    return int(server_version(find_binaries()).partition(".")[0])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what the server's version does not have yet: docs/how-to/upgrade.md lists what that is."""
    for marker in item.iter_markers("since_postgres"):
        if _major() < marker.args[0]:
            pytest.skip(f"what this is about exists since PostgreSQL {marker.args[0]}")


def pytest_report_header() -> list[str]:
    """Which server and which libpq are under test."""
    libpq = psycopg.pq.version()
    client = f"libpq {libpq // 10000}.{libpq % 10000} (psycopg {psycopg.__version__}, {psycopg.pq.__impl__})"
    return [f"postgres: {_server_in_words()}, {client}"]


def _server_in_words() -> str:
    if dsn := os.environ.get(ENVIRONMENT):
        try:
            with psycopg.connect(dsn, connect_timeout=5) as connection:
                return f"server {connection.info.parameter_status('server_version')} by {ENVIRONMENT}"
        except psycopg.Error:
            return f"{ENVIRONMENT} does not answer"
    try:
        bin_dir = find_binaries()
    except ConfigurationError:
        return "no server binaries"
    return f"server {server_version(bin_dir)} in {bin_dir}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes a server is marked by it."""
    for item in items:
        if {"postgres_server", "own_postgres", "postgres_binaries"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.postgres)
