"""Kafka to be broken: a real broker behind a proxy, which tests stop, freeze and slow down; and librdkafka's mock cluster."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from cdc_outbox.demo.ports import free_port
from tests.plugins.absence import absent
from tests.plugins.kafka import KafkaCluster
from tests.servers.kafka import BRIEF, Kafka, KafkaUnavailable
from tests.servers.mock_kafka import MockKafka, MockUnavailable
from tests.servers.place import data_folder
from tests.servers.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def fragile_broker() -> Iterator[KafkaCluster]:
    """One broker for all tests that break one: it comes back in two seconds, and a new one takes four."""
    port = free_port()
    try:
        properties = {"auto.create.topics.enable": "false"}
        server = Kafka(heap=BRIEF, advertised_port=port, properties=properties, parent=data_folder())
        with server, Proxy(("127.0.0.1", server.port), port=port) as proxy:
            yield KafkaCluster(server.brokers, server, proxy)
    except KafkaUnavailable as error:
        absent(str(error))


@pytest.fixture
def fragile_kafka(fragile_broker: KafkaCluster) -> Iterator[KafkaCluster]:
    """A broker that may be stopped, killed, paused; its `proxy` frozen, cut, slow. It makes no topic on demand. Clients
    go through the proxy, `consume` and the like straight to it. Whatever a test did to it is undone after the test.
    """
    server, proxy = fragile_broker.server, fragile_broker.proxy
    assert server is not None
    assert proxy is not None
    before = fragile_broker.topics()
    yield fragile_broker
    proxy.thaw()
    proxy.cut()
    proxy.delay(0.0)
    proxy.accept()
    with contextlib.suppress(ProcessLookupError):
        server.resume()
    server.start()
    fragile_broker.delete_topics(fragile_broker.topics() - before)


@pytest.fixture
def mock_kafka() -> Iterator[MockKafka]:
    """A mock cluster of one broker."""
    try:
        with MockKafka() as mock:
            yield mock
    except MockUnavailable as error:
        absent(str(error))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever takes a broker is marked by it."""
    for item in items:
        if "fragile_broker" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.kafka)
