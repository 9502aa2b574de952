"""SASL and ACLs of a real Apache Kafka: who may log in, who may write, and what a relay says that may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from confluent_kafka.admin import AclOperation

from tests.faults.acts import QUICK_RECONNECT
from tests.plugins.outbox import ended, ids
from tests.servers.secure_kafka import PLAIN_PASSWORD, POWERLESS, SCRAM_PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.outbox import Outbox
    from tests.servers.secure_kafka import SecureKafka

MECHANISMS = {"SCRAM": "SCRAM-SHA-512", "PLAIN": "PLAIN"}
PASSWORDS = {"SCRAM": SCRAM_PASSWORD, "PLAIN": PLAIN_PASSWORD}
WRONG = "not-the-right-word"


def login(broker: SecureKafka, mechanism: str, **properties: object) -> list[str]:
    """Flags for a producer that logs in as the user; its password comes by the environment."""
    usual = {
        "security.protocol": "sasl_ssl",
        "ssl.ca.location": broker.ca_path,
        "sasl.mechanism": mechanism,
        "sasl.username": USER,
    }
    chosen = {**usual, **{name.replace("_", "."): value for name, value in properties.items()}}
    return [flag for name, value in chosen.items() for flag in ("-X", f"{name}={value}")]


def password(text: str) -> dict[str, str]:
    return {"CDC_OUTBOX_KAFKA_SASL_PASSWORD": text}


@pytest.mark.parametrize("listener", MECHANISMS)
def test_records_of_a_relay_that_logs_in(secured: Outbox, secure_kafka_server: SecureKafka, listener: str) -> None:
    secure_kafka_server.grant(secured.kafka.create_topic(f"{secured.prefix}order"))
    secured.create_slot()
    sent = secured.add()
    secured.drain(
        *login(secure_kafka_server, MECHANISMS[listener]),
        brokers=secure_kafka_server.address(listener),
        env=password(PASSWORDS[listener]),
    )
    assert list(secured.records_by_id()) == [sent]


@pytest.mark.parametrize("listener", MECHANISMS)
def test_a_wrong_password_is_77(secured: Outbox, secure_kafka_server: SecureKafka, listener: str) -> None:
    relay = secured.relay(
        *login(secure_kafka_server, MECHANISMS[listener]),
        brokers=secure_kafka_server.address(listener),
        env=password(WRONG),
    )
    ended(relay, 77, "Kafka refuses the login", "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE")
    assert WRONG not in relay.stderr_text


def test_no_password_at_all_is_78(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    relay = secured.relay(*login(secure_kafka_server, "SCRAM-SHA-512"), brokers=secure_kafka_server.address("SCRAM"))
    ended(relay, 78, "sasl.password", "CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE")


def test_a_mechanism_that_the_broker_does_not_have_is_77_and_names_those_it_has(
    secured: Outbox, secure_kafka_server: SecureKafka
) -> None:
    relay = secured.relay(
        *login(secure_kafka_server, "PLAIN"), brokers=secure_kafka_server.address("SCRAM"), env=password(WRONG)
    )
    ended(relay, 77, "another SASL mechanism", "supported mechanisms: SCRAM-SHA-512")


def test_sasl_where_there_is_none_is_77_and_names_the_cause(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    relay = secured.relay(
        *login(secure_kafka_server, "PLAIN"), brokers=secure_kafka_server.address("TLS"), env=password(WRONG)
    )
    ended(relay, 77, "has no SASL", "security.protocol=ssl")


def test_no_sasl_where_there_is_one_is_69_and_names_the_setting(
    secured: Outbox, secure_kafka_server: SecureKafka
) -> None:
    tls_only = ["-X", "security.protocol=ssl", "-X", f"ssl.ca.location={secure_kafka_server.ca_path}"]
    relay = secured.relay("--startup-timeout", "3", *tls_only, brokers=secure_kafka_server.address("SCRAM"))
    ended(relay, 69, "Kafka cannot be reached", "security.protocol")


def test_no_mechanism_chosen_is_78_and_names_some(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    """librdkafka's default is GSSAPI, which the wheel does not have."""
    relay = secured.relay("-X", "security.protocol=sasl_ssl", brokers=secure_kafka_server.address("SCRAM"))
    ended(relay, 78, "SCRAM-SHA-512")


def relay_of(outbox: Outbox, broker: SecureKafka, user: str = USER) -> Relay:
    return outbox.relay(
        *login(broker, "SCRAM-SHA-512", sasl_username=user),
        brokers=broker.address("SCRAM"),
        env=password(SCRAM_PASSWORD),
    )


@pytest.mark.parametrize("granted", [(), (AclOperation.DESCRIBE,)], ids=["nothing granted", "describe granted"])
def test_a_topic_without_an_acl_is_77_and_named_and_nothing_is_lost(
    secured: Outbox, secure_kafka_server: SecureKafka, granted: tuple[AclOperation, ...]
) -> None:
    """The user may write to some other topic, so the producer starts; this one is refused."""
    secure_kafka_server.grant(secured.kafka.create_topic(f"{secured.prefix}elsewhere"))
    topic = secured.kafka.create_topic(f"{secured.prefix}order")
    if granted:
        secure_kafka_server.grant(topic, *granted)
    secured.create_slot()
    sent = secured.add()
    ended(relay_of(secured, secure_kafka_server), 77, "does not let us write", f"--producer --topic {topic}")
    assert secured.records() == []
    secure_kafka_server.grant(topic)
    relay = relay_of(secured, secure_kafka_server)
    assert [record.header("id") for record in secured.records(1)] == [sent.encode()]
    relay.terminate()
    assert relay.wait() == 0


def test_a_user_without_any_acl_is_77(secured: Outbox, secure_kafka_server: SecureKafka) -> None:
    """Such a producer does not even get its idempotent id; whether Kafka says that first, or that the topic is not ours."""
    topic = secured.kafka.create_topic(f"{secured.prefix}order")
    secured.create_slot()
    secured.add()
    said = ended(relay_of(secured, secure_kafka_server, POWERLESS), 77, "--producer --topic")
    assert "write to no topic at all" in said["error"] or topic in said["cure"], said


@pytest.fixture
def password_restored(secure_kafka_server: SecureKafka) -> Iterator[None]:
    """The broker is the session's: other tests log in too."""
    yield
    secure_kafka_server.set_password(SCRAM_PASSWORD)


@pytest.mark.usefixtures("password_restored")
def test_a_password_that_changes_under_a_running_relay_is_read_again(
    secured: Outbox, secure_kafka_server: SecureKafka, tmp_path: Path
) -> None:
    secure_kafka_server.grant(secured.kafka.create_topic(f"{secured.prefix}order"))
    secured.create_slot()
    secret = tmp_path / "sasl-password"
    secret.write_text(f"{SCRAM_PASSWORD}\n", encoding="utf-8")
    relay = secured.streaming(
        *login(secure_kafka_server, "SCRAM-SHA-512"),
        *QUICK_RECONNECT,
        brokers=secure_kafka_server.address("SCRAM"),
        env={"CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(secret)},
    )
    sent = [secured.add()]
    secured.records(1)
    secure_kafka_server.set_password("scram-hyacinth-19")
    secure_kafka_server.cut_logins()
    relay.wait_for_log("kafka.error", kafka_error="_AUTHENTICATION")
    sent.append(secured.add())
    secret.write_text("scram-hyacinth-19\n", encoding="utf-8")
    assert ids(secured.records(2, timeout=60.0)) == sent
    relay.terminate()
    assert relay.wait() == 0
