"""librdkafka's errors translated to those of `cdc_outbox.errors`, in one place.

librdkafka: rdkafka.h, rd_kafka_resp_err_t. Codes below zero are the client's own; the others are Kafka's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, TypeAlias

from confluent_kafka import KafkaError, KafkaException, Message

from cdc_outbox.errors import AccessRefused, CannotConnect, CdcOutboxError, ConfigurationError, PoisonEvent, Unreachable
from cdc_outbox.lsn import Lsn

NOT_READY: Final = frozenset(
    {KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._TIMED_OUT}
)
"""No broker answers at the moment."""


def kafka_error(raised: BaseException) -> KafkaError | None:
    """The KafkaError inside an exception: librdkafka's fatal ones may come as a SystemError that has it as its cause."""
    seen: BaseException | None = raised
    while seen is not None:
        if isinstance(seen, KafkaException) and seen.args and isinstance(seen.args[0], KafkaError):
            return seen.args[0]
        seen = seen.__cause__ or seen.__context__
    return None


def final(error: KafkaError, topic: str = "") -> CdcOutboxError | None:
    """The CdcOutboxError for an error that a retry does not cure, else None. `topic`: the records' topic, if known."""
    text = error.str()
    for codes, pattern, make, code, summary, cure in _FINAL:
        if (codes is None or error.code() in codes) and (found := re.search(pattern, text)):
            where = {"topic": topic} if topic and "{topic}" in cure else {}
            return make(
                f"{summary}: {text}", code=code, cure=cure.format(topic=topic or "TOPIC", **found.groupdict()), **where
            )
    return None


_Codes: TypeAlias = frozenset[int] | None

_ANYTHING: Final = ""
_TLS: Final = frozenset({KafkaError._SSL})
_LOGIN: Final = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED})
_CONFIGURATION: Final = frozenset(
    {KafkaError._INVALID_ARG, KafkaError.UNSUPPORTED_SASL_MECHANISM, KafkaError._UNSUPPORTED_FEATURE}
)
_REFUSED: Final = "Kafka refuses the login"
_ALLOW: Final = (
    "kafka-acls.sh --bootstrap-server HOST:PORT --add --allow-principal User:NAME --producer --topic {topic}; "
    "NAME is the sasl.username, or the subject of our certificate"
)
_UNFIT: Final = "librdkafka does not accept its configuration"

_FINAL: Final[tuple[tuple[_Codes, str, type[CdcOutboxError], str, str, str], ...]] = (
    (
        None,
        r"SSL routines:.* alert (?!internal error)",
        CannotConnect,
        "kafka-tls-handshake",
        "the broker ends the TLS handshake",
        "it may require a client certificate that it trusts: -X ssl.certificate.location=FILE -X ssl.key.location=FILE",
    ),
    (
        _TLS,
        _ANYTHING,
        CannotConnect,
        "kafka-certificate",
        "the broker's certificate does not verify",
        (
            "-X ssl.ca.location=FILE must hold the CA that signed it, --brokers and advertised.listeners be names in it, and "
            "it must not have expired; which it is: "
            "openssl s_client -connect HOST:PORT -verify_hostname HOST -CAfile FILE </dev/null"
        ),
    ),
    (
        _LOGIN,
        r"broker's supported mechanisms: *(\(|$)",
        AccessRefused,
        "sasl-mechanism",
        "this listener of the broker has no SASL",
        "-X security.protocol=ssl (or plaintext), or the port of a listener with SASL in --brokers",
    ),
    (
        _LOGIN,
        r"broker's supported mechanisms: *(?P<mechanism>[\w-]+)",
        AccessRefused,
        "sasl-mechanism",
        "the broker has another SASL mechanism",
        "-X sasl.mechanism={mechanism}, or another one that the broker supports",
    ),
    (
        _LOGIN,
        _ANYTHING,
        AccessRefused,
        "kafka-login-refused",
        _REFUSED,
        "check sasl.mechanism, sasl.username and sasl.password (CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE)",
    ),
    (
        frozenset({KafkaError.TOPIC_AUTHORIZATION_FAILED}),
        _ANYTHING,
        AccessRefused,
        "topic-privilege",
        "Kafka does not let us write to the topic",
        _ALLOW,
    ),
    (
        frozenset({KafkaError.CLUSTER_AUTHORIZATION_FAILED}),
        _ANYTHING,
        AccessRefused,
        "topic-privilege",
        "Kafka lets us write to no topic at all",
        _ALLOW,
    ),
    (
        _CONFIGURATION,
        "mechanism GSSAPI",
        ConfigurationError,
        "kafka-configuration",
        _UNFIT,
        "-X sasl.mechanism=SCRAM-SHA-512 (or SCRAM-SHA-256, PLAIN, OAUTHBEARER)",
    ),
    (
        _CONFIGURATION,
        "must be set",
        ConfigurationError,
        "kafka-configuration",
        _UNFIT,
        "set them: -X sasl.username=NAME, and the password in the file that CDC_OUTBOX_KAFKA_SASL_PASSWORD_FILE names",
    ),
    (
        _CONFIGURATION,
        r"ssl\.\S+ failed",
        ConfigurationError,
        "kafka-configuration",
        _UNFIT,
        "the file must be there, readable for this process, and PEM; a key must belong to its certificate",
    ),
    (
        _CONFIGURATION,
        _ANYTHING,
        ConfigurationError,
        "kafka-configuration",
        _UNFIT,
        "cdc-outbox run -X list shows the effective one",
    ),
)
"""Error codes (None: any) and a pattern in the text; then the class, code, summary and cure of the error. The cure may use
named groups of the pattern; words in capitals are placeholders for the operator. The first row that matches counts."""


def describe(error: KafkaError) -> str:
    """Why librdkafka could not reach a broker. Its own text is right for connections and wrong for time-outs: it reports a
    frozen broker as one older than 0.10.
    """
    return SILENT if error.code() == KafkaError._TIMED_OUT else error.str().split(": probably ", 1)[0]


SILENT: Final = "no answer"
GONE: Final = "no broker accepts a connection"
CLOSED: Final = "it closes each connection without an answer"
"""For brokers of which librdkafka reports only that all are down: a listener closes connections of another protocol so."""


def unreachable(brokers: str, text: str) -> Unreachable:
    """The error for `brokers` that do not answer."""
    if text == CLOSED or re.search("PLAINTEXT broker listener|closed by peer|Send failed|Receive failed", text):
        cure = "-X security.protocol=ssl (or sasl_ssl, sasl_plaintext, plaintext): it must be the listener's"
        if "SSL_HANDSHAKE" in text:  # of its two messages for this, one has no hint
            cure += "; this may be a PLAINTEXT broker listener"
    else:
        cure = "check host, port, DNS and firewall, and that the brokers' advertised.listeners can be reached from here"
    return Unreachable(f"Kafka cannot be reached at {brokers}: {text}", code="kafka-unreachable", cure=cure)


class DeliveryFailure(NamedTuple):
    """A record that Kafka or librdkafka has refused."""

    topic: str
    key: bytes | None
    size: int
    """Bytes of the value."""
    error: KafkaError
    lsn: Lsn
    """Commit LSN of its transaction; unset for a row of a snapshot."""
    last_lsn: Lsn
    """Equal to `lsn`, or the commit LSN of the last transaction of a group, if the record may belong to any of the group."""


INFERRED: Final = KafkaError(
    KafkaError._INCONSISTENT,
    "the broker took a later one of its partition first, so whether it has this one is not known",
)
"""Used in place of a delivery report that has neither an error nor an offset. librdkafka infers such a success from that of a
later batch ("implicitly acked"), which is correct if the broker checks sequence numbers. But a broker that has no record of
this producer in a partition accepts any first number (KAFKA-15591; better for new topics since Kafka 4.5): the batch before
it, refused a moment earlier because the partition's leader was not ready, is then lost, but reported as delivered."""


def reported_failure(error: KafkaError | None, message: Message, lsn: Lsn) -> DeliveryFailure:
    """The failure that a delivery report without an offset means. `lsn`: the commit LSN of the record's transaction."""
    key = message.key()
    known = key if isinstance(key, bytes) else None
    return DeliveryFailure(message.topic() or "", known, len(message), error or INFERRED, lsn, lsn)


def reason(error: KafkaError) -> str:
    """A slug for metrics and headers, from librdkafka's name of the error: `msg-size-too-large`."""
    return error.name().lower().lstrip("_").replace("_", "-")


def failed_delivery(failure: DeliveryFailure) -> CdcOutboxError:
    """The CdcOutboxError for a delivery that failed for good; its class depends on what the operator has to do."""
    error, topic, key = failure.error, failure.topic, shown_key(failure.key)
    refusal = final(error, topic)
    if refusal is not None:
        return type(refusal)(refusal.message, code=refusal.code, cure=refusal.cure, topic=topic)
    if error.code() in _UNKNOWN_TOPIC:
        return ConfigurationError(
            f"topic {topic} does not exist: {error.str()}",
            code="topic-unknown",
            cure=f"create it (kafka-topics.sh --create --topic {topic} --bootstrap-server HOST:PORT), or correct --topic; "
            "nothing was acknowledged past it",
            topic=topic,
            key=key,
        )
    if error.code() in _COMPRESSION:
        return Unreachable(
            f"Kafka does not take compressed records: {error.str()}",
            code="kafka-compression",
            cure="-X compression.type=none; or let the topic take them: compression.type, message.format.version",
            topic=topic,
            kafka_error=error.name(),
        )
    if error.code() in _POISON:
        return PoisonEvent(
            f"Kafka does not take a record: {error.str()}",
            cure=_POISON[error.code()],
            reason=reason(error),
            topic=topic,
            key=key,
            size=failure.size or None,
        )
    return Unreachable(f"Kafka did not take a record: {error.str()}", topic=topic, kafka_error=error.name())


def not_accepted(failure: DeliveryFailure) -> CdcOutboxError:
    """The CdcOutboxError for a record that librdkafka does not take into its queue: an invalid argument is the record's."""
    error = failure.error
    if cause_of(error) is not Cause.RECORD and error.code() != KafkaError._INVALID_ARG:
        return failed_delivery(failure)
    return PoisonEvent(
        f"librdkafka does not take the record: {error.str()}",
        cure="raise message.max.bytes here and max.message.bytes of the topic, or keep such payloads elsewhere",
        reason=reason(error),
        topic=failure.topic,
        key=shown_key(failure.key),
        size=failure.size,
    )


class Cause(Enum):
    """What an error is about, which decides what the relay does. Each code has one cause."""

    RECORD = "record"
    """One record: the policy for poison events."""
    TOPIC = "topic"
    """A topic, until the cluster is changed (unknown topic or partition, privilege, policy): its records wait."""
    CONFIGURATION = "configuration"
    """The login or a property: an operator has to act."""
    CLUSTER = "cluster"
    """Everything else, codes that no release has yet included: a retry, by librdkafka or with a new producer."""


def cause_of(error: KafkaError) -> Cause:
    """The cause of an error, by its code. A record that was only in the same batch (_INVALID_DIFFERENT_RECORD) is no cause."""
    code = error.code()
    if code in _ABOUT_THE_TOPIC:
        return Cause.TOPIC
    if code in _POISON:
        return Cause.RECORD
    return Cause.CLUSTER if final(error) is None else Cause.CONFIGURATION


def about_cluster(error: KafkaError) -> bool:
    """Whether the refusal concerns the record's topic and lasts until the cluster is changed."""
    return cause_of(error) is Cause.TOPIC


def caused_by_record(failures: Sequence[DeliveryFailure]) -> list[DeliveryFailure]:
    """The failures that a single record or its topic may have caused."""
    return [failure for failure in failures if cause_of(failure.error) in {Cause.RECORD, Cause.TOPIC}]


def shown_key(key: bytes | None) -> str | None:
    """A key for a message: its first 200 bytes as text."""
    return None if key is None else key[:200].decode(errors="replace")


_COMPRESSION: Final = frozenset({KafkaError.UNSUPPORTED_FOR_MESSAGE_FORMAT, KafkaError.UNSUPPORTED_COMPRESSION_TYPE})
"""Azure Event Hubs refuses lz4 with the first of them."""

_UNKNOWN_TOPIC: Final = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})

_CORRECT: Final = (
    "correct what the application writes; the broker refuses a whole batch for one record, so the rejected one may be "
)
_LIMIT: Final = f"raise the topic's max.message.bytes, or {_CORRECT}another one of this topic"

_POISON: Final[dict[int, str]] = {
    KafkaError.MSG_SIZE_TOO_LARGE: _LIMIT,
    KafkaError.RECORD_LIST_TOO_LARGE: f"raise the topic's segment.bytes, or {_CORRECT}another one of this topic",
    KafkaError.INVALID_RECORD: f"a compacted topic takes no record without a key; {_CORRECT}another one of this topic",
    KafkaError.INVALID_TIMESTAMP: "raise the topic's message.timestamp.before.max.ms (or after), "
    f"or {_CORRECT}another one of this topic",
    KafkaError.POLICY_VIOLATION: f"{_CORRECT}another one of this topic",
    KafkaError.TOPIC_EXCEPTION: f"{_CORRECT}another one of this topic",
    KafkaError._UNKNOWN_PARTITION: "add partitions to the topic, or correct what the application writes as the partition",
}
"""Error codes of a record that any producer would get, each with the cure."""

_ABOUT_THE_TOPIC: Final = _UNKNOWN_TOPIC | {
    KafkaError._UNKNOWN_PARTITION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.POLICY_VIOLATION,
}
