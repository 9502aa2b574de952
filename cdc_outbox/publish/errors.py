"""librdkafka's errors become ours, in one place.

librdkafka: rdkafka.h, rd_kafka_resp_err_t. Codes below zero are the client's own; the others are Kafka's.
"""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, Unreachable

_REFUSED: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_TLS: Final = frozenset({KafkaError._SSL})
_CONFIGURATION: Final = frozenset(
    {KafkaError._INVALID_ARG, KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError._UNSUPPORTED_FEATURE}
)
NOT_READY: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
)
"""Nobody answers, for now."""


def kafka_error(raised: BaseException) -> KafkaError | None:
    """The KafkaError inside an exception: librdkafka's fatal ones may come as a SystemError that has it as its cause."""
    seen: BaseException | None = raised
    while seen is not None:
        if isinstance(seen, KafkaException) and seen.args and isinstance(seen.args[0], KafkaError):
            return seen.args[0]
        seen = seen.__cause__ or seen.__context__
    return None


def final(error: KafkaError) -> CdcOutboxError | None:
    """Our error for one that waiting does not heal; None for one that it may."""
    words = error.str()
    if error.code() in _TLS:
        return ConfigurationError(
            f"Kafka's TLS handshake fails: {words}",
            cure="-X ssl.ca.location=FILE with the CA that signed the broker's certificate; brokers by the names in it",
        )
    if error.code() in _REFUSED:
        return AccessRefused(
            f"Kafka refuses us: {words}",
            cure="check sasl.mechanism, sasl.username and sasl.password (CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE), and the ACLs",
        )
    if error.code() in _CONFIGURATION:
        return ConfigurationError(
            f"librdkafka does not accept its configuration: {words}",
            cure="cdc-outbox run -X list shows the effective one",
        )
    return None


def unreachable(brokers: str, words: str) -> Unreachable:
    """Nobody answers at `brokers`."""
    return Unreachable(
        f"Kafka cannot be reached at {brokers}: {words}",
        cure="check host, port, DNS and firewall, and that the brokers' advertised.listeners can be reached from here",
    )
