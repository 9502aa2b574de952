"""A first start is alive while PostgreSQL takes its time: to sort many rows, or to wait for a lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import cast

from cdc_outbox.config.settings import Settings
from cdc_outbox.identifiers import TableName
from cdc_outbox.observe.health import liveness, passed
from cdc_outbox.postgres.replication import ReplicationSession
from cdc_outbox.postgres.table_rows import Cells, SnapshotRows, TableShape
from cdc_outbox.records.mapping import Mappings
from cdc_outbox.relay.snapshot import FirstStart
from tests.plugins.scripted import Rig

UUID, TEXT, JSON = 2950, 25, 114
COLUMNS = (("id", UUID), ("aggregatetype", TEXT), ("aggregateid", TEXT), ("type", TEXT), ("payload", JSON))
ROW: Cells = [b"6f1c0a52-6f0e-4b57-9d0e-0a4f3c0f2f11", b"order", b"1", b"Placed", b"{}"]
SETTINGS = Settings(brokers="b")


class SlowSnapshot:
    """Each portion of rows is a minute in coming; whether the relay looked alive at its end."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.alive: list[bool] = []

    def count(self, _table: TableName, _where: object) -> int:
        return 3

    def shape(self, table: TableName) -> TableShape:
        return TableShape(table, 16384, COLUMNS)

    def first_kept(self, _shape: TableShape) -> None:
        return None

    def read(self, _shape: TableShape, _order: Sequence[str], *, where: object) -> Iterator[Sequence[Cells]]:  # noqa: ARG002
        for _ in range(3):
            self._rig.clock.now += 60
            self.alive.append(passed(liveness(self._rig.counters, self._rig.clock.now)))
            yield [ROW]


def test_rows_that_are_long_in_coming_are_no_loop_that_has_stuck() -> None:
    rig = Rig()
    first = FirstStart(
        SETTINGS,
        cast("ReplicationSession", SimpleNamespace(connection=SimpleNamespace(require_alive=lambda: None))),
        rig.publisher,
        Mappings(SETTINGS),
        rig.policy,
        rig.counters,
        rig.stop,
    )
    snapshot = SlowSnapshot(rig)
    with rig.time_is_ours():
        first._send_tables(cast("SnapshotRows", snapshot), None)

    assert snapshot.alive == [True, True, True]
    assert len(rig.ids) == 3
