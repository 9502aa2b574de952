"""TLS on both sides, against real servers: what is right streams; what is wrong ends at start, with words and a cure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdc_outbox.errors import CannotConnect
from cdc_outbox.postgres import connect, conninfo
from tests.plugins.outbox import SLOT, ended
from tests.servers import secure_kafka as kafka
from tests.servers import secure_postgres as postgres
from tests.servers.certificates import ELSEWHERE

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.outbox import Outbox
    from tests.plugins.secure import TlsOutbox
    from tests.servers.certificates import Authority
    from tests.servers.secure_kafka import SecureKafka
    from tests.servers.secure_postgres import SecurePostgres

NO_SUCH_CA = "it must not have expired"
"""Of the cure for a certificate that does not verify, whatever the reason: neither libpq nor librdkafka tells which."""

# -- PostgreSQL


def test_a_stream_over_tls_with_the_server_verified(tls_outbox: TlsOutbox) -> None:
    tls_outbox.create_slot()
    sent = tls_outbox.add()
    relay = tls_outbox.streaming()
    [record] = tls_outbox.records(1)
    assert record.header("id") == sent.encode()
    encrypted = tls_outbox.database.execute(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_replication_slots ON pid = active_pid WHERE slot_name = %s", [SLOT]
    )
    assert encrypted == [(True,)]
    relay.terminate()
    assert relay.wait() == 0


def test_a_certificate_of_another_authority_is_78(tls_outbox: TlsOutbox, stranger: Authority, tmp_path: Path) -> None:
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(sslrootcert=stranger.write(tmp_path / "stranger.pem")))
    ended(relay, 78, "the server's certificate does not verify", NO_SUCH_CA)


def test_a_certificate_for_another_host_is_78(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority
) -> None:
    secure_postgres.show(authority.issue(*ELSEWHERE), clients=authority)
    ended(tls_outbox.relay(), 78, "the server's certificate does not verify", ELSEWHERE[0], "localhost")


def test_an_expired_certificate_is_78(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority
) -> None:
    secure_postgres.show(authority.issue(expired=True), clients=authority)
    ended(tls_outbox.relay(), 78, "the server's certificate does not verify", NO_SUCH_CA)


def test_a_file_of_authorities_that_is_not_there_is_78(tls_outbox: TlsOutbox, tmp_path: Path) -> None:
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(sslrootcert=tmp_path / "none.pem"))
    ended(relay, 78, "there is no CA to verify the server's certificate with", "none.pem", "sslrootcert=system")


def test_a_wrong_password_is_77(tls_outbox: TlsOutbox) -> None:
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(password="not-the-right-word"))
    ended(relay, 77, "password authentication failed", "CDC_OUTBOX_DSN_FILE")


def test_a_server_that_requires_tls_refuses_a_relay_without_it_with_77(tls_outbox: TlsOutbox) -> None:
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(sslmode="disable", sslrootcert=""))
    ended(relay, 77, "pg_hba.conf", "no encryption", "hostssl")


def test_a_relay_that_requires_tls_refuses_a_server_without_it_with_78(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres
) -> None:
    secure_postgres.hide(postgres.ADMIT_PLAIN)
    ended(tls_outbox.relay(), 78, "the server has no TLS")


def test_system_roots_are_those_that_SSL_CERT_FILE_names(tls_outbox: TlsOutbox) -> None:  # noqa: N802 - its name
    tls_outbox.create_slot()
    sent = tls_outbox.add()
    dsn = tls_outbox.dsn(sslrootcert="system")
    tls_outbox.drain(dsn=dsn, env={"SSL_CERT_FILE": str(tls_outbox.ca)})
    assert list(tls_outbox.records_by_id()) == [sent]


def test_system_roots_are_found_where_this_system_keeps_them(
    tls_outbox: TlsOutbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A test cannot write to /etc: it names its own bundle among the usual places."""
    monkeypatch.setattr(conninfo, "CA_BUNDLES", (str(tmp_path / "not-there.pem"), str(tls_outbox.ca)))
    monkeypatch.setenv("SSL_CERT_FILE", "")  # and back to what it was, after the test
    with connect.open_connection(tls_outbox.dsn(sslrootcert="system")) as connection:
        assert connection.pgconn.ssl_in_use
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("PGSSLROOTCERT", "system")
    with connect.open_connection(tls_outbox.dsn(sslrootcert="")) as connection:
        assert connection.pgconn.ssl_in_use


def test_system_roots_of_the_environment_are_kept(
    tls_outbox: TlsOutbox, stranger: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(conninfo, "CA_BUNDLES", (str(tls_outbox.ca),))
    monkeypatch.setenv("SSL_CERT_FILE", str(stranger.write(tmp_path / "stranger.pem")))
    with (
        pytest.raises(CannotConnect, match="does not verify"),
        connect.open_connection(tls_outbox.dsn(sslrootcert="system")),
    ):
        pytest.fail("connected")


def test_at_least_one_of_the_usual_places_is_this_systems() -> None:
    """Where no CAs are installed at all (a bare container), there is nothing to find."""
    found = [bundle for bundle in conninfo.CA_BUNDLES if conninfo.Path(bundle).is_file()]
    if not found:
        pytest.skip("this system has no bundle of CAs")
    assert "BEGIN CERTIFICATE" in conninfo.Path(found[0]).read_text(encoding="utf-8")


def test_a_client_certificate_is_as_good_as_a_password(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority, tmp_path: Path
) -> None:
    secure_postgres.show(authority.issue(), clients=authority, admit=postgres.ADMIT_BY_CERTIFICATE)
    chain, key = authority.issue("relay.example.internal", common_name=postgres.USER).write(tmp_path, "client")
    tls_outbox.create_slot()
    sent = tls_outbox.add()
    tls_outbox.drain(dsn=tls_outbox.dsn(password="", sslcert=chain, sslkey=key))
    assert list(tls_outbox.records_by_id()) == [sent]


def test_a_client_certificate_that_is_missing_is_77(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority
) -> None:
    secure_postgres.show(authority.issue(), clients=authority, admit=postgres.ADMIT_BY_CERTIFICATE)
    ended(tls_outbox.relay(dsn=tls_outbox.dsn(password="")), 77, "requires a valid client certificate", "sslcert=FILE")


def test_a_client_certificate_of_another_authority_is_78(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority, stranger: Authority, tmp_path: Path
) -> None:
    secure_postgres.show(authority.issue(), clients=authority, admit=postgres.ADMIT_BY_CERTIFICATE)
    chain, key = stranger.issue("relay.example.internal", common_name=postgres.USER).write(tmp_path, "client")
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(password="", sslcert=chain, sslkey=key))
    ended(relay, 78, "PostgreSQL ends the TLS handshake", "unknown ca", "sslcert")


def test_a_client_key_that_others_can_read_is_78(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority, tmp_path: Path
) -> None:
    secure_postgres.show(authority.issue(), clients=authority, admit=postgres.ADMIT_BY_CERTIFICATE)
    chain, key = authority.issue("relay.example.internal", common_name=postgres.USER).write(tmp_path, "client")
    key.chmod(0o644)
    relay = tls_outbox.relay(dsn=tls_outbox.dsn(password="", sslcert=chain, sslkey=key))
    ended(relay, 78, "the client certificate cannot be used", "client.key", "chmod 600")


def test_a_certificate_that_expires_under_a_running_relay_is_waited_for(
    tls_outbox: TlsOutbox, secure_postgres: SecurePostgres, authority: Authority
) -> None:
    tls_outbox.create_slot()
    relay = tls_outbox.streaming()
    secure_postgres.show(authority.issue(expired=True), clients=authority)
    tls_outbox.database.execute("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active")
    relay.wait_for_log("waiting", error=relay.wait_for_log("waiting")["error"], nth=1)
    assert "does not verify" in relay.log_lines("waiting")[0]["error"]
    sent = tls_outbox.add()
    secure_postgres.show(authority.issue(), clients=authority)
    relay.wait_for_log("streaming", nth=2)
    assert [record.header("id") for record in tls_outbox.records(1)] == [sent.encode()]


# -- Kafka


def tls(broker: SecureKafka, **properties: object) -> list[str]:
    """Flags for a producer that speaks TLS and trusts the right authority, unless said otherwise."""
    usual = {"security.protocol": "ssl", "ssl.ca.location": broker.ca_path}
    chosen = {**usual, **{name.replace("_", "."): value for name, value in properties.items()}}
    return [flag for name, value in chosen.items() for flag in ("-X", f"{name}={value}")]


def test_records_over_tls_with_the_broker_verified(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    secured.create_slot()
    sent = secured.add()
    secured.drain(*tls(secure_kafka_server), brokers=secure_kafka_server.address("TLS"))
    assert list(secured.records_by_id()) == [sent]


def test_a_broker_of_another_authority_is_78(
    secured: Outbox, secure_kafka_server: SecureKafka, stranger: Authority, tmp_path: Path
) -> None:
    wrong = tls(secure_kafka_server, ssl_ca_location=stranger.write(tmp_path / "stranger.pem"))
    relay = secured.relay(*wrong, brokers=secure_kafka_server.address("TLS"))
    ended(relay, 78, "the broker's certificate does not verify", NO_SUCH_CA)


@pytest.mark.parametrize("listener", ["MISNAMED", "EXPIRED"])
def test_a_broker_for_another_host_or_expired_is_78(
    secured: Outbox, secure_kafka_server: SecureKafka, listener: str
) -> None:
    relay = secured.relay(*tls(secure_kafka_server), brokers=secure_kafka_server.address(listener))
    ended(relay, 78, "the broker's certificate does not verify", NO_SUCH_CA)


def test_a_file_of_authorities_for_kafka_that_is_not_there_is_78(
    secured: Outbox, secure_kafka_server: SecureKafka, tmp_path: Path
) -> None:
    missing = tls(secure_kafka_server, ssl_ca_location=tmp_path / "none.pem")
    ended(secured.relay(*missing, brokers=secure_kafka_server.address("TLS")), 78, "ssl.ca.location", "PEM")


def test_a_client_certificate_that_the_broker_requires(
    secured: Outbox, secure_kafka_server: SecureKafka, authority: Authority, tmp_path: Path
) -> None:
    chain, key = authority.issue("relay.example.internal", common_name=kafka.USER).write(tmp_path, "client")
    secure_kafka_server.grant(secured.kafka.create_topic(f"{secured.prefix}order"))
    secured.create_slot()
    sent = secured.add()
    certified = tls(secure_kafka_server, ssl_certificate_location=chain, ssl_key_location=key)
    secured.drain(*certified, brokers=secure_kafka_server.address("MUTUAL"))
    assert list(secured.records_by_id()) == [sent]


def test_a_client_certificate_that_the_broker_misses_is_78(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    relay = secured.relay(*tls(secure_kafka_server), brokers=secure_kafka_server.address("MUTUAL"))
    ended(relay, 78, "the broker ends the TLS handshake", "ssl.certificate.location")


def test_without_tls_to_a_listener_that_requires_it_is_69_and_names_the_setting(
    secured: Outbox, secure_kafka_server: SecureKafka
) -> None:
    relay = secured.relay("--startup-timeout", "3", brokers=secure_kafka_server.address("TLS"))
    ended(relay, 69, "closes each connection", "security.protocol")


def test_tls_to_a_listener_without_it_is_69_and_names_the_setting(
    secured: Outbox, secure_kafka_server: SecureKafka
) -> None:
    relay = secured.relay("--startup-timeout", "3", *tls(secure_kafka_server))
    ended(relay, 69, "PLAINTEXT broker listener", "security.protocol")
