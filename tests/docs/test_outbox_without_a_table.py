"""docs/how-to/outbox-without-a-table.md, followed to the letter: set up, written in both ways, the same record twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.docs.pages import read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

INSTALL, RUN, EMIT, BY_HAND = (each.text for each in read("docs/how-to/outbox-without-a-table.md").blocks)

CAUGHT_UP: Final = f"{RUN.strip()} --until caught-up"


def test_the_page_in_order(database: Database, kafka: KafkaCluster, shell: Shell) -> None:
    prefix = kafka.unique_topic_prefix()
    settings = {"DSN": database.dsn, "BROKERS": kafka.brokers, "CDC_OUTBOX_TOPIC": prefix + "{aggregatetype}"}
    shell(INSTALL, **settings)
    status = shell("cdc-outbox sql status --source message", **settings, CDC_OUTBOX_DSN=database.dsn)
    assert "not needed" in status.stdout
    shell(CAUGHT_UP, **settings)
    database.execute("CREATE TABLE orders (id int, status text)")
    database.execute(EMIT)
    database.execute(BY_HAND)
    shell(CAUGHT_UP, **settings)
    by_function, by_hand = kafka.consume(f"^{prefix}", 2)
    for record in (by_function, by_hand):
        assert (record.topic, record.key) == (f"{prefix}order", b"42")
        assert (record.value, record.header("type")) == (b'{"order": 42, "total": 99.5}', b"OrderPaid")
    assert by_hand.headers[0] == ("id", b"01a207b6-8329-7897-99bd-428955e6b3ed")
    assert by_hand.header("tenant") == b"acme"
    assert [name for name, _ in by_function.headers] == ["id", "type"]
