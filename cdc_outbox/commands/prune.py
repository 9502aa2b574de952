"""Prune: delete rows of the outbox that are delivered and older than wanted, in small transactions.

In: an order (tables, slot, publication, age), a stop request. Out: `Pruned`: rows deleted and rows kept; CdcOutboxErrors.
Never: an undelivered row deleted. It takes a fence (`postgres.retention`), waits until the slot's confirmed flush LSN has
reached it, and deletes what is old and behind it. When the slot does not get there in time, nothing is deleted.
Never either: a lock that a writer waits for, or a transaction longer than one batch.

Rows that the relay was configured to skip (`--on-poison skip`, `--no-snapshot`, a slot created by hand) need not be
delivered; they are deleted like delivered ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from cdc_outbox.config.shards import with_siblings
from cdc_outbox.errors import ConnectionLost, Unreachable
from cdc_outbox.identifiers import TableName
from cdc_outbox.lsn import Lsn
from cdc_outbox.postgres import connect, partitions, publication, relayed_tables, retention, server
from cdc_outbox.shutdown import Stop, Stopped

POLL_SECONDS: Final = 0.1
"""Between two reads of the slot: the confirmed position follows delivery within 0.2 s."""

LOCK_SECONDS: Final = 5.0
"""How long a batch waits for a lock, such as a migration's. After that, the remaining rows are left to the next prune."""

DROP_TRIES: Final = 5
"""Attempts to lock a partition. A pause between them lets the sessions that wait behind this one proceed."""

DROP_PAUSE_SECONDS: Final = 2.0

BATCH_ROWS: Final = 1000
"""Rows of one transaction: about 10 ms, and no writer waits for it."""


@dataclass(frozen=True, slots=True)
class PruneOrder:
    """What to delete. Units: seconds."""

    dsn: str
    slot: str
    publication: str
    tables: tuple[TableName, ...]
    older_than: float
    """0: every row that is delivered."""
    age_column: str | None = None
    """None: the first of `table_rows.TIME_COLUMNS` that the table has."""
    batch: int = BATCH_ROWS
    wait: float = 60.0
    """How long the slot may take to reach the fence. An idle slot moves on every ten seconds."""
    dry_run: bool = False
    also: tuple[str, ...] = ()
    """More slots that must have confirmed a row. For a shard's slot, those of the other shards are included automatically."""
    partitions_ahead: int | None = None
    """For a table that is partitioned by time: number of future days to create partitions for. None: create none."""

    @property
    def slots(self) -> tuple[str, ...]:
        """All slots that must have confirmed a row before it is deleted: a shard's slot does not cover other shards' rows."""
        return tuple(dict.fromkeys(one for name in (self.slot, *self.also) for one in with_siblings(name)))


@dataclass(slots=True)
class Pruned:
    """The result so far. In a dry run: the rows that would be deleted."""

    rows: dict[TableName, int] = field(default_factory=dict)
    held: dict[TableName, int] = field(default_factory=dict)
    """Old rows that are kept: their transactions ended too late to know whether they are delivered."""

    dropped: list[TableName] = field(default_factory=list)
    """Dropped partitions; their rows are counted in `rows`."""
    made: list[TableName] = field(default_factory=list)
    """Created partitions of future days."""

    @property
    def total(self) -> int:
        """Rows of all tables."""
        return sum(self.rows.values())


class PruneProgress:
    """Receives the progress of a prune. This one ignores it."""

    def waiting(self, lsn: Lsn) -> None:
        """The slot has not confirmed `lsn` yet."""

    def begins(self, table: TableName, rows: int) -> None:
        """Estimated number of rows to delete from this table. Called only if `counts`."""

    def stepped(self, table: TableName, rows: int) -> None:
        """Number of rows that one step has deleted."""

    counts = False
    """Whether rows are counted before they are deleted: that reads them twice."""


def prune(
    order: PruneOrder,
    stop: Stop,
    progress: PruneProgress,
    *,
    delivered: Callable[[Lsn], bool] = lambda _lsn: True,
) -> Pruned:
    """Prune. `delivered`: the caller's own test of a position, in addition to the slot.

    Raises ConfigurationError (no slot, no age, not published), AccessRefused with the GRANT, Undelivered when the slot does not
    reach the fence in time, Unreachable, or Stopped: what is deleted by then stays deleted.
    """
    result = Pruned()
    with connect.open_connection(order.dsn, stop, lock_timeout=LOCK_SECONDS) as connection:
        server.require_primary(connection)
        found = _require_published(connection, order)
        everything = order.older_than == 0
        old_rows = [
            retention.find_old_rows(connection, table, order.age_column, all_are_old=everything) for table in found
        ]
        if order.partitions_ahead is not None and not order.dry_run:
            for table in found:
                if partitions.time_key(connection, table) is not None:
                    result.made += partitions.make_ahead(connection, table, order.partitions_ahead)
        checks = [retention.DeliveryCheck(connection, name) for name in order.slots]
        fence = retention.take_fence(connection, order.older_than)

        def until_delivered(lsn: Lsn) -> None:
            _wait(checks, lsn, order.wait, stop, progress, delivered)

        if not order.dry_run:
            until_delivered(fence.lsn)
            _require_published(connection, order)
        for old in old_rows:
            result.rows[old.table.name] = result.held[old.table.name] = 0
            if not order.dry_run:
                _drop_partitions(connection, old, fence, until_delivered, progress, result, stop)
            _prune_table(connection, old, fence, order, progress, result, stop)
    return result


def _require_published(connection: connect.Connection, order: PruneOrder) -> list[publication.Table]:
    """Find the tables. Raises ConfigurationError for one that is not published, or that the relay does not send: the slot does
    not cover its rows.
    """
    found = [publication.find_table(connection, name) for name in order.tables]
    published = publication.inspect(connection, order.publication)
    publication.require_published(published, order.publication, found, older_slot=True)
    for name in order.slots:
        relayed_tables.require_relayed(connection, name, found)
    return found


def _wait(
    checks: list[retention.DeliveryCheck],
    lsn: Lsn,
    seconds: float,
    stop: Stop,
    progress: PruneProgress,
    delivered: Callable[[Lsn], bool],
) -> None:
    rounds = max(1, round(seconds / POLL_SECONDS))
    behind = checks
    for turn in range(rounds + 1):
        behind = [check for check in checks if not check.has_confirmed(lsn)]
        if not behind and delivered(lsn):
            return
        if not turn:
            progress.waiting(lsn)
        if turn < rounds and stop.wait(POLL_SECONDS):
            raise Stopped
    raise (behind or checks)[0].undelivered(lsn, seconds)


def _drop_partitions(
    connection: connect.Connection,
    old: retention.OldRows,
    fence: retention.Fence,
    until_delivered: Callable[[Lsn], None],
    progress: PruneProgress,
    result: Pruned,
    stop: Stop,
) -> None:
    """Drop whole old partitions, if the table is partitioned by the column of the row's age."""
    if old.age_column is None or partitions.time_key(connection, old.table) != old.age_column:
        return
    names = partitions.old(connection, old.table, fence.cutoff)
    for turn in range(1, DROP_TRIES + 1) if names else ():
        try:
            for partition in partitions.drop(connection, names, until_delivered):
                result.dropped.append(partition.name)
                result.rows[old.table.name] += partition.rows
                progress.stepped(old.table.name, partition.rows)
            return
        except Unreachable as error:
            if turn == DROP_TRIES or isinstance(error, ConnectionLost):
                raise
        if stop.wait(DROP_PAUSE_SECONDS):
            raise Stopped


def _prune_table(
    connection: connect.Connection,
    old: retention.OldRows,
    fence: retention.Fence,
    order: PruneOrder,
    progress: PruneProgress,
    result: Pruned,
    stop: Stop,
) -> None:
    table = old.table.name
    if progress.counts and not order.dry_run:
        counted = retention.walk(connection, old, fence, order.batch, delete=False)
        progress.begins(table, sum(step.rows for step in counted))
    for step in retention.walk(connection, old, fence, order.batch, delete=not order.dry_run):
        result.rows[table] += step.rows
        result.held[table] += step.held
        progress.stepped(table, step.rows)
        if stop.requested:
            raise Stopped
