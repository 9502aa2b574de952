"""An outbox on servers that are there to be broken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database


@pytest.fixture
def fragile(database: Database, fragile_kafka: KafkaCluster, relay: Callable[..., Relay]) -> Outbox:
    """An outbox whose Kafka may be broken; its topic is there."""
    outbox = Outbox(database, fragile_kafka, relay)
    fragile_kafka.create_topic(f"{outbox.prefix}order")
    return outbox
