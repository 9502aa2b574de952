"""The relay's records for the same rows are those that Debezium made of them; what differs is listed, and nothing else does.

The slot and the publication are such as Debezium makes: of its names, and publishing updates and deletes too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.parity.cases import CASES, DEFAULTS, PLACED, TOPICS, Case, as_json, recording, table_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

TYPE: Final = "type"
"""The header that the relay adds and the router does not, unless it is placed."""


def relayed(case: Case, database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]) -> list[dict[str, Any]]:
    """What the relay makes of a case, in the shape of the recording."""
    database.execute(case.table)
    database.execute("CREATE PUBLICATION dbz_publication FOR TABLE outboxevent")
    database.execute("SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
    for transaction in case.transactions:
        database.execute(f"BEGIN; {transaction}; COMMIT")
    done = relay(
        *("--table", "outboxevent", "--slot", "debezium", "--publication", "dbz_publication", "--no-create-slot"),
        *("--until", "caught-up", *case.options),
        database=database,
        kafka=kafka,
    )
    assert done.wait() == 0, done.stderr_text
    found = [as_json(each) for each in kafka.consume(TOPICS, 0)]
    return [each for _, records in sorted(table_of(found).items()) for each in records]


# --- what differs, and how -----------------------------------------------------------------------------------------------


def as_the_relay_has_it(record: dict[str, Any], case: Case) -> dict[str, Any]:
    """A record of Debezium's with all that docs/how-to/migrate-from-debezium.md says is different, and with no more."""
    headers = [
        [name, {"true": "t", "false": "f"}.get(value, value) if name == "isUrgent" else value]
        for name, value in record["headers"]
        if not name.startswith("__debezium.context.") and value is not None
    ]
    return {
        **record,
        "headers": headers,
        "timestamp": record["timestamp"] if comes_from_a_column(record, case) else None,
    }


def without_what_is_ours(record: dict[str, Any], theirs: dict[str, Any], case: Case) -> dict[str, Any]:
    """Ours without the header `type` where the router was not told to have it, and without the time of the commit."""
    placed = TYPE in [name for name, _ in theirs["headers"]]
    headers = [[name, value] for name, value in record["headers"] if placed or name != TYPE]
    return {
        **record,
        "headers": headers,
        "timestamp": record["timestamp"] if comes_from_a_column(theirs, case) else None,
    }


def comes_from_a_column(record: dict[str, Any], case: Case) -> bool:
    """The first instant of 1970 is librdkafka's word for now."""
    return case is PLACED and record["timestamp"] != 0


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_records_are_those_that_debezium_made_of_the_same_rows_but_for_what_is_listed(
    case: Case, database: Database, kafka: KafkaCluster, relay: Callable[..., Relay]
) -> None:
    if kafka.server is None:
        pytest.skip("its topics have names that are not the test's own, and must be empty")
    ours, theirs = relayed(case, database, kafka, relay), recording()["records"][case.name]

    assert len(theirs) == rows_of(case)
    assert [without_what_is_ours(mine, other, case) for mine, other in zip(ours, theirs, strict=True)] == [
        as_the_relay_has_it(record, case) for record in theirs
    ]


def rows_of(case: Case) -> int:
    return sum(transaction.count("INSERT") for transaction in case.transactions)


def test_the_recording_has_what_the_cases_are_about() -> None:
    """Were one of these missing, the comparison would prove less than it seems to."""
    records = recording()["records"]
    defaults, placed = records[DEFAULTS.name], records[PLACED.name]
    assert {record["partition"] for record in defaults} == set(range(6)), "every partition, by the hash of the key"
    assert [record["value"] for record in defaults].count(None) == 1, "a NULL payload: a tombstone"
    assert {header for record in defaults for header, _ in record["headers"] if not header.startswith("__")} == {"id"}
    assert {"eventType", "isUrgent"} <= {header for record in placed for header, _ in record["headers"]}
    assert [None] in [[value for name, value in record["headers"] if name == "tenant"] for record in placed]
    assert {record["partition"] for record in placed} == {0, 1, 2}, "by the column, whatever the key"
    assert len({record["key"] for record in placed}) == 2
    assert all(record["key"] for record in records["columns of other names, and topics of one's own"])
