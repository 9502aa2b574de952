"""The configured librdkafka properties: -X > CDC_OUTBOX_KAFKA_* > -F file > the TOML file's [kafka].

In: those four. Out: one mapping with librdkafka's names, each value with where it came from; files are read at each call,
since secrets rotate. Never: a property dropped silently, or a value in an error.

`CDC_OUTBOX_KAFKA_SASL_USERNAME` is `sasl.username`: lower case, underscores become dots. `…_FILE` names a file that holds the
value. Names of one property that librdkafka knows under two become one, so that precedence counts and not their order.
Names of the Java clients' configuration are translated, or refused with what to write instead (librdkafka's
CONFIGURATION.md; Apache Kafka's documentation, 3.4 Producer Configs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cdc_outbox.config.java_properties import parse_properties
from cdc_outbox.config.librdkafka import ALIASES
from cdc_outbox.config.redaction import is_secret_property, remember
from cdc_outbox.config.secret_files import SecretFile
from cdc_outbox.config.settings import OPTIONS
from cdc_outbox.config.sources import Chosen
from cdc_outbox.config.toml_file import TomlFile
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.identifiers import is_c_string

PREFIX: Final = "CDC_OUTBOX_KAFKA_"

SERVERS: Final = "bootstrap.servers"

_RANK: Final = ("default", "file", "environment", "flag")
"""Origins in the order of their precedence, lowest first."""

_OPTION_VARIABLES: Final = frozenset(
    option.variable for option in OPTIONS.values() if option.in_environment and option.variable.startswith(PREFIX)
)
"""Variables of options that begin like a property's: CDC_OUTBOX_KAFKA_CONFIG is --kafka-config."""

_SERVICE_LINK: Final = re.compile(
    r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
"""Variables that Kubernetes sets in every pod for each service of the namespace. They begin like ours when the service is named
cdc-outbox-kafka or cdc-outbox-kafka-bootstrap (Strimzi's name). No property of librdkafka ends like one."""

_ENDS_IN_FILE: Final = frozenset(
    {"sasl.oauthbearer.assertion.file", "sasl.oauthbearer.assertion.private.key.file"}
    | {"sasl.oauthbearer.assertion.jwt.template.file"}
)
"""The properties whose own name ends like that of a variable that names a file."""


@dataclass(frozen=True, slots=True)
class KafkaProperties:
    """The four sources of one process. Call it for the properties as they are now."""

    flags: tuple[tuple[str, str], ...] = ()
    environ: Mapping[str, str] = field(default_factory=dict)
    file: str | None = None
    toml: TomlFile | None = None

    def __call__(self) -> dict[str, str]:
        """For the producer: without the brokers, which are an option of their own."""
        return {name: str(chosen.value) for name, chosen in self.chosen().items() if name != SERVERS}

    def brokers(self, option: Chosen) -> Chosen:
        """`option` (--brokers), or the property bootstrap.servers if it comes from a source of higher precedence."""
        servers = self.chosen().get(SERVERS)
        return servers if servers and _RANK.index(servers.origin) > _RANK.index(option.origin) else option

    def chosen(self) -> dict[str, Chosen]:
        """By name, value and origin. Raises ConfigurationError."""
        chosen: dict[str, Chosen] = {}
        if self.toml is not None:
            chosen |= _as_chosen(self.toml.properties(), "file", str(self.toml))
        if self.file is not None:
            chosen |= _as_chosen(read_properties(self.file), "file", self.file)
        for name, (value, variable) in _from_environment(self.environ).items():
            chosen |= _as_chosen({name: value}, "environment", variable)
        chosen |= _as_chosen(dict(pair for pair in self.flags if pair[0] != "list"), "flag", "")
        for name, one in chosen.items():
            if not is_c_string(name + str(one.value)):
                raise ConfigurationError(
                    f"Kafka property {name!a} is no UTF-8 text, or holds a NUL character",
                    code="kafka-property-text",
                    cure=f"correct it in {one.place or 'the command line'}",
                )
            if is_secret_property(name):
                remember(str(one.value))
        return chosen


def _as_chosen(properties: Mapping[str, str], origin: str, place: str) -> dict[str, Chosen]:
    where = place or "the command line"
    translated = _from_java(dict(properties), where)
    return {ALIASES.get(name, name): Chosen(value, origin, place) for name, value in translated.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """By property: its value, and the variable that it came from."""
    found: dict[str, tuple[str, str]] = {}
    for variable, text in sorted(environ.items()):
        tail = variable.removeprefix(PREFIX)
        if not text or tail == variable or variable in _OPTION_VARIABLES or _SERVICE_LINK.fullmatch(tail):
            continue
        name = tail.lower().replace("_", ".")
        if not name.endswith(".file") or name in _ENDS_IN_FILE:
            found[name] = (text, variable)
            continue
        if variable.removesuffix("_FILE") in _OPTION_VARIABLES:
            raise ConfigurationError(
                f"{variable} is not a property",
                code="kafka-property-name",
                cure=f"{variable.removesuffix('_FILE')} names the properties file itself",
            )
        file = SecretFile.named_by(variable.removesuffix("_FILE"), environ)
        if file is not None:
            found[name.removesuffix(".file")] = (file.read(), variable)
    return found


_JAAS: Final = re.compile(
    r"""\s*[\w.]*(?:Plain|Scram)LoginModule\s+(?:required|requisite|sufficient)\b(.*);\s*""", re.DOTALL
)
_JAAS_OPTION: Final = re.compile(r"""\s*(\w+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)')""", re.DOTALL)

_RENAMED: Final = {
    "max.request.size": "message.max.bytes",
    "send.buffer.bytes": "socket.send.buffer.bytes",
    "receive.buffer.bytes": "socket.receive.buffer.bytes",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
}

_NOT_HERE: Final = {
    "key.serializer": "remove it: keys go out as the bytes that the column holds",
    "value.serializer": "remove it: payloads go out as the bytes that the column holds",
    "partitioner.class": "remove it: records go where Java's default partitioner sends them, by murmur2 of the key",
    "buffer.memory": "use --max-in-flight-bytes",
    "max.block.ms": "remove it: when the queue is full, the relay waits without losing anything",
    "sasl.login.callback.handler.class": "use sasl.oauthbearer.method=oidc and sasl.oauthbearer.* instead",
    "ssl.protocol": "remove it: OpenSSL chooses the newest TLS that both sides know",
    "ssl.enabled.protocols": "remove it: OpenSSL chooses the newest TLS that both sides know",
    "ssl.truststore.password": "remove it together with the truststore: export the CA as PEM and set ssl.ca.location",
}
"""Names of the Java clients without a counterpart in librdkafka, with the cure."""


def _from_java(properties: dict[str, str], where: str) -> dict[str, str]:
    """The properties with librdkafka's names. Raises ConfigurationError for a name without a counterpart."""
    for java, ours in _RENAMED.items():
        if java in properties:
            properties[ours] = properties.pop(java)
    if "sasl.jaas.config" in properties:
        properties |= _read_jaas(properties.pop("sasl.jaas.config"), where)
    if properties.get("ssl.endpoint.identification.algorithm") == "":
        properties["ssl.endpoint.identification.algorithm"] = "none"
    _translate_stores(properties, where)
    for name, cure in _NOT_HERE.items():
        if name in properties:
            raise ConfigurationError(
                f"{name} is a setting of the Java clients only", code="kafka-property-name", cure=cure, source=where
            )
    return properties


def _read_jaas(text: str, where: str) -> dict[str, str]:
    """User and password of the PLAIN and SCRAM login modules."""
    module = _JAAS.fullmatch(text)
    options = {
        name: re.sub(r"\\(.)", r"\1", double or single)
        for name, double, single in _JAAS_OPTION.findall(module[1] if module else "")
    }
    if "username" not in options or "password" not in options:
        raise ConfigurationError(
            "sasl.jaas.config can be read for PlainLoginModule and ScramLoginModule with username and password only",
            code="kafka-property-name",
            cure="write sasl.mechanism, sasl.username and sasl.password (or sasl.kerberos.*, sasl.oauthbearer.*) instead",
            source=where,
        )
    return {"sasl.username": options["username"], "sasl.password": options["password"]}


def _translate_stores(properties: dict[str, str], where: str) -> None:
    """Java's trust and key stores: PEM is renamed, PKCS #12 is known, JKS must be converted."""
    trust_type = properties.pop("ssl.truststore.type", "JKS").upper()
    if "ssl.truststore.location" in properties:
        if trust_type != "PEM":
            raise ConfigurationError(
                "ssl.truststore.location: OpenSSL reads PEM, not a Java truststore",
                code="kafka-property-name",
                cure="keytool -exportcert -rfc -keystore truststore.jks -alias ca -file ca.pem; "
                "then ssl.ca.location=ca.pem in place of ssl.truststore.*",
                source=where,
            )
        properties["ssl.ca.location"] = properties.pop("ssl.truststore.location")
    key_type = properties.pop("ssl.keystore.type", "").upper()
    location = properties.get("ssl.keystore.location")
    if location is None:
        return
    if key_type == "PEM":
        properties["ssl.certificate.location"] = properties["ssl.key.location"] = properties.pop(
            "ssl.keystore.location"
        )
    elif key_type != "PKCS12" and not (key_type == "" and location.endswith((".p12", ".pfx"))):
        raise ConfigurationError(
            "ssl.keystore.location: OpenSSL reads PKCS #12 or PEM, not a Java keystore",
            code="kafka-property-name",
            cure="keytool -importkeystore -srckeystore keystore.jks -destkeystore keystore.p12 -deststoretype PKCS12; "
            "then ssl.keystore.location=keystore.p12",
            source=where,
        )


def read_properties(path: str) -> dict[str, str]:
    """The file's properties. Raises ConfigurationError with the line's number."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(
            f"the Kafka properties file cannot be read: {error.strerror}",
            code="kafka-config-file",
            cure="name a readable file with -F",
            file=path,
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            "the Kafka properties file is not UTF-8 text", code="kafka-config-file", cure="convert it", file=path
        ) from None
    return parse_properties(text, path)
