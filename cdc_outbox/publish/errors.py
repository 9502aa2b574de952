"""librdkafka's errors become ours, in one place.

librdkafka: rdkafka.h, rd_kafka_resp_err_t. Codes below zero are the client's own; the others are Kafka's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, Unreachable
from cdc_outbox.lsn import Lsn

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


class DeliveryFailure(NamedTuple):
    """A record that Kafka, or librdkafka, will not take."""

    topic: str
    key: bytes | None
    size: int
    """Bytes of the value."""
    error: KafkaError
    lsn: Lsn
    """Commit LSN of its transaction; unset for a row of a snapshot."""


def reason(error: KafkaError) -> str:
    """A word for metrics and headers: librdkafka's name for the error, `msg-size-too-large`."""
    return error.name().lower().lstrip("_").replace("_", "-")


TOO_LARGE: Final = "msg-size-too-large"


def failed_delivery(failure: DeliveryFailure) -> CdcOutboxError:
    """Our error for a delivery that failed for good: by what the operator has to do."""
    error, topic = failure.error, failure.topic
    key = None if failure.key is None else failure.key[:200].decode(errors="replace")
    refusal = final(error)
    if refusal is not None:
        return type(refusal)(refusal.what, cure=refusal.cure, topic=topic)
    if error.code() in _UNKNOWN_TOPIC:
        return ConfigurationError(
            f"topic {topic} does not exist: {error.str()}",
            cure="create it (kafka-topics.sh --create --topic …), or correct --topic; nothing was acknowledged past it",
            topic=topic,
            key=key,
        )
    if error.code() in _POISON:
        return PoisonEvent(
            f"Kafka does not take a record: {error.str()}",
            cure="raise the topic's max.message.bytes, or correct what the application writes; "
            "the broker refuses a whole batch for one record, so the culprit may be another one of this topic",
            reason=reason(error),
            topic=topic,
            key=key,
            size=failure.size,
        )
    return Unreachable(f"Kafka did not take a record: {error.str()}", topic=topic)


_UNKNOWN_TOPIC: Final = frozenset(
    {KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART}
)
_POISON: Final = frozenset(
    {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_RECORD,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.POLICY_VIOLATION,
        KafkaError.TOPIC_EXCEPTION,
    }
)
"""Codes with which a broker refuses what is in a record, whoever sends it."""
