"""docs/how-to/schema-registry.md, followed: each format is emitted, relayed, and decoded by the registry's deserializers."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any, Final

import psycopg
import pytest
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from cdc_outbox.commands.install import apply_consumer
from tests.docs.pages import block, read
from tests.docs.test_application_pages import url
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.plugins.daemon import Relay
    from tests.plugins.kafka import KafkaCluster
    from tests.plugins.postgres import Database

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PAGE: Final = "docs/how-to/schema-registry.md"

PROTO: Final = """
syntax = "proto3";
package shop;
message PaymentReceived {
  int64 order = 1;
  double total = 2;
}
"""


@pytest.fixture
def generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`payment_pb2`, as protoc makes it."""
    (tmp_path / "payment.proto").write_text(PROTO)
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--python_out=.", "payment.proto"]
    subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield
    sys.modules.pop("payment_pb2", None)


@pytest.mark.usefixtures("generated")
def test_the_page_in_order(
    database: Database,
    kafka: KafkaCluster,
    relay: Callable[..., Relay],
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DSN", url(database))
    monkeypatch.setenv("BROKERS", kafka.brokers)
    monkeypatch.setenv("REGISTRY", "mock://")
    install = block(PAGE, 'cdc-outbox sql install --apply --dsn "$DSN" --payload-type bytea').text
    shell(install.partition("pip")[0], DSN=url(database))
    prefix = kafka.unique_topic_prefix()
    names: dict[str, Any] = {}
    for each in read(PAGE).blocks:
        if each.language == "python":
            text = each.text.replace('"outbox.event.', f'"{prefix}').replace('"rewards"', f'"{prefix}"')
            exec(compile(text, str(each), "exec", dont_inherit=True), names)

    done = relay("--until", "caught-up", "--topic", f"{prefix}{{aggregatetype}}", database=database, kafka=kafka)
    assert done.wait() == 0, done.stderr_text

    records = {record.topic.removeprefix(prefix): record for record in kafka.consume(f"^{prefix}.*", 3)}
    assert {name: (record.value or b"")[0] for name, record in records.items()} == dict.fromkeys(
        ("order", "payment", "shipment"), 0
    )
    registry = names["registry"]
    subjects = {f"{prefix}{name}-value" for name in records}
    assert set(registry.get_subjects()) == subjects
    for name, record in records.items():
        (version,) = registry.get_versions(f"{prefix}{name}-value")
        expected = registry.get_version(f"{prefix}{name}-value", version).schema_id
        assert int.from_bytes((record.value or b"")[1:5], "big") == expected
        assert [key for key, _ in record.headers] == ["id", "type"]
    assert decoded(names, records["payment"]).total == 99.5
    assert decoded(names, records["shipment"]) == {"order": 42}
    consumed(database, names)


def decoded(names: dict[str, Any], record: Any) -> Any:
    from confluent_kafka.schema_registry.json_schema import JSONDeserializer
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer

    registry = names["registry"]
    deserializer: Any = (
        ProtobufDeserializer(names["PaymentReceived"], schema_registry_client=registry)
        if record.topic.endswith("payment")
        else JSONDeserializer(None, schema_registry_client=registry)
    )
    return deserializer(record.value, SerializationContext(record.topic, MessageField.VALUE))


def consumed(database: Database, names: dict[str, Any]) -> None:
    """Run the page's consumer until its effect is there."""
    apply_consumer(database.dsn, pytest.fail)
    database.execute("CREATE TABLE accounts (id text, points int); INSERT INTO accounts VALUES ('42', 0)")
    stop = threading.Event()
    thread = threading.Thread(target=names["run"], args=[stop])
    thread.start()
    try:
        eventually(lambda: database.execute("SELECT points FROM accounts") == [(99,)], "the points", seconds=30)
    finally:
        stop.set()
        thread.join(30)


def test_a_payload_that_does_not_fit_is_refused_in_the_transaction(
    database: Database, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY", "mock://")
    install = block(PAGE, 'cdc-outbox sql install --apply --dsn "$DSN" --payload-type bytea').text
    shell(install.partition("pip")[0], DSN=url(database))
    names: dict[str, Any] = {}
    exec(block(PAGE, "# formats.py").text, names)

    with psycopg.connect(database.dsn) as connection:
        for payload in ({"order": "no number", "total": 1}, {"order": 42}):
            with pytest.raises((SerializationError, ValueError, TypeError)):
                names["outbox"].emit(
                    connection,
                    aggregate_type="order",
                    aggregate_id=1,
                    type="OrderPaid",
                    payload=payload,
                    encoder=names["order_paid"],
                )
    assert database.execute("SELECT count(*) FROM outbox") == [(0,)]
