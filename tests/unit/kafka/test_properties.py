"""librdkafka's properties: ours, the user's, and none that would break a promise."""

from __future__ import annotations

from collections.abc import Mapping

import confluent_kafka
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc_outbox.config.librdkafka import ALIASES, CONSUMER_ONLY, FREE, NUMBERS
from cdc_outbox.config.settings import Settings
from cdc_outbox.errors import ConfigurationError
from cdc_outbox.kafka.properties import DEFAULTS, RULES, effective, is_object, librdkafka_version
from tests.servers.mock_kafka import documented_types, installed_properties

SETTINGS = Settings(brokers="kafka-1:9092,kafka-2:9092")


def refusal(properties: Mapping[str, str], settings: Settings = SETTINGS) -> ConfigurationError:
    with pytest.raises(ConfigurationError) as raised:
        effective(properties, settings)
    return raised.value


def test_the_defaults_keep_the_promises() -> None:
    properties = effective({}, SETTINGS)
    assert properties == {
        **DEFAULTS,
        "bootstrap.servers": "kafka-1:9092,kafka-2:9092",
        "queue.buffering.max.messages": "10000",
        "queue.buffering.max.kbytes": "16384",
    }
    assert properties["acks"] == "all"
    assert properties["enable.idempotence"] == "true"
    assert properties["message.timeout.ms"] == "0"
    assert properties["partitioner"] == "murmur2_random"


REFUSED = [
    ("acks", "1", "lost"),
    ("acks", "0", "lost"),
    ("request.required.acks", "1", "lost"),
    ("enable.idempotence", "false", "out of order"),
    ("message.timeout.ms", "300000", "give up on a record"),
    ("delivery.timeout.ms", "300000", "give up on a record"),
    ("partitioner", "consistent_random", "another partition"),
    ("partitioner", "random", "another partition"),
    ("message.send.max.retries", "3", "give up on a record"),
    ("retries", "0", "give up on a record"),
    ("max.in.flight.requests.per.connection", "6", "lose the order"),
    ("max.in.flight", "100", "lose the order"),
    ("max.in.flight", "0", "lose the order"),
    ("delivery.report.only.error", "true", "nothing could ever be acknowledged"),
    ("delivery.report.only.error", "false", "nothing could ever be acknowledged"),
    ("queuing.strategy", "lifo", "another order"),
    ("transactional.id", "relay-1", "at-least-once"),
    ("transactional.id", "", "at-least-once"),
    ("queue.buffering.max.messages", "5", "--max-in-flight-events"),
    ("queue.buffering.max.kbytes", "5", "--max-in-flight-bytes"),
    ("bootstrap.servers", "elsewhere:9092", "--brokers"),
    ("metadata.broker.list", "elsewhere:9092", "--brokers"),
    ("error_cb", "f", "object of a program"),
    ("stats_cb", "f", "object of a program"),
    ("partitioner_callback", "f", "object of a program"),
    ("on_delivery", "f", "object of a program"),
    ("logger", "f", "object of a program"),
    ("default.topic.config", "f", "object of a program"),
    ("ssl_key", "f", "object of a program"),
    ("test.mock.num.brokers", "1", "no broker has"),
    ("enabled_events", "32", "not read"),
    ("log.queue", "true", "not read"),
    ("plugin.library.paths", "/tmp/x.so", "loads code"),
    ("ssl.engine.location", "/tmp/x.so", "loads code"),
    ("ssl.providers", "x", "loads code"),
    ("sasl.kerberos.kinit.cmd", "sh -c x", "runs a command"),
    ("enable.gapless.guarantee", "true", "take nothing more"),
    ("enable.gapless.guarantee", "false", "take nothing more"),
    ("topic.blacklist", "^orders", "does not"),
    ("internal.termination.signal", "15", "signals"),
    ("api.version.request", "false", "lose its id"),
    ("broker.version.fallback", "0.9.0", "lose its id"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_what_would_break_a_promise_is_refused_with_the_reason(name: str, value: str, reason: str) -> None:
    error = refusal({name: value})
    assert error.message.startswith(f"Kafka property {name}={value} is refused: ")
    assert reason in error.message
    assert error.cure.startswith(f"leave {name} out")


def test_every_property_of_this_librdkafka_is_classified_once() -> None:
    """One that a newer librdkafka brings is refused until somebody has decided what it may break."""
    installed = {ALIASES.get(name, name) for name in installed_properties()}
    assert len(installed) > 100
    classes = [FREE, CONSUMER_ONLY, RULES.keys(), {name for name in installed if is_object(name)}]
    unknown = sorted(name for name in installed if sum(name in names for names in classes) != 1)
    assert unknown == []


@pytest.mark.parametrize("name", ["acks ", "ACKS", "linger", "test.mock.partitions", "sasl.passwrd"])
def test_a_property_that_is_not_known_is_refused_without_its_value(name: str) -> None:
    error = refusal({name: "hunter2"})
    assert name in error.message
    assert "hunter2" not in f"{error} {error.cure}"


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_every_alias_is_one_of_librdkafkas(name: str) -> None:
    properties = dict.fromkeys((name, ALIASES[name]), None)
    assert properties.keys() <= installed_properties().keys()


def test_oauthbearer_without_a_source_of_tokens_is_refused_with_the_properties_to_set() -> None:
    error = refusal({"sasl.mechanism": "OAUTHBEARER", "security.protocol": "sasl_ssl"})
    assert "-X sasl.oauthbearer.method=oidc" in error.cure
    oidc = {"sasl.mechanisms": "OAUTHBEARER", "sasl.oauthbearer.method": "oidc"}
    assert effective(oidc, SETTINGS).items() >= oidc.items()
    unsecured = {"sasl.mechanism": "OAUTHBEARER", "enable.sasl.oauthbearer.unsecure.jwt": "true"}
    assert effective(unsecured, SETTINGS)["sasl.mechanisms"] == "OAUTHBEARER"


KEPT = [
    ("acks", "all"),
    ("acks", "-1"),
    ("acks", "ALL"),
    ("request.required.acks", "all"),
    ("enable.idempotence", "true"),
    ("enable.idempotence", "True"),
    ("enable.idempotence", "1"),
    ("message.timeout.ms", "0"),
    ("delivery.timeout.ms", "0"),
    ("partitioner", "murmur2"),
    ("partitioner", "murmur2_random"),
    ("retries", "2147483647"),
    ("max.in.flight", "1"),
    ("max.in.flight.requests.per.connection", "5"),
    ("queuing.strategy", "fifo"),
    ("linger.ms", "0"),
    ("compression.codec", "zstd"),
    ("compression.type", "none"),
    ("message.max.bytes", "16777216"),
    ("statistics.interval.ms", "5000"),
]


@pytest.mark.parametrize(("name", "value"), KEPT)
def test_what_keeps_the_promises_is_accepted_also_by_librdkafka(name: str, value: str) -> None:
    properties = effective({name: value}, SETTINGS)
    assert value in properties.values()
    del properties["bootstrap.servers"]
    confluent_kafka.Producer({**properties, "log_level": "0"})


def test_the_cure_names_the_values_that_are_allowed() -> None:
    assert refusal({"acks": "1"}).cure == "leave acks out, or set it to all or -1"
    assert refusal({"transactional.id": "x"}).cure == "leave transactional.id out"


@pytest.mark.parametrize(
    ("alias", "name", "value"),
    [
        ("request.required.acks", "acks", "-1"),
        ("compression.codec", "compression.type", "zstd"),
        ("delivery.timeout.ms", "message.timeout.ms", "0"),
        ("queue.buffering.max.ms", "linger.ms", "50"),
        ("max.in.flight", "max.in.flight.requests.per.connection", "1"),
        ("retries", "message.send.max.retries", "2147483647"),
    ],
)
def test_an_alias_takes_the_place_of_the_property(alias: str, name: str, value: str) -> None:
    """librdkafka would let the one win that it happens to read last."""
    properties = effective({alias: value}, SETTINGS)
    assert properties[name] == value
    assert alias not in properties


def test_the_last_of_two_names_of_a_property_wins() -> None:
    assert effective({"linger.ms": "1", "queue.buffering.max.ms": "2"}, SETTINGS)["linger.ms"] == "2"
    assert effective({"queue.buffering.max.ms": "2", "linger.ms": "1"}, SETTINGS)["linger.ms"] == "1"


def test_a_property_without_effect_on_a_promise_is_passed_unchanged() -> None:
    given = {"sasl.password": " p@ss=word ", "client.id": "relay-eu", "ssl.ca.location": "/etc/ca.pem"}
    properties = effective(given, SETTINGS)
    assert given.items() <= properties.items()
    assert DEFAULTS["client.id"] == "cdc-outbox"


@given(st.integers(1, 2**40), st.integers(1, 2**30))
def test_the_largest_record_always_finds_room_in_an_empty_queue(in_flight: int, largest: int) -> None:
    """librdkafka counts its queue in KiB: rounded down, a record could be too large to be queued and too small to be refused,
    and the relay would wait for ever."""
    settings = Settings(brokers="b", max_in_flight_bytes=in_flight)
    try:
        properties = effective({"message.max.bytes": str(largest)}, settings)
    except ConfigurationError:
        assert largest > in_flight
        return
    room = int(properties["queue.buffering.max.kbytes"]) * 1024
    assert largest <= in_flight <= room < in_flight + 1024


def test_a_record_that_could_never_be_queued_is_refused_at_start() -> None:
    settings = Settings(brokers="b", max_in_flight_bytes=1024 * 1024)
    error = refusal({"message.max.bytes": "2000000"}, settings)
    assert "message.max.bytes=2000000 is more than --max-in-flight-bytes=1048576" in error.message
    assert "--max-in-flight-bytes 8000000" in error.cure


def test_a_small_memory_without_a_smaller_record_is_refused_as_well() -> None:
    assert "message.max.bytes=1000000" in refusal({}, Settings(brokers="b", max_in_flight_bytes=999_999)).message


@pytest.mark.parametrize("value", ["", "1e6", "1 MB", "many", "1.5"])
def test_a_size_that_is_no_number_is_refused(value: str) -> None:
    assert "message.max.bytes is no number" in refusal({"message.max.bytes": value}).message


NO_NUMBERS = [
    "",
    " ",
    "ten",
    "10s",
    "15 000",
    "1_000",
    "010",
    "0x10",
    "1e3",
    "+5",
    "--5",
    "nan",
    "1,5",
    "\u0661\u0662",
    "5\n6",
    "9" * 5000,
]
"""librdkafka accepts most of them: it reads 10 in `10s`, which is 10 ms, and 8 in `010`."""


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_a_number_that_librdkafka_would_read_otherwise_is_refused(value: str) -> None:
    for name in NUMBERS:
        error = refusal({name: value})
        assert error.message == f"Kafka property {name} is no number: {value!r}"
        assert "without a unit" in error.cure


@pytest.mark.parametrize(("name", "value"), [("linger.ms", "0.5"), ("linger.ms", "0"), ("compression.level", "-1")])
def test_a_number_is_taken_as_it_is(name: str, value: str) -> None:
    assert effective({name: value}, SETTINGS)[name] == value


def test_an_alias_of_a_number_is_named_as_it_was_given() -> None:
    assert "queue.buffering.max.ms is no number: '2ms'" in refusal({"queue.buffering.max.ms": "2ms"}).message


def test_only_a_linger_has_decimals() -> None:
    assert "is no number" in refusal({"socket.timeout.ms": "1000.5"}).message


def test_the_numbers_are_those_of_this_librdkafka() -> None:
    types = documented_types()
    numeric = {ALIASES.get(name, name) for name, kind in types.items() if kind in ("integer", "float")}
    assert numeric & FREE == NUMBERS & types.keys()


def test_the_bounds_on_memory_are_those_of_the_settings() -> None:
    properties = effective({}, Settings(brokers="b", max_in_flight_events=7, max_in_flight_bytes=1024 * 1024))
    assert properties["queue.buffering.max.messages"] == "7"
    assert properties["queue.buffering.max.kbytes"] == "1024"


def test_the_version_of_librdkafka_is_reported() -> None:
    assert librdkafka_version().split(".")[0].isdigit()
