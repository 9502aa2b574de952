"""librdkafka's errors become ours, by what the operator has to do; none holds a payload."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from cdc_outbox.errors import AccessRefused, CdcOutboxError, ConfigurationError, PoisonEvent, Unreachable
from cdc_outbox.kafka import errors
from cdc_outbox.kafka.errors import (
    Cause,
    DeliveryFailure,
    about_cluster,
    cause_of,
    caused_by_record,
    failed_delivery,
    final,
    kafka_error,
    not_accepted,
    unreachable,
)
from cdc_outbox.lsn import UNSET
from cdc_outbox.records.router import TOO_LARGE

ALL_CODES = sorted({code for name in dir(KafkaError) if isinstance(code := getattr(KafkaError, name), int)} - {0})


def failure(code: int, *, key: bytes | None = b"customer-1", words: str = "words") -> DeliveryFailure:
    return DeliveryFailure("orders", key, 12, KafkaError(code, words), UNSET, UNSET)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (KafkaError._SSL, ConfigurationError),
        (KafkaError._AUTHENTICATION, AccessRefused),
        (KafkaError.SASL_AUTHENTICATION_FAILED, AccessRefused),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessRefused),
        (KafkaError.CLUSTER_AUTHORIZATION_FAILED, AccessRefused),
        (KafkaError._INVALID_ARG, ConfigurationError),
        (KafkaError.UNSUPPORTED_SASL_MECHANISM, ConfigurationError),
    ],
)
def test_errors_that_waiting_does_not_cure_have_a_cure(code: int, kind: type[CdcOutboxError]) -> None:
    error = final(KafkaError(code, "broker says no"))
    assert isinstance(error, kind)
    assert "broker says no" in error.message
    assert error.cure


@pytest.mark.parametrize(
    "code",
    [
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._TIMED_OUT,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.MSG_SIZE_TOO_LARGE,
    ],
)
def test_what_waiting_may_heal_or_what_is_about_one_record_is_not_final(code: int) -> None:
    assert final(KafkaError(code)) is None


DELIVERIES = [
    (KafkaError.MSG_SIZE_TOO_LARGE, PoisonEvent),
    (KafkaError.RECORD_LIST_TOO_LARGE, PoisonEvent),
    (KafkaError.INVALID_RECORD, PoisonEvent),
    (KafkaError.INVALID_TIMESTAMP, PoisonEvent),
    (KafkaError.POLICY_VIOLATION, PoisonEvent),
    (KafkaError.TOPIC_EXCEPTION, PoisonEvent),
    (KafkaError._UNKNOWN_TOPIC, ConfigurationError),
    (KafkaError.UNKNOWN_TOPIC_OR_PART, ConfigurationError),
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, AccessRefused),
    (KafkaError._AUTHENTICATION, AccessRefused),
    (KafkaError._SSL, ConfigurationError),
    (KafkaError.INVALID_PRODUCER_EPOCH, Unreachable),
    (KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, Unreachable),
    (KafkaError._FATAL, Unreachable),
    (KafkaError._GAPLESS_GUARANTEE, Unreachable),
    (KafkaError._PURGE_QUEUE, Unreachable),
    (KafkaError._MSG_TIMED_OUT, Unreachable),
    (KafkaError.UNKNOWN, Unreachable),
]


@pytest.mark.parametrize(("code", "kind"), DELIVERIES)
def test_a_failed_delivery_has_the_class_of_its_cure(code: int, kind: type[CdcOutboxError]) -> None:
    error = failed_delivery(failure(code))
    assert isinstance(error, kind)
    assert error.where["topic"] == "orders"
    assert "words" in error.message


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_code_of_librdkafka_has_an_error_class(code: int) -> None:
    error = failed_delivery(failure(code))
    assert isinstance(error, (ConfigurationError, AccessRefused, PoisonEvent, Unreachable))
    assert error.cure or isinstance(error, Unreachable)


CAUSES: dict[Cause, set[int]] = {
    Cause.RECORD: {
        KafkaError.MSG_SIZE_TOO_LARGE,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.RECORD_LIST_TOO_LARGE,
        KafkaError.INVALID_TIMESTAMP,
        KafkaError.INVALID_RECORD,
    },
    Cause.TOPIC: {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
    },
    Cause.CONFIGURATION: {
        KafkaError._SSL,
        KafkaError._AUTHENTICATION,
        KafkaError._INVALID_ARG,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    },
}
"""Every other code is the cluster's: NOT_LEADER_FOR_PARTITION and its kin, and those that no release has yet."""

FUTURE_CODES = [134, 250, 32_767]


@pytest.mark.parametrize("code", [*ALL_CODES, *FUTURE_CODES])
def test_every_code_is_about_a_record_or_its_topic_or_the_configuration_or_else_the_cluster(code: int) -> None:
    wanted = next((cause for cause, codes in CAUSES.items() if code in codes), Cause.CLUSTER)
    assert cause_of(KafkaError(code)) is wanted


@pytest.mark.parametrize("code", sorted({*ALL_CODES, *FUTURE_CODES}.difference(*CAUSES.values())))
def test_what_the_cluster_causes_meets_no_policy_and_is_tried_again(code: int) -> None:
    """By each way on which an error arrives: a delivery report, the error callback, `produce` itself."""
    assert caused_by_record([failure(code)]) == []
    assert not about_cluster(KafkaError(code))
    assert type(failed_delivery(failure(code))) is Unreachable
    assert final(KafkaError(code)) is None
    assert type(not_accepted(failure(code))) is Unreachable


@pytest.mark.parametrize("code", sorted(CAUSES[Cause.RECORD]))
def test_only_what_a_record_causes_meets_the_policy(code: int) -> None:
    assert len(caused_by_record([failure(code)])) == 1
    assert not about_cluster(KafkaError(code))
    assert isinstance(failed_delivery(failure(code)), PoisonEvent)
    assert isinstance(not_accepted(failure(code)), PoisonEvent)


def test_an_argument_that_librdkafka_refuses_is_the_records() -> None:
    assert isinstance(not_accepted(failure(KafkaError._INVALID_ARG)), PoisonEvent)


@pytest.mark.parametrize("code", sorted(CAUSES[Cause.TOPIC]))
def test_what_a_topic_causes_is_waited_for(code: int) -> None:
    assert about_cluster(KafkaError(code))
    assert len(caused_by_record([failure(code)])) == 1, "its batch is isolated, so that only its own topic waits"


@pytest.mark.parametrize("code", [code for code, kind in DELIVERIES if kind is PoisonEvent])
def test_a_record_that_kafka_will_not_take_is_named_with_reason_and_size(code: int) -> None:
    error = failed_delivery(failure(code))
    assert error.where == {
        "reason": errors.reason(KafkaError(code)),
        "topic": "orders",
        "key": "customer-1",
        "size": 12,
    }


def test_a_reason_is_a_word_for_a_label() -> None:
    assert errors.reason(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)) == TOO_LARGE == "msg-size-too-large"
    assert errors.reason(KafkaError(KafkaError._MSG_TIMED_OUT)) == "msg-timed-out"


def test_a_key_is_cut_and_never_in_the_way() -> None:
    error = failed_delivery(failure(KafkaError.INVALID_RECORD, key=b"\xff" + b"k" * 1000))
    assert error.where["key"] == "\N{REPLACEMENT CHARACTER}" + "k" * 199
    assert "key" not in failed_delivery(failure(KafkaError.INVALID_RECORD, key=None)).where


def test_a_failure_cannot_hold_a_payload() -> None:
    """It holds the size, so that no error made of it can show more."""
    assert DeliveryFailure._fields == ("topic", "key", "size", "error", "lsn", "last_lsn")


def test_the_kafka_error_is_found_inside_whatever_the_binding_raises() -> None:
    """A fatal error comes out of poll as a SystemError with the KafkaException as its cause."""
    inner = KafkaError(KafkaError._FENCED, "fenced")
    plain = KafkaException(inner)
    assert kafka_error(plain) is inner
    with pytest.raises(SystemError) as caused:
        raise SystemError("returned a result with an exception set") from plain
    assert kafka_error(caused.value) is inner
    with pytest.raises(SystemError) as met:  # noqa: PT012  # as C code does: a context, no cause
        try:
            raise plain
        except KafkaException:
            raise SystemError("while handling")  # noqa: B904
    assert kafka_error(met.value) is inner


@pytest.mark.parametrize("raised", [KafkaException(), KafkaException("text"), SystemError("x"), ValueError()])
def test_an_exception_without_a_kafka_error_has_none(raised: Exception) -> None:
    assert kafka_error(raised) is None


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_cure_can_be_typed(code: int) -> None:
    for words in ("words", "mechanism GSSAPI", "must be set", "broker's supported mechanisms: PLAIN"):
        said = (
            final(KafkaError(code, words)),
            failed_delivery(failure(code, words=words)),
            unreachable("b:1", "Send failed"),
        )
        assert not any("…" in error.cure for error in said if error is not None)


def test_the_cure_names_a_mechanism_that_the_broker_has() -> None:
    words = "Unsupported SASL mechanism: broker's supported mechanisms: SCRAM-SHA-512,PLAIN (after 3ms in state AUTH)"
    error = final(KafkaError(KafkaError._AUTHENTICATION, words))
    assert error is not None
    assert error.cure.startswith("-X sasl.mechanism=SCRAM-SHA-512,")


def test_without_an_answer_the_error_names_the_brokers_and_the_checks() -> None:
    error = unreachable("kafka-1:9092", "Connection refused")
    assert error.message == "Kafka cannot be reached at kafka-1:9092: Connection refused"
    assert "advertised.listeners" in error.cure
    assert error.exit_code == 69


@pytest.mark.parametrize("hint", ["", ": connecting to a PLAINTEXT broker listener?"])
def test_a_listener_without_tls_is_named_whatever_the_message_of_librdkafka(hint: str) -> None:
    text = f"ssl://b:1/bootstrap: Disconnected: SSL connection closed by peer{hint} (after 1ms in state SSL_HANDSHAKE)"
    assert "PLAINTEXT broker listener" in unreachable("b:1", text).cure
