"""librdkafka properties: defaults, the user's, and those that are refused because they would break a guarantee.

In: the user's properties and the limits of `Settings`. Out: one dictionary for the producer.
Never: a property of the user changed silently. One that would break a guarantee raises ConfigurationError with the reason.

librdkafka: CONFIGURATION.md; INTRODUCTION.md, "Idempotent Producer" (gapless, ordered) and "Message reliability".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import confluent_kafka

from cdc_outbox.config.librdkafka import ALIASES, CONSUMER_ONLY, FREE, MESSAGE_MAX_BYTES, NUMBERS
from cdc_outbox.config.redaction import MASK, is_secret_property
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ConfigurationError

DEFAULTS: Final[Mapping[str, str]] = {
    "client.id": "cdc-outbox",
    "acks": "all",
    "enable.idempotence": "true",
    "enable.gapless.guarantee": "true",
    "message.timeout.ms": "0",
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": "2",
    "socket.keepalive.enable": "true",
    "socket.timeout.ms": "15000",
    "request.timeout.ms": "10000",
    "message.max.bytes": str(MESSAGE_MAX_BYTES),
}
"""Defaults. `message.timeout.ms` 0: never give up on a record that could still be delivered.
`enable.gapless.guarantee`: once a batch is refused for good, nothing after it is sent, and the relay sends all again in order.
`socket.timeout.ms`: a broker that stands still, with its connections open, holds its partitions up for this time and not for
librdkafka's 60 s. It is longer than the 9 s (broker.session.timeout.ms) after which the cluster elects other leaders, so that
the first retry finds them, and long enough for five requests of a megabyte over 3 Mbit/s. Idempotence keeps retries from being
repeated or out of order. `request.timeout.ms`: how long a broker waits for its replicas; it answers before the connection is
given up.
`linger.ms` in milliseconds: in a backlog, a batch that waits for less takes fewer records, and the rate falls by a third
at 0. An event that comes alone does not wait (`Publisher.flush`). `message.max.bytes` is librdkafka's own default, set
explicitly since the queue must hold one such record."""


_LIBRARY_DEFAULTS: Final[Mapping[str, int]] = {
    "batch.size": 1_000_000,
    "linger.ms": 5,
    "message.max.bytes": MESSAGE_MAX_BYTES,
    "queue.buffering.max.kbytes": 1_048_576,
    "topic.metadata.propagation.max.ms": 30_000,
}
"""librdkafka's own defaults of properties that the relay calculates with. `topic.metadata.propagation.max.ms`: how long a new
topic may take to be known by all brokers."""


def number(properties: Mapping[str, str], name: str) -> int:
    """The value of one of these properties of a producer."""
    return int(properties.get(name, _LIBRARY_DEFAULTS[name]))


def duration(properties: Mapping[str, str], name: str) -> float:
    """The value, in seconds, of one of these properties that librdkafka has in milliseconds, or parts of one."""
    return float(properties.get(name, _LIBRARY_DEFAULTS[name])) / 1000


@dataclass(frozen=True, slots=True)
class _Rule:
    """A property that a guarantee depends on: the values that keep it, and what any other value would break."""

    allowed: tuple[str, ...]
    reason: str


_TRUE: Final = ("true", "t", "1")

_LOADS_CODE: Final = _Rule((), "it loads code or runs a command in the relay's process")
_FAKES: Final = _Rule((), "librdkafka would acknowledge records that no broker has")
_TAKES_EVENTS: Final = _Rule((), "librdkafka's errors and delivery reports would go to a queue that is not read")
_OLD_PROTOCOL: Final = (
    "the protocol of brokers before 0.11 has no headers and no idempotence: an event would lose its id"
)

RULES: Final[Mapping[str, _Rule]] = {
    "acks": _Rule(
        ("all", "-1"), "an event would count as delivered before every in-sync replica has it, and could be lost"
    ),
    "enable.idempotence": _Rule(_TRUE, "a retry could put records of one key out of order, or twice"),
    "message.timeout.ms": _Rule(("0",), "librdkafka would give up on a record that could still be delivered"),
    "partitioner": _Rule(
        ("murmur2_random", "murmur2"),
        "a key would go to another partition than every Java producer chooses, out of order",
    ),
    "message.send.max.retries": _Rule(
        ("2147483647",), "librdkafka would give up on a record that could still be delivered"
    ),
    "max.in.flight.requests.per.connection": _Rule(
        ("1", "2", "3", "4", "5"), "more than five requests in flight lose the order that idempotence keeps"
    ),
    "delivery.report.only.error": _Rule((), "without delivery reports nothing could ever be acknowledged"),
    "queuing.strategy": _Rule(("fifo",), "records of one key would leave in another order"),
    "transactional.id": _Rule((), "the relay is at-least-once; its acknowledgement does not follow Kafka transactions"),
    "queue.buffering.max.messages": _Rule((), "the bound on events in flight is --max-in-flight-events"),
    "queue.buffering.max.kbytes": _Rule((), "the bound on bytes in flight is --max-in-flight-bytes"),
    "bootstrap.servers": _Rule((), "the brokers are named by --brokers"),
    "plugin.library.paths": _LOADS_CODE,
    "sasl.kerberos.kinit.cmd": _LOADS_CODE,
    "ssl.engine.id": _LOADS_CODE,
    "ssl.engine.location": _LOADS_CODE,
    "ssl.providers": _LOADS_CODE,
    "test.mock.broker.rtt": _FAKES,
    "test.mock.num.brokers": _FAKES,
    "ut_handle_ProduceResponse": _FAKES,
    "enable_sasl_queue": _TAKES_EVENTS,
    "enabled_events": _TAKES_EVENTS,
    "log.queue": _TAKES_EVENTS,
    "enable.gapless.guarantee": _Rule(
        (),
        "after the first rejected batch librdkafka would take nothing more; the relay itself keeps the order of a key",
    ),
    "internal.termination.signal": _Rule((), "the relay handles signals itself: a stop could be lost"),
    "topic.blacklist": _Rule((), "librdkafka would take a topic that exists for one that does not"),
    "api.version.request": _Rule(_TRUE, _OLD_PROTOCOL),
    "api.version.fallback.ms": _Rule(("0",), _OLD_PROTOCOL),
    "broker.version.fallback": _Rule((), _OLD_PROTOCOL),
}

_OBJECTS: Final = frozenset(
    re.findall(
        r"\S+",
        """
    default.topic.config default_topic_conf interceptors logger msg_order_cmp on_delivery opaque ssl_ca ssl_certificate
    ssl_engine_callback_data ssl_key
    """,
    )
)
"""Properties with a Python object as value, like all callbacks: confluent_kafka raises TypeError for text, or accepts it."""


def is_object(name: str) -> bool:
    """Whether a property's value is a Python object."""
    return name in _OBJECTS or name.endswith(("_cb", "_callback"))


def librdkafka_version() -> str:
    """The version of the librdkafka in use, as `2.16.0`."""
    return str(confluent_kafka.libversion()[0])


def effective(user: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Merge the user's properties into the defaults. Raises ConfigurationError for one that would break a guarantee."""
    merged = dict(DEFAULTS)
    for given, value in user.items():
        name = ALIASES.get(given, given)
        if is_object(name):
            raise _refusal(given, value, _Rule((), "it is an object of a program, which no text can be"))
        rule = RULES.get(name)
        if rule is not None and value.strip().lower() not in rule.allowed:
            raise _refusal(given, value, rule)
        if rule is None and name not in FREE and name not in CONSUMER_ONLY:
            raise _unknown(given)
        if name in NUMBERS:
            _require_number(given, value, fraction=name == "linger.ms")
        merged[name] = value
    merged["bootstrap.servers"] = settings.brokers
    merged["queue.buffering.max.messages"] = str(settings.max_in_flight_events)
    merged["queue.buffering.max.kbytes"] = str(_kibibytes(settings.max_in_flight_bytes))
    _check_one_fits(merged, settings)
    _check_token_source(merged)
    return merged


_CONNECTION: Final = ("bootstrap.", "security.", "sasl.", "ssl.", "enable.ssl", "client.id", "broker.", "socket.")
"""Prefixes of the properties of the connection to the cluster."""


def connection_properties(properties: Mapping[str, str]) -> dict[str, str | int | float | bool]:
    """The properties of a producer that an admin client needs as well."""
    return {name: value for name, value in properties.items() if name.startswith(_CONNECTION)}


_LOGIN: Final = ("sasl.username", "sasl.password")


def changed_login(properties: Mapping[str, str], fresh: Mapping[str, str]) -> tuple[str, str] | None:
    """User name and password of `fresh`, those of `properties` where it has none; None if they are not complete or the same."""
    user, password = (fresh.get(name, properties.get(name, "")) for name in _LOGIN)
    if not (user and password) or [user, password] == [properties.get(name) for name in _LOGIN]:
        return None
    return user, password


def with_login(properties: dict[str, str], login: tuple[str, str]) -> None:
    """Store the login in `properties`."""
    properties.update(zip(_LOGIN, login, strict=True))


def message_max_bytes(user: Mapping[str, str]) -> int:
    """The largest record, in bytes, for a producer of these properties. Raises ConfigurationError if it is not a number."""
    name = "message.max.bytes"
    if name in user:
        _require_number(name, user[name])
    return number(user, name)


def _kibibytes(size: int) -> int:
    """KiB, rounded up: the largest allowed record must fit into an empty queue."""
    return -(-size // 1024)


def _unknown(name: str) -> ConfigurationError:
    """The error for an unknown property. It omits the value: a misspelt name may not be recognized as that of a secret."""
    return ConfigurationError(
        f"Kafka property {name} is refused: its effect is not known",
        code="kafka-property-refused",
        cure=f"correct the name, or leave {name} out; names are those of librdkafka's CONFIGURATION.md",
    )


_WHOLE: Final = r"\s*-?(0|[1-9][0-9]{0,18})"
"""librdkafka reads 010 as 8, and 1_000 as 1, which is 1000 in Python. Python's int has a limit of 4,300 digits."""


def _require_number(name: str, value: str, *, fraction: bool = False) -> None:
    """Raise ConfigurationError for a value that is no number, or not the one that librdkafka would read: 10 in `10s`.

    `fraction`: whether the number may have decimals.
    """
    if not re.fullmatch(_WHOLE + (r"(\.[0-9]+)?\s*" if fraction else r"\s*"), value):
        raise ConfigurationError(
            f"Kafka property {name} is no number: {value!r}",
            code="kafka-property-refused",
            cure=f"set {name} to decimal digits without a unit, which is part of its name",
        )


def _refusal(name: str, value: str, rule: _Rule) -> ConfigurationError:
    cure = f"leave {name} out"
    if rule.allowed:
        cure += f", or set it to {' or '.join(rule.allowed[:2])}"
    return ConfigurationError(
        f"Kafka property {name}={MASK if is_secret_property(name) else value} is refused: {rule.reason}",
        code="kafka-property-refused",
        cure=cure,
    )


def _check_token_source(merged: Mapping[str, str]) -> None:
    """Raise ConfigurationError for OAUTHBEARER without a source of tokens: librdkafka then never logs in, and reports no error.

    CONFIGURATION.md, sasl.oauthbearer.*
    """
    if merged.get("sasl.mechanisms", "").upper() != "OAUTHBEARER":
        return
    made = merged.get("enable.sasl.oauthbearer.unsecure.jwt", "false").lower() in _TRUE
    metadata = merged.get("sasl.oauthbearer.metadata.authentication.type", "none") != "none"
    if not made and not metadata and merged.get("sasl.oauthbearer.method", "default").lower() != "oidc":
        raise ConfigurationError(
            "sasl.mechanism=OAUTHBEARER has no source of tokens",
            code="oauthbearer-tokens",
            cure="-X sasl.oauthbearer.method=oidc -X sasl.oauthbearer.token.endpoint.url=URL -X sasl.oauthbearer.client.id=ID, "
            "and the secret in the file that CDC_OUTBOX_KAFKA_SASL_OAUTHBEARER_CLIENT_SECRET_FILE names",
        )


def _check_one_fits(merged: Mapping[str, str], settings: Settings) -> None:
    """Raise ConfigurationError when a record may be larger than the whole queue: it would be neither accepted nor refused."""
    largest = message_max_bytes(merged)
    if largest > settings.max_in_flight_bytes:
        raise ConfigurationError(
            f"message.max.bytes={largest} is more than --max-in-flight-bytes={settings.max_in_flight_bytes}: "
            "a record of that size could never be queued",
            code="message-max-bytes",
            cure=f"--max-in-flight-bytes {largest * 4}, or a smaller message.max.bytes",
        )
