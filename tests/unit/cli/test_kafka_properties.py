"""Kafka properties from flags, variables, Java's files and TOML: one meaning, nothing dropped, no value shown."""

from __future__ import annotations

import pytest

from cdc_outbox.config import kafka_properties
from cdc_outbox.config.kafka_properties import KafkaProperties, read_properties
from cdc_outbox.config.sources import Chosen
from cdc_outbox.errors import ConfigurationError
from tests.servers.mock_kafka import installed_properties


@pytest.fixture
def java(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "client.properties"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_a_variable_names_its_property_mechanically() -> None:
    kafka = KafkaProperties(
        environ={"CDC_OUTBOX_KAFKA_SASL_USERNAME": "u", "CDC_OUTBOX_KAFKA_SSL_CA_LOCATION": "/ca", "OTHER": "x"}
    )
    assert kafka() == {"sasl.username": "u", "ssl.ca.location": "/ca"}


def test_the_variable_of_the_properties_file_is_not_a_property() -> None:
    assert KafkaProperties(environ={"CDC_OUTBOX_KAFKA_CONFIG": "/x"})() == {}
    with pytest.raises(ConfigurationError, match="CDC_OUTBOX_KAFKA_CONFIG_FILE is not a property"):
        KafkaProperties(environ={"CDC_OUTBOX_KAFKA_CONFIG_FILE": "/x"})()


LINKS = (
    "SERVICE_HOST",
    "SERVICE_PORT",
    "SERVICE_PORT_HTTP",
    "PORT",
    "PORT_9092_TCP",
    "PORT_9092_TCP_ADDR",
    "PORT_9092_TCP_PORT",
    "PORT_9092_TCP_PROTO",
    "PORT_53_UDP",
    "PORT_3868_SCTP_ADDR",
)


@pytest.mark.parametrize(
    "service", ["kafka", "kafka-bootstrap", "kafka-kafka-brokers", "kafka-config", "kafka-sasl-password", "http", ""]
)
def test_the_variables_that_kubernetes_sets_for_a_service_are_left_out(service: str) -> None:
    prefix = f"cdc-outbox-{service}".rstrip("-").upper().replace("-", "_")
    assert KafkaProperties(environ={f"{prefix}_{name}": "tcp://10.0.0.1:9092" for name in LINKS})() == {}


def test_no_property_is_taken_for_a_service_link() -> None:
    for name in installed_properties():
        variable = f"CDC_OUTBOX_KAFKA_{name.upper().replace('.', '_')}"
        assert not kafka_properties._SERVICE_LINK.fullmatch(variable.removeprefix(kafka_properties.PREFIX)), name


def test_a_secret_is_read_from_the_file_that_a_variable_names_at_each_use(tmp_path) -> None:
    file = tmp_path / "password"
    file.write_text("old \n")
    kafka = KafkaProperties(environ={"CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(file)})
    assert kafka() == {"sasl.password": "old "}
    file.write_text("new\r\n")
    assert kafka() == {"sasl.password": "new"}
    file.unlink()
    with pytest.raises(ConfigurationError, match="CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE") as raised:
        kafka()
    assert raised.value.exit_code == 78


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_file_without_a_secret_in_it_is_refused(content: bytes, tmp_path) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="SASL_PASSWORD_FILE"):
        KafkaProperties(environ={"CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(file)})()


def test_a_secret_that_is_given_twice_is_refused(tmp_path) -> None:
    environ = {"CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(tmp_path / "x"), "CDC_OUTBOX_KAFKA_SASL_PASSWORD": "y"}
    with pytest.raises(ConfigurationError, match="both CDC_OUTBOX_KAFKA_SASL_PASSWORD and"):
        KafkaProperties(environ=environ)()


def test_properties_whose_own_name_ends_in_file_are_not_mistaken_for_secret_files() -> None:
    kafka = KafkaProperties(environ={"CDC_OUTBOX_KAFKA_SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_FILE": "/key.pem"})
    assert kafka() == {"sasl.oauthbearer.assertion.private.key.file": "/key.pem"}


def test_brokers_among_the_properties_are_kept_apart() -> None:
    kafka = KafkaProperties(flags=(("metadata.broker.list", "x:1"), ("acks", "all"), ("list", "")))
    assert kafka() == {"acks": "all"}
    assert kafka.brokers(Chosen(None, "default")).value == "x:1"


def test_a_java_file_is_read_as_java_reads_it(java) -> None:
    path = java(
        "# a comment\n! another\n\n"
        "acks=all\n"
        "  linger.ms : 0\n"
        "client.id cdc outbox \n"
        "sasl.password = a=b\\: c\\u00e9\\\\ #d\n"
        "ssl.cipher.suites=ONE,\\\n    TWO\n"
        "empty=\n"
        "debug"
    )
    assert read_properties(path) == {
        "acks": "all",
        "linger.ms": "0",
        "client.id": "cdc outbox ",
        "sasl.password": "a=b: cé\\ #d",
        "ssl.cipher.suites": "ONE,TWO",
        "empty": "",
        "debug": "",
    }


@pytest.mark.parametrize(
    ("text", "line"), [("a=b\nsasl.password=hun\\ter2\\x\n", 2), ("=hunter2", 1), ("x=hunter2\\q", 1), ("x=\\u12", 1)]
)
def test_a_java_file_with_a_mistake_is_refused_with_its_line_and_without_its_text(text: str, line: int, java) -> None:
    with pytest.raises(ConfigurationError) as raised:
        read_properties(java(text))
    assert raised.value.where["line"] == line
    assert "hunter2" not in f"{raised.value} {raised.value.cure}"


@pytest.mark.parametrize("path", ["missing", "."])
def test_a_java_file_that_is_not_there_is_a_configuration_error(path: str, invoke, tmp_path) -> None:
    result = invoke("config", "show", "-F", str(tmp_path / path))
    assert result.exit_code == 78
    assert "cannot be read" in result.stderr


@pytest.mark.parametrize(
    "module",
    [
        "org.apache.kafka.common.security.plain.PlainLoginModule",
        "org.apache.kafka.common.security.scram.ScramLoginModule",
    ],
)
def test_a_jaas_line_becomes_user_and_password(module: str, java) -> None:
    path = java(
        f'sasl.mechanism=PLAIN\nsasl.jaas.config={module} required username="relay" password=\'hun\\\\"ter 2;\';\n'
    )
    assert KafkaProperties(file=path)() == {
        "sasl.mechanisms": "PLAIN",
        "sasl.username": "relay",
        "sasl.password": 'hun"ter 2;',
    }


def test_stores_in_pem_and_pkcs12_are_translated(java) -> None:
    path = java(
        "ssl.truststore.type=PEM\nssl.truststore.location=/ca.pem\n"
        "ssl.keystore.type=PKCS12\nssl.keystore.location=/key.p12\nssl.keystore.password=hunter2\n"
        "ssl.endpoint.identification.algorithm=\nmax.request.size=2000000\n"
    )
    assert KafkaProperties(file=path)() == {
        "ssl.ca.location": "/ca.pem",
        "ssl.keystore.location": "/key.p12",
        "ssl.keystore.password": "hunter2",
        "ssl.endpoint.identification.algorithm": "none",
        "message.max.bytes": "2000000",
    }
    pem = java("ssl.keystore.type=PEM\nssl.keystore.location=/both.pem\n")
    assert KafkaProperties(file=pem)() == {"ssl.certificate.location": "/both.pem", "ssl.key.location": "/both.pem"}


@pytest.mark.parametrize(
    ("line", "cure"),
    [
        ("ssl.truststore.location=/truststore.jks", "ssl.ca.location"),
        ("ssl.keystore.location=/keystore.jks", "PKCS12"),
        ("sasl.jaas.config=com.sun.security.auth.module.Krb5LoginModule required hunter2;", "sasl.kerberos"),
        ("key.serializer=org.apache.kafka.common.serialization.StringSerializer", "remove it"),
        ("partitioner.class=X", "murmur2"),
        ("buffer.memory=1", "--max-in-flight-bytes"),
        ("sasl.login.callback.handler.class=X", "oidc"),
    ],
)
def test_properties_of_java_only_are_refused_with_the_counterpart(line: str, cure: str, java) -> None:
    path = java(line)
    with pytest.raises(ConfigurationError) as raised:
        KafkaProperties(file=path)()
    assert cure in raised.value.cure
    assert raised.value.where == {"source": path}
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("text", ["\udcff", "a\0b"])
def test_text_that_librdkafka_would_not_take_as_it_is_is_refused_whatever_its_source(text: str, tmp_path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"a\0b")
    sources = [
        KafkaProperties((("sasl.password", text),)),
        KafkaProperties(environ={"CDC_OUTBOX_KAFKA_SASL_PASSWORD": text}),
        KafkaProperties(environ={"CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE": str(file)}),
        KafkaProperties((("bootstrap.servers", text),)),
        KafkaProperties(((f"client.id{text}", "x"),)),
    ]
    for source in sources:
        with pytest.raises(ConfigurationError) as refused:
            source()
        assert refused.value.code == "kafka-property-text"
        assert "a\0b" not in str(refused.value)
