"""Counters stay small whatever is written, and every event is counted somewhere."""

from __future__ import annotations

from cdc_outbox.counters import MAX_TOPICS, OTHER_TOPICS, Counters


def test_a_topic_for_every_key_does_not_fill_the_memory() -> None:
    counters = Counters()
    for number in range(5 * MAX_TOPICS):
        counters.topic(f"topic-{number}").delivered += 1

    assert len(counters.topics) == MAX_TOPICS + 1
    assert counters.topics["topic-0"].delivered == 1
    assert counters.topics[OTHER_TOPICS].delivered == 4 * MAX_TOPICS


def test_a_topic_keeps_its_own_count_once_it_has_one() -> None:
    counters = Counters()
    first = counters.topic("orders")
    for number in range(MAX_TOPICS):
        counters.topic(f"topic-{number}")

    assert counters.topic("orders") is first


def test_refusals_by_topics_without_a_delivery_do_not_fill_the_memory_either() -> None:
    counters = Counters()
    counters.topic("orders")
    for number in range(2 * MAX_TOPICS):
        counters.count_delivery_error(f"topic-{number}", "UNKNOWN_TOPIC_OR_PART")
    counters.count_delivery_error("orders", "MSG_SIZE_TOO_LARGE")

    assert len(counters.delivery_errors) == MAX_TOPICS + 2
    assert counters.delivery_errors["orders", "MSG_SIZE_TOO_LARGE"] == 1
    assert sum(counters.delivery_errors.values()) == 2 * MAX_TOPICS + 1


def test_records_in_flight_are_unconfirmed_since_the_first_was_sent_and_since_the_last_confirmation() -> None:
    counters = Counters()
    counters.note_in_flight(0, 0, 0, 1.0)
    assert counters.unconfirmed_since_monotonic is None
    counters.note_in_flight(2, 20, 0, 2.0)
    counters.note_in_flight(3, 30, 0, 3.0)
    assert counters.unconfirmed_since_monotonic == 2.0
    counters.note_in_flight(3, 30, 10, 4.0)
    counters.note_in_flight(3, 30, 10, 5.0)
    assert counters.unconfirmed_since_monotonic == 4.0
    counters.note_in_flight(0, 0, 40, 6.0)
    assert counters.unconfirmed_since_monotonic is None


def test_kafka_is_connected_since_its_first_answer_and_away_since_its_first_error() -> None:
    counters = Counters()
    counters.kafka_answers(1.0)
    counters.kafka_fails("broker 1 is slow", 2.0, connected=True)
    assert (counters.kafka_connected, counters.kafka_error) == (True, "broker 1 is slow")
    counters.kafka_answers(3.0)
    assert (counters.kafka_error, counters.kafka_since_timestamp) == (None, 1.0)

    counters.kafka_fails("refused", 4.0)
    counters.kafka_fails("refused again", 5.0)
    assert (counters.kafka_connected, counters.kafka_error) == (False, "refused again")
    assert counters.kafka_since_timestamp == 4.0
