"""docs/how-to/recover-a-lost-slot.md, done as it says, to slots that were lost for real."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.docs.pages import block, read
from tests.plugins.waiting import eventually

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.plugins.kafka import KafkaCluster, Record
    from tests.plugins.postgres import Database, PostgresServer

    Shell = Callable[..., subprocess.CompletedProcess[str]]

PAGE: Final = "docs/how-to/recover-a-lost-slot.md"
RECOVER: Final = 'cdc-outbox slot recover --brokers "$BROKERS" --yes'
RECOVER_SINCE: Final = 'cdc-outbox slot recover --brokers "$BROKERS" --since 12h --yes'
BY_ITSELF: Final = 'cdc-outbox run --brokers "$BROKERS" --on-slot-lost recover'

CATCH_UP: Final = 'cdc-outbox run --brokers "$BROKERS" --until caught-up'

BLOCKS: Final = {each.first_line: each.text for each in read(PAGE).blocks}
RECOVER_IN_A_HURRY, RECOVER_AND_RUN = (each.text.strip() for each in read(PAGE).blocks if each.first_line == RECOVER)


class Shop:
    """A database with an outbox, its relay, its records."""

    def __init__(self, database: Database, kafka: KafkaCluster, shell: Shell) -> None:
        self.database = database
        self._kafka = kafka
        self._shell = shell
        self._prefix = kafka.unique_topic_prefix()
        self.type("cdc-outbox sql install --apply")

    def type(self, text: str, *, code: int = 0) -> subprocess.CompletedProcess[str]:
        topic = self._prefix + "{aggregatetype}"
        settings = {"CDC_OUTBOX_DSN": self.database.dsn, "BROKERS": self._kafka.brokers, "CDC_OUTBOX_TOPIC": topic}
        return self._shell(text, code=code, **settings)

    def emit(self) -> str:
        """One event, committed. Its id."""
        return str(self.database.execute("SELECT outbox_emit('order', '42', 'OrderPaid', '{}')")[0][0])

    def records(self) -> list[Record]:
        return self._kafka.consume(f"^{self._prefix}", 0)

    def ids(self) -> list[str]:
        return [(record.header("id") or b"").decode() for record in self.records()]

    def wal_status(self) -> str | None:
        found = self.database.execute("SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'cdc_outbox'")
        return str(found[0][0]) if found else None

    def lose_the_slot(self) -> None:
        """Write more WAL than the server keeps for a slot."""

        def lost() -> bool:
            self.database.execute("SELECT pg_logical_emit_message(false, 'elsewhere', repeat('x', 2000000))")
            self.database.execute("SELECT pg_switch_wal()")
            self.database.execute("CHECKPOINT")
            return self.wal_status() == "lost"

        eventually(lost, "the slot is lost")


@pytest.fixture
def shop(own_postgres: Callable[..., PostgresServer], kafka: KafkaCluster, shell: Shell) -> Shop:
    """On a server that keeps next to no WAL for a slot."""
    database = own_postgres(settings={"max_slot_wal_keep_size": "1MB"}).create_database()
    return Shop(database, kafka, shell)


def logged(done: subprocess.CompletedProcess[str], event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def masked(text: str) -> list[str]:
    """Numbers, positions and the database's name are another shop's."""
    text = re.sub(r"[0-9A-F]+/[0-9A-F]+", "LSN", text)
    return re.sub(r"\b(\d[\d,]*)(?= bytes)|(?<=database )\w+", "…", text).splitlines()


def test_a_slot_that_fell_too_far_behind_is_recovered_by_hand(shop: Shop) -> None:
    shop.type(CATCH_UP)
    delivered = shop.emit()
    shop.type(CATCH_UP)
    pending = shop.emit()
    shop.lose_the_slot()

    refused = shop.type(CATCH_UP, code=78)
    assert "slot cdc_outbox is lost: the server has removed WAL that it still needed" in refused.stderr
    status = masked(shop.type("cdc-outbox slot status", code=78).stdout)
    for line in masked(BLOCKS["slot            cdc_outbox"]):
        assert any(said.startswith(line) for said in status), (line, status)
    ((count, complete_since),) = shop.database.execute(
        BLOCKS["SELECT count(*) AS rows_to_send, min(created_at) AS complete_since FROM outbox;"]
    )
    assert (count, complete_since) == shop.database.execute("SELECT 2, created_at FROM outbox ORDER BY seq LIMIT 1")[0]

    done = shop.type(f"{RECOVER_AND_RUN} --until caught-up")

    assert [line["rows"] for line in logged(done, "snapshot.started")] == [2]
    assert len(logged(done, "slot.created")) == 1
    assert shop.ids() == [delivered, delivered, pending]
    later = shop.emit()
    shop.type(CATCH_UP)
    assert shop.ids() == [delivered, delivered, pending, later]
    assert shop.wal_status() == "reserved"


@pytest.mark.nightly
def test_a_row_that_was_deleted_before_it_was_delivered_is_all_that_is_lost(shop: Shop) -> None:
    shop.type(CATCH_UP)
    delivered, pruned, kept = shop.emit(), None, None
    shop.type(CATCH_UP)
    pruned, kept = shop.emit(), shop.emit()
    shop.lose_the_slot()
    shop.database.execute("DELETE FROM outbox WHERE id IN (%s, %s)", [delivered, pruned])

    shop.type(RECOVER_IN_A_HURRY)

    assert shop.ids() == [delivered, kept]


@pytest.mark.nightly
def test_with_since_older_rows_are_left_out(shop: Shop) -> None:
    shop.emit()
    recent = shop.emit()
    shop.database.execute("UPDATE outbox SET created_at = now() - interval '13 hours' WHERE id <> %s", [recent])

    done = shop.type(BLOCKS[RECOVER_SINCE])

    assert shop.ids() == [recent]
    assert "public.outbox: 1 rows are sent, 1 are older" in done.stderr


@pytest.mark.nightly
def test_with_on_slot_lost_recover_the_relay_recovers_by_itself(shop: Shop) -> None:
    shop.type(CATCH_UP)
    pending = shop.emit()
    shop.lose_the_slot()

    shop.type(f"{BLOCKS[BY_ITSELF].strip()} --until caught-up")

    assert shop.ids() == [pending]
    assert shop.wal_status() == "reserved"


@pytest.mark.nightly
def test_the_records_timestamp_is_the_recoverys_unless_a_column_gives_it(shop: Shop) -> None:
    shop.emit()
    (written,) = shop.database.execute("SELECT floor(extract(epoch FROM created_at) * 1000)::bigint FROM outbox")[0]

    shop.type(f"sleep 0.1; {RECOVER_IN_A_HURRY}")
    shop.type(f"{RECOVER_IN_A_HURRY} --timestamp-column created_at")

    by_default, by_column = (record.timestamp for record in shop.records())
    assert by_default > written
    assert by_column == written


@pytest.mark.nightly
def test_a_gap_of_the_publication_is_closed_by_hand_only(database: Database, kafka: KafkaCluster, shell: Shell) -> None:
    shop = Shop(database, kafka, shell)
    shop.type(CATCH_UP)
    database.execute("DROP PUBLICATION cdc_outbox")
    skipped = shop.emit()
    shop.type("cdc-outbox sql install --apply")
    behind_it = shop.emit()

    stopped = shop.type(f"{BLOCKS[BY_ITSELF].strip()} --until caught-up", code=78)
    assert "the publication was missing while rows were written" in stopped.stderr
    assert shop.ids() == []

    shop.type(f"{RECOVER_AND_RUN} --until caught-up")
    assert shop.ids() == [skipped, behind_it]


def test_its_other_queries_run_and_find_an_unused_slot(database: Database) -> None:
    database.execute("SELECT pg_create_logical_replication_slot('forgotten', 'pgoutput')")

    watch = block(
        PAGE,
        "SELECT slot_name, wal_status, safe_wal_size FROM pg_replication_slots WHERE wal_status <> 'reserved' OR NOT active;",
    )
    assert "forgotten" in [row[0] for row in database.execute(watch.text)]
    (rate,) = database.execute(next(text for line, text in BLOCKS.items() if "wal_an_hour" in line))[0]
    assert re.fullmatch(r"\d+ (bytes|kB|MB|GB|TB)", rate)
