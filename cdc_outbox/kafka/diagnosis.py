"""Why records wait for Kafka without a known error: librdkafka retries by itself, and reports no code meanwhile.

In: the cluster's description of a topic that records wait for. Out: an error with a cure, as commands to run.
Never: a decision of the relay. The error is for the log and the status only.
"""

from __future__ import annotations

from cdc_outbox.errors import Unreachable
from cdc_outbox.kafka.topics import Topic


def silent(brokers: str) -> Unreachable:
    """The error for brokers that do not answer on an open connection."""
    return Unreachable(
        "Kafka does not answer, though connections to it are open: brokers are frozen, overloaded, or behind a broken network",
        cure=f"see whether they answer others: kafka-broker-api-versions.sh --bootstrap-server {brokers}",
        code="kafka-silent",
    )


def not_taken(brokers: str, name: str, topic: Topic | None) -> Unreachable:
    """The error for a cluster that answers but confirms no record of a topic. `topic`: its description, if there is one."""
    describe = f"kafka-topics.sh --bootstrap-server {brokers} --describe --topic {name}"
    if topic is not None and topic.min_in_sync is not None and topic.in_sync < topic.min_in_sync:
        return Unreachable(
            f"topic {name} has {topic.in_sync} replicas in sync, and min.insync.replicas is {topic.min_in_sync}: Kafka "
            "takes no record of it",
            cure=f"bring back the brokers that are missing: {describe}",
            topic=name,
            code="topic-replicas",
        )
    return Unreachable(
        f"Kafka answers, and confirms no record of topic {name}",
        code="kafka-unconfirmed",
        cure=f"{describe} shows its leaders and the replicas in sync: fewer than min.insync.replicas (NOT_ENOUGH_REPLICAS)? "
        f"kafka-log-dirs.sh --bootstrap-server {brokers} --describe shows a failed disk (KAFKA_STORAGE_ERROR)",
        topic=name,
    )
