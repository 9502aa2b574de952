"""An outbox whose Kafka is a cluster of three brokers, for tests that take some of them away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.plugins.absence import absent
from tests.plugins.kafka import ENVIRONMENT, KafkaCluster
from tests.plugins.outbox import Outbox
from tests.servers.kafka import KafkaUnavailable
from tests.servers.place import data_folder
from tests.servers.three_brokers import ThreeBrokers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.daemon import Relay
    from tests.plugins.postgres import Database


@pytest.fixture(scope="session")
def three_brokers_of_session() -> Iterator[ThreeBrokers]:
    """One cluster for all tests that break one: ten seconds and half a gigabyte, where nothing else runs."""
    try:
        with ThreeBrokers(parent=data_folder()) as servers:
            yield servers
    except KafkaUnavailable as error:
        absent(str(error))


@pytest.fixture
def three_brokers(three_brokers_of_session: ThreeBrokers) -> Iterator[ThreeBrokers]:
    """Three brokers that may be killed, stopped and paused. Whatever a test did to them is undone after the test."""
    yield three_brokers_of_session
    three_brokers_of_session.heal()


@pytest.fixture
def replicated(database: Database, three_brokers: ThreeBrokers, relay: Callable[..., Relay]) -> Outbox:
    """An outbox on the three brokers, with a slot; its topic has one partition, so that one broker leads all of it."""
    outbox = Outbox(database, KafkaCluster(three_brokers.brokers), relay)
    outbox.kafka.create_topic(f"{outbox.prefix}order", partitions=1)
    outbox.create()
    outbox.create_slot()
    return outbox


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes the brokers is marked by it, and skipped where the brokers of somebody else are under test."""
    for item in items:
        if "three_brokers_of_session" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
            item.add_marker(pytest.mark.timeout(300))  # three Java machines that start on a busy machine
            if os.environ.get(ENVIRONMENT):
                item.add_marker(pytest.mark.skip(reason=f"{ENVIRONMENT} names brokers that are not to be broken"))
