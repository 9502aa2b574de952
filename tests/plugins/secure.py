"""Servers with TLS and SASL: one PostgreSQL and one Apache Kafka for the session, and an authority that both are signed by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from psycopg.conninfo import make_conninfo

from cdc_outbox.errors import ConfigurationError
from tests.plugins.absence import absent
from tests.plugins.kafka import KafkaCluster
from tests.plugins.outbox import Outbox
from tests.plugins.postgres import PostgresServer
from tests.servers import secure_postgres as postgres
from tests.servers.certificates import Authority
from tests.servers.kafka import KafkaUnavailable
from tests.servers.place import data_folder
from tests.servers.secure_kafka import SecureKafka
from tests.servers.secure_postgres import SecurePostgres, find_tls_binaries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.postgres import Database


class TlsOutbox(Outbox):
    """An outbox in the PostgreSQL that insists on TLS. Its relay logs in as a role that may stream and read the table."""

    def __init__(self, database: Database, kafka: KafkaCluster, start: Callable[..., Relay], ca: Path) -> None:
        super().__init__(database, kafka, start)
        self.ca = ca
        self.create()
        database.execute(f"GRANT SELECT ON outbox TO {postgres.USER}")

    def dsn(self, **parts: Any) -> str:
        """As the relay is to connect, if nothing else is said. An empty part is left out."""
        usual = {
            "host": "localhost",
            "user": postgres.USER,
            "password": postgres.PASSWORD,
            "sslmode": "verify-full",
            "sslrootcert": str(self.ca),
        }
        chosen = {name: value for name, value in {**usual, **parts}.items() if value}
        return make_conninfo(f"dbname={self.database.name} port={self._port}", **chosen)

    @property
    def _port(self) -> int:
        assert self.database.server.embedded is not None
        return self.database.server.embedded.port

    def relay(self, *arguments: str, **options: Any) -> Relay:
        """As `Outbox.relay`, over TLS unless a dsn says otherwise."""
        return super().relay(*arguments, **{"dsn": self.dsn(), **options})


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Signs what the servers show."""
    return Authority()


@pytest.fixture(scope="session")
def stranger() -> Authority:
    """Signs nothing that anybody should trust."""
    return Authority()


@pytest.fixture(scope="session")
def secure_postgres_server() -> Iterator[SecurePostgres]:
    """The session's PostgreSQL with TLS."""
    try:
        server = SecurePostgres(bin_dir=find_tls_binaries(), parent=data_folder())
    except ConfigurationError as error:
        absent(f"{error} ({error.cure})")
    with server:
        yield server


@pytest.fixture
def secure_postgres(secure_postgres_server: SecurePostgres, authority: Authority) -> SecurePostgres:
    """The same, with a right certificate and passwords asked for, whatever an earlier test made it show."""
    secure_postgres_server.show(authority.issue(), clients=authority)
    return secure_postgres_server


@pytest.fixture
def secure_database(secure_postgres: SecurePostgres) -> Iterator[Database]:
    """A fresh database behind TLS."""
    fresh = PostgresServer(secure_postgres.dsn, secure_postgres).create_database()
    yield fresh
    fresh.drop()


@pytest.fixture
def tls_outbox(
    secure_database: Database,
    kafka: KafkaCluster,
    authority: Authority,
    tmp_path: Path,
    roots_of_nobody: None,
    relay: Callable[..., Relay],
) -> TlsOutbox:
    """An outbox behind TLS, with its table and publication."""
    return TlsOutbox(secure_database, kafka, relay, authority.write(tmp_path / "ca.pem"))


@pytest.fixture(scope="session")
def secure_kafka_server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureKafka]:
    """The session's broker with TLS, SASL and ACLs."""
    try:
        server = SecureKafka(authority, tmp_path_factory.mktemp("secure-kafka"))
    except KafkaUnavailable as error:
        absent(str(error))
    with server:
        yield server


@pytest.fixture
def secure_kafka(secure_kafka_server: SecureKafka) -> KafkaCluster:
    """The same as clients of its plain listener see it; `.server` is the `SecureKafka`."""
    return KafkaCluster(secure_kafka_server.brokers, secure_kafka_server)


@pytest.fixture
def secured(
    database: Database, secure_kafka: KafkaCluster, roots_of_nobody: None, relay: Callable[..., Relay]
) -> Outbox:
    """An outbox with its table, whose records go to the secure broker."""
    outbox = Outbox(database, secure_kafka, relay)
    outbox.create()
    return outbox


@pytest.fixture
def roots_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away a developer's own choice of CAs, which the relay would inherit."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes a server is marked by it."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if "secure_postgres_server" in names:
            item.add_marker(pytest.mark.postgres)
        if "secure_kafka_server" in names:
            item.add_marker(pytest.mark.kafka)
