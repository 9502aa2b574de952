"""Topics as the cluster describes them: replicas, size limit, and whether the relay may write.

In: the producer's properties, names of topics. Out: `Topic`, None for one that does not exist, or CdcOutboxError.
Never: a topic created, or a setting changed. A value that the principal may not see is None.

Kafka: the admin API's DescribeTopics and DescribeConfigs. A principal that may write to a topic may describe it; its settings,
and the brokers', need the operation DescribeConfigs.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._acl import AclOperation
from confluent_kafka.admin._config import ConfigEntry, ConfigResource
from confluent_kafka.admin._metadata import ClusterMetadata
from confluent_kafka.admin._topic import TopicDescription

from cdc_outbox.errors import CdcOutboxError, Unreachable
from cdc_outbox.kafka.errors import SILENT, final, kafka_error
from cdc_outbox.kafka.library_log import LIBRARY_LOG
from cdc_outbox.kafka.properties import connection_properties

log = structlog.get_logger(__name__)

ANSWER_SECONDS: Final = 5.0
"""For one request. Brokers answer it from memory; the election of a controller takes about as long."""

_ConfigFuture: TypeAlias = "Future[dict[str, ConfigEntry]]"

_UNKNOWN: Final = frozenset({KafkaError._UNKNOWN_TOPIC, KafkaError.UNKNOWN_TOPIC_OR_PART})


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic. None: the principal may not see the value."""

    name: str
    partitions: int
    replicas: int
    """Replicas of the partition that has the fewest."""
    in_sync: int
    """In-sync replicas of the partition that has the fewest."""
    may_write: bool | None
    max_message_bytes: int | None
    """The largest batch that the topic accepts, after compression; a single record is a batch."""
    min_in_sync: int | None
    """`min.insync.replicas`: with fewer in sync, the topic accepts no record."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """A broker's settings for topics that do not exist yet."""

    makes_topics: bool
    partitions: int
    replicas: int


class Inquiry:
    """A topic that is being looked up: its description and its settings, requested at the same time."""

    def __init__(self, name: str, described: Future[TopicDescription], config: _ConfigFuture) -> None:
        self._name = name
        self._described = described
        self._config = config

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds`. True when the answer is complete."""
        asked: list[Future[object]] = [cast("Future[object]", self._described), cast("Future[object]", self._config)]
        return not wait(asked, seconds).not_done

    def answer(self, seconds: float = 0.0) -> Topic | None:
        """The topic; None if it does not exist. Raises AccessRefused or Unreachable."""
        try:
            raised = self._described.exception(
                seconds
            )  # not raised again: its traceback would keep references to all callers
        except FutureTimeout:
            raise Unreachable(f"Kafka: {SILENT}", code="kafka-error") from None
        if raised is not None:
            error = kafka_error(raised)
            if error is not None and error.code() in _UNKNOWN:
                return None
            raise _translated(raised, self._name) from None
        described = self._described.result()
        config = _config(self._config, self._name, seconds)
        operations = cast("list[AclOperation] | None", described.authorized_operations)
        return Topic(
            self._name,
            partitions=len(described.partitions),
            replicas=min(len(one.replicas) for one in described.partitions),
            in_sync=min(len(one.isr) for one in described.partitions),
            may_write=None if operations is None else AclOperation.WRITE in operations,
            max_message_bytes=_number(config, "max.message.bytes"),
            min_in_sync=_number(config, "min.insync.replicas"),
        )


class TopicCatalog:
    """Queries a cluster that has answered before. `properties`: the producer's."""

    def __init__(self, properties: Mapping[str, str]) -> None:
        self._admin = AdminClient(connection_properties(properties), logger=LIBRARY_LOG)

    def names(self) -> list[str]:
        """Topics that the principal may describe, without Kafka's own. Raises CdcOutboxError."""
        return sorted(name for name in self._metadata().topics if not name.startswith("__"))

    def brokers(self) -> int:
        """The number of brokers. Raises CdcOutboxError."""
        return len(self._metadata().brokers)

    def describe(self, name: str) -> Topic | None:
        """Look the topic up, without creating it. Raises Unreachable, or AccessRefused when it may not be described."""
        return self.ask(name).answer(ANSWER_SECONDS)

    def ask(self, name: str, seconds: float = ANSWER_SECONDS) -> Inquiry:
        """Begin to look the topic up. `seconds`: how long the cluster may take."""
        resource = ConfigResource(ConfigResource.Type.TOPIC, name)
        described = self._admin.describe_topics(
            TopicCollection([name]), include_authorized_operations=True, request_timeout=seconds
        )
        return Inquiry(
            name, described[name], self._admin.describe_configs([resource], request_timeout=seconds)[resource]
        )

    def defaults(self) -> Defaults | None:
        """The settings of one broker, any; None when the principal may not see them. Raises CdcOutboxError."""
        broker = next(iter(self._metadata().brokers))
        config = self._settings(ConfigResource(ConfigResource.Type.BROKER, str(broker)))
        if "auto.create.topics.enable" not in config:
            return None
        return Defaults(
            makes_topics=config["auto.create.topics.enable"] == "true",
            partitions=_number(config, "num.partitions") or 1,
            replicas=_number(config, "default.replication.factor") or 1,
        )

    def _metadata(self) -> ClusterMetadata:
        try:
            return self._admin.list_topics(timeout=ANSWER_SECONDS)
        except KafkaException as raised:
            raise _translated(raised) from raised

    def _settings(self, resource: ConfigResource) -> dict[str, str]:
        """The settings of `resource`; empty when the principal may not see them."""
        try:
            future = self._admin.describe_configs([resource], request_timeout=ANSWER_SECONDS)[resource]
        except KafkaException as error:
            log.debug("topic.limit.unknown", topic=resource.name, error=str(error))
            return {}
        return _config(future, resource.name, ANSWER_SECONDS)


def _config(future: _ConfigFuture, name: str, seconds: float) -> dict[str, str]:
    """Settings by name; empty when the principal may not see them."""
    try:
        raised = future.exception(seconds)
    except FutureTimeout:
        raised = TimeoutError(SILENT)
    if raised is not None:
        log.debug("topic.limit.unknown", topic=name, error=str(raised))
        return {}
    return {setting: str(entry.value) for setting, entry in future.result().items()}


def _translated(raised: BaseException, topic: str = "") -> CdcOutboxError:
    error = kafka_error(raised)
    known = None if error is None else final(error, topic)
    return known or Unreachable(f"Kafka: {raised}", code="kafka-error")


def _number(config: Mapping[str, str], name: str) -> int | None:
    try:
        return int(config[name])
    except (KeyError, ValueError):
        return None
