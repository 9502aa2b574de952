"""Checks of Kafka: brokers that are reachable and accept the login; topics that exist, are writable and are replicated.

In: the producer's properties, the records of the newest rows. Out: lines `kafka.…`. Never: a record sent, a topic created.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdc_outbox.check.recent import Recent
from cdc_outbox.check.report import Report
from cdc_outbox.config.settings import Settings
from cdc_outbox.config.value_types import size_text
from cdc_outbox.counters import Counters
from cdc_outbox.errors import AccessRefused, CdcOutboxError
from cdc_outbox.kafka.producer import Publisher
from cdc_outbox.kafka.topics import Defaults, Topic, TopicCatalog
from cdc_outbox.records.templates import TopicTemplate

CHECKS: Final = ("kafka.topic", "kafka.write", "kafka.size", "kafka.replication")

MOST_TOPICS: Final = 50
"""Topics to check, at most: a template with the key may name thousands of similar topics."""

GOOD_REPLICAS: Final = 3
GOOD_IN_SYNC: Final = 2
"""Kafka's documentation recommends these values for records that must not be lost: one broker may fail."""

GOOD_PARTITIONS: Final = 6
"""For the proposed command: more than one, so that there can be several consumers."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that has answered a metadata request."""

    brokers: str
    count: int
    defaults: Defaults | None
    catalog: TopicCatalog

    def create(self, topic: str) -> str:
        """The command that creates a topic with the recommended settings."""
        replicas = min(GOOD_REPLICAS, self.count)
        in_sync = f" --config min.insync.replicas={GOOD_IN_SYNC}" if replicas > GOOD_IN_SYNC else ""
        return (
            f"kafka-topics.sh --bootstrap-server {self.brokers} --create --topic {topic} --partitions {GOOD_PARTITIONS} "
            f"--replication-factor {replicas}{in_sync}"
        )

    def permit(self, topic: str) -> str:
        """The command that grants the right to write to a topic."""
        return (
            f"kafka-acls.sh --bootstrap-server {self.brokers} --add --allow-principal User:NAME --producer --topic {topic}; "
            "NAME is the sasl.username, or the subject of our certificate"
        )

    def configure(self, topic: str, name: str, value: int) -> str:
        """The command that sets a property of a topic."""
        return (
            f"kafka-configs.sh --bootstrap-server {self.brokers} --alter --entity-type topics --entity-name {topic} "
            f"--add-config {name}={value}"
        )


def reach(settings: Settings, properties: dict[str, str], report: Report) -> Cluster | None:
    """Log in as the relay does. Returns None if that fails."""
    check = "kafka.reach"
    publisher = None
    try:
        publisher = Publisher(dict(properties), Counters())
        publisher.reach()
        catalog = TopicCatalog(properties)
        cluster = Cluster(settings.brokers, catalog.brokers(), catalog.defaults(), catalog)
    except CdcOutboxError as error:
        report.fail_with(check, error)
        return None
    finally:
        if publisher is not None:
            publisher.abandon()
    report.ok(check, f"{cluster.count} broker{'s' if cluster.count > 1 else ''}, asked at {settings.brokers}")
    return cluster


def check_topics(
    cluster: Cluster, settings: Settings, properties: Mapping[str, str], recent: Recent | None, report: Report
) -> None:
    """Check each topic of the newest rows, and the dead-letter topic."""
    with report.judging("kafka.topic"):
        wanted = _wanted(cluster, settings, recent)
        if not wanted:
            why = "the table cannot be read" if recent is None or recent.unreadable else "there are no rows"
            report.not_checked(f"which topics are needed is not known, since {why}", *CHECKS)
        since = len(report.findings)
        for topic, largest in sorted(wanted.items())[:MOST_TOPICS]:
            _check_topic(cluster, topic, largest, Limits(settings, properties), report)
        report.merge(list(wanted), since)
        if len(wanted) > MOST_TOPICS:
            report.not_checked(f"{len(wanted) - MOST_TOPICS} more topics", "kafka.topic")


def check_write(cluster: Cluster, topic: str, report: Report) -> Topic | None:
    """Check that the topic exists and is writable. Returns None if it does not exist or is not visible. Raises Unreachable."""
    try:
        found = cluster.catalog.describe(topic)
    except AccessRefused as error:
        report.fail_with("kafka.write", error)
        return None
    if found is None:
        _report_missing(cluster, topic, report)
        return None
    report.ok("kafka.topic", f"{topic}, {found.partitions} partitions")
    if found.may_write is False:
        report.fail(
            "kafka.write",
            f"Kafka does not let us write to topic {topic}",
            cluster.permit(topic),
        )
    elif found.may_write is None:
        report.not_checked(f"the brokers do not report the permitted operations on {topic}", "kafka.write")
    else:
        report.ok("kafka.write", f"we may write to {topic}")
    return found


def _wanted(cluster: Cluster, settings: Settings, recent: Recent | None) -> dict[str, int]:
    """The topics to check, each with the size in bytes of its largest known record."""
    wanted = dict(recent.topics) if recent is not None else {}
    template = TopicTemplate(settings.topic)
    if not template.columns:
        wanted.setdefault(settings.topic, 0)
    elif not wanted:
        pattern = "[A-Za-z0-9._-]+".join(map(re.escape, template.literals))
        fitting = re.compile(pattern) if any(template.literals) else None
        wanted = {name: 0 for name in cluster.catalog.names() if fitting is not None and fitting.fullmatch(name)}
    if settings.on_poison == "dead-letter" and settings.dead_letter_topic:
        wanted.setdefault(settings.dead_letter_topic, 0)
    return wanted


class Limits:
    """The producer's size limits, in bytes."""

    def __init__(self, settings: Settings, properties: Mapping[str, str]) -> None:
        self.record = int(properties["message.max.bytes"])
        self.in_flight = settings.max_in_flight_bytes

    def lift(self, record: int) -> str:
        """The options that allow a record of this size."""
        room = f" --max-in-flight-bytes {4 * record}" if record > self.in_flight else ""
        return f"-X message.max.bytes={record}{room}"


def _check_topic(cluster: Cluster, topic: str, largest: int, limits: Limits, report: Report) -> None:
    found = check_write(cluster, topic, report)
    _check_size(cluster, topic, found, largest, limits, report)
    if found is None:
        report.not_checked(f"topic {topic} is not there, or not to be seen", "kafka.replication")
    else:
        _check_replication(cluster, found, report)


def _report_missing(cluster: Cluster, topic: str, report: Report) -> None:
    defaults, create = cluster.defaults, cluster.create(topic)
    if defaults is None:
        report.warn(
            "kafka.topic",
            f"topic {topic} does not exist, and auto.create.topics.enable of the brokers is not visible: if it is false, the "
            "relay stops (78) at its first event",
            create,
        )
    elif defaults.makes_topics:
        report.warn(
            "kafka.topic",
            f"topic {topic} does not exist: the brokers make it with its first record, {defaults.partitions} partitions and "
            f"replication factor {defaults.replicas}",
            create,
        )
    else:
        report.fail(
            "kafka.topic",
            f"topic {topic} does not exist, and the brokers make none by themselves (auto.create.topics.enable=false)",
            create,
        )


def _check_size(
    cluster: Cluster, topic: str, found: Topic | None, largest: int, limits: Limits, report: Report
) -> None:
    check = "kafka.size"
    theirs = None if found is None else found.max_message_bytes
    elsewhere = "or keep large payloads elsewhere, and send where they are"
    if largest > limits.record:
        report.fail(
            check,
            f"the table has a record of {size_text(largest)} for {topic}, and message.max.bytes here is "
            f"{size_text(limits.record)}",
            f"{limits.lift(2 * largest)}, and {cluster.configure(topic, 'max.message.bytes', 2 * largest)}",
            elsewhere,
        )
    elif found is None:
        report.not_checked(f"topic {topic} is not there, or not to be seen", check)
    elif theirs is None:
        report.not_checked(f"the brokers do not show us the settings of {topic}", check)
    elif largest > theirs:
        report.fail(
            check,
            f"the table has a record of {size_text(largest)} for {topic}, whose max.message.bytes is "
            f"{size_text(theirs)}: refused, unless compression makes it small enough",
            cluster.configure(topic, "max.message.bytes", max(2 * largest, limits.record)),
            elsewhere,
        )
    elif limits.record > theirs:
        report.warn(
            check,
            f"message.max.bytes here is {size_text(limits.record)}, and max.message.bytes of {topic} is "
            f"{size_text(theirs)}: a record "
            "between the two is found out only by Kafka's refusal, with its neighbours",
            cluster.configure(topic, "max.message.bytes", limits.record),
            f"or -X message.max.bytes={theirs}",
        )
    else:
        known = f"the largest of the newest records has {size_text(largest)}, " if largest else ""
        report.ok(check, f"{topic}: {known}{size_text(limits.record)} fit")


def _check_replication(cluster: Cluster, topic: Topic, report: Report) -> None:
    check = "kafka.replication"
    need = None if topic.min_in_sync is None else min(topic.min_in_sync, topic.replicas)  # so brokers read it as well
    reported = (
        f"{topic.name} has {topic.replicas} {'copies' if topic.replicas > 1 else 'copy'}, {topic.in_sync} in sync"
    )
    two = cluster.configure(topic.name, "min.insync.replicas", GOOD_IN_SYNC)
    if need is not None and topic.in_sync < need:
        report.fail(
            check,
            f"{reported}, and min.insync.replicas is {need}: it takes no record",
            "bring the brokers back that are missing; or, at the risk of losing records with one more, "
            + cluster.configure(topic.name, "min.insync.replicas", topic.in_sync),
        )
    elif topic.replicas == 1:
        report.warn(
            check,
            f"{reported}: with that one broker's disk its records are lost",
            "in a cluster of three brokers: kafka-reassign-partitions.sh gives it three replicas; then " + two,
        )
    elif need is None:
        report.not_checked(f"the brokers do not show us the settings of {topic.name}", check)
    elif need < GOOD_IN_SYNC:
        report.warn(
            check,
            f"{reported}, and min.insync.replicas is {need}: a record counts as delivered while one broker alone has it",
            two,
        )
    elif need >= topic.replicas:
        report.warn(
            check,
            f"{reported}, and min.insync.replicas is {need}: it takes no record while one broker restarts",
            two if topic.replicas > GOOD_IN_SYNC else "give it three replicas: kafka-reassign-partitions.sh",
        )
    else:
        report.ok(check, f"{reported}, min.insync.replicas is {need}")
