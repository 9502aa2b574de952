"""A database with outbox and inbox, and a connection of each kind to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cdc_outbox.commands.install import InstallOptions, apply_consumer, apply_install
from tests.integration.app.adapters import ADAPTERS
from tests.integration.app.topic import EFFECTS, Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.app.adapters import Adapter
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database


@pytest.fixture
def shop(database: Database) -> Database:
    """A shop's database: a table of its own, the outbox, the inbox."""
    apply_install(database.dsn, InstallOptions(), pytest.fail)
    apply_consumer(database.dsn, pytest.fail)
    database.execute("CREATE TABLE orders (id int)")
    return database


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest, shop: Database) -> Iterator[Adapter]:
    """Of each kind, one."""
    with ADAPTERS[request.param](shop.dsn) as opened:
        yield opened


@pytest.fixture
def bank(shop: Database) -> Database:
    """The consumer's database: an inbox, and a table that every effect is a row of."""
    shop.execute(EFFECTS)
    return shop


@pytest.fixture
def topic(kafka: KafkaCluster) -> Topic:
    return Topic(kafka, kafka.create_topic(f"{kafka.unique_topic_prefix()}.events", partitions=3))
