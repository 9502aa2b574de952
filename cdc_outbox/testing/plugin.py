"""The pytest plugin: fixtures `outbox_events`, `outbox_postgres`, `outbox_relay`. pytest finds it by its entry point.

In: nothing; `outbox_dsn`, if overridden. Out: events that are committed, a database, records.
Never: an import beside pytest's before a fixture is used, so that the plugin costs nothing in a project that does not use it.

`outbox_postgres` and `outbox_relay` need the extra `[testing]`; `outbox_events` needs psycopg.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cdc_outbox.testing.committed import CommittedEvents
    from cdc_outbox.testing.postgres import OutboxPostgres
    from cdc_outbox.testing.relay import OutboxRelay


@pytest.fixture(scope="session")
def outbox_dsn() -> str | None:
    """Override it to name a database of your own: a connection string whose role may read the outbox table.

    For `outbox_relay` the role also needs REPLICATION. None: `outbox_events` uses the address and role of the connection that
    emitted; `outbox_relay` uses `outbox_postgres`.
    """
    return None


@pytest.fixture
def outbox_events(outbox_dsn: str | None) -> Iterator[CommittedEvents]:
    """The events that this test has emitted and committed, in the order in which they were emitted.

    A list that is read anew at each use: an event appears in it once its transaction is committed, and never if it is rolled
    back.
    """
    from cdc_outbox.testing.committed import committed_events  # noqa: PLC0415 - see the module's docstring

    with committed_events(outbox_dsn) as events:
        yield events


@pytest.fixture(scope="session")
def outbox_postgres() -> Iterator[OutboxPostgres]:
    """A PostgreSQL server for the whole test run, without Docker. Its database has the outbox and the inbox."""
    from cdc_outbox.testing.postgres import embedded  # noqa: PLC0415

    with embedded() as postgres:
        yield postgres


@pytest.fixture(scope="session")
def _outbox_brokers() -> Iterator[str]:
    """A mock of Kafka, for the whole test run."""
    from cdc_outbox.testing.relay import brokers  # noqa: PLC0415

    with brokers() as address:
        yield address


@pytest.fixture
def outbox_relay(request: pytest.FixtureRequest, outbox_dsn: str | None, _outbox_brokers: str) -> Iterator[OutboxRelay]:
    """Call it to relay what was committed since the test began, or since the last call, and to get the records.

    Options of `cdc-outbox run` can be passed: `outbox_relay("--format", "cloudevents")`.
    """
    from cdc_outbox.testing.relay import relay  # noqa: PLC0415

    dsn = outbox_dsn or request.getfixturevalue("outbox_postgres").dsn
    with relay(dsn, _outbox_brokers) as started:
        yield started
