"""A fault that many topics have is one line, with one cure."""

from __future__ import annotations

from cdc_outbox.check.report import Report


def missing(topic: str) -> tuple[str, str, str]:
    return (
        "kafka.topic",
        f"topic {topic} does not exist, and the brokers make none by themselves",
        f"kafka-topics.sh --bootstrap-server b:9092 --create --topic {topic} --partitions 6",
    )


def test_a_fault_of_many_topics_is_one_line() -> None:
    report = Report()
    report.ok("kafka.reach", "b:9092")
    since = len(report.findings)
    topics = ["orders", "orders.eu", "bills", "well"]
    for topic in topics[:3]:
        report.fail(*missing(topic))
        report.not_checked(f"topic {topic} is not there", "kafka.size")
    report.ok("kafka.topic", "well, 6 partitions")
    report.fail("kafka.size", "the table has a record of 9 MB for well", "keep large payloads elsewhere")
    report.merge(topics, since)

    assert [(each.check, each.status, each.message) for each in report.findings] == [
        ("kafka.reach", "ok", "b:9092"),
        (
            "kafka.topic",
            "fail",
            "3 topics: topic … does not exist, and the brokers make none by themselves: orders, orders.eu, bills",
        ),
        ("kafka.size", "not-checked", "3 topics: not checked: topic … is not there: orders, orders.eu, bills"),
        ("kafka.topic", "ok", "well, 6 partitions"),
        ("kafka.size", "fail", "the table has a record of 9 MB for well"),
    ]
    assert report.findings[1].cures == (
        (
            "for topic in orders orders.eu bills; do "
            "kafka-topics.sh --bootstrap-server b:9092 --create --topic $topic --partitions 6; done"
        ),
    )


def test_a_fault_of_one_topic_keeps_its_words() -> None:
    report = Report()
    report.fail(*missing("orders"))
    before = list(report.findings)
    report.merge(["orders", "bills"], 0)

    assert report.findings == before
