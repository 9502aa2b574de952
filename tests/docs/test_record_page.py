"""docs/reference/record.md: its command runs. What else it says: tests/end_to_end/test_record.py, test_record_options.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.docs.pages import read

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]


(COMMAND,) = [each for each in read("docs/reference/record.md").blocks if each.language == "sh"]


def test_the_command_for_cloudevents_runs(database: Database, kafka: KafkaCluster, shell: Shell) -> None:
    prefix = kafka.unique_topic_prefix()
    settings = {
        "CDC_OUTBOX_DSN": database.dsn,
        "BROKERS": kafka.brokers,
        "CDC_OUTBOX_TOPIC": prefix + "{aggregatetype}",
    }
    shell("cdc-outbox sql install --apply", **settings)
    database.execute("SELECT outbox_emit('order', '42', 'OrderPaid', '{}', '{\"ce_region\": \"eu\"}')")
    shell(f"{COMMAND.text.strip()} --until caught-up", **settings)
    (record,) = kafka.consume(f"^{prefix}", 1)
    assert record.header("ce_source") == b"/shop/order"
    assert record.header("ce_region") == b"eu"
